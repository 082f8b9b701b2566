"""``python -m ropeexport.bench.prepare KIND``: make one file of a run, in a process of its own.

Prints the seconds that the work itself took as JSON, imports left out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ropeexport import manifest
from ropeexport.bench.contenders import INLINED, OPTIMISED, OPTIMUM, PLAIN, WITHOUT_ROPE
from ropeexport.errors import MissingError, RopeExportError
from ropeexport.models import sources
from ropeexport.onnx_files import onnx_file


def main(kind: str, folder: Path, prepared: Path, module: str | None) -> float:
    """Write the file and return how long that took."""
    record = manifest.read(folder)
    target = prepared / kind
    if kind == INLINED:
        import onnx.inliner

        model = onnx_file.load(folder / record.model.file)
        start = time.perf_counter()
        onnx.save(onnx.inliner.inline_local_functions(model), target, save_as_external_data=True)
        return time.perf_counter() - start
    if kind == OPTIMISED:
        from onnxruntime.transformers.optimizer import optimize_model

        start = time.perf_counter()
        optimised = optimize_model(str(prepared / PLAIN), model_type="bert", opt_level=0)
        optimised.save_model_to_file(str(target), use_external_data_format=True)
        return time.perf_counter() - start
    from ropeexport.bench.plain import export_plain, export_without_rope

    example = sources.rebuild_example(record, folder, module)
    start = time.perf_counter()
    if kind == OPTIMUM:
        from ropeexport.bench.optimum import export_with_optimum

        export_with_optimum(example.module, target)
        return time.perf_counter() - start
    {PLAIN: export_plain, WITHOUT_ROPE: export_without_rope}[kind](example, target)
    return time.perf_counter() - start


if __name__ == "__main__":
    said, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not break the answer
    try:
        seconds = main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] or None)
        answer: dict[str, object] = {"seconds": seconds}
    except RopeExportError as error:
        answer = {"error": str(error), "missing": isinstance(error, MissingError)}
    except Exception as error:  # a peer's own failure is a line of the table, not ours
        answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    said.write(json.dumps(answer) + "\n")
