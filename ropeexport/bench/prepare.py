"""Make one file of a run, in a process of its own: the seconds are the work's, not of imports."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ropeexport.artifact import Artifact
from ropeexport.bench.contenders.contender import INLINED, OPTIMISED, OPTIMUM, PLAIN, WITHOUT_ROPE
from ropeexport.bench.messages import Made, MakeFile
from ropeexport.child_process import Channel, serve
from ropeexport.manifest import ENGINE_NAME
from ropeexport.models.held import Held


def make_file(order: MakeFile, _: Channel) -> Made:
    """Write the file of an order; return how long that took, and what made it where that counts."""
    kind, folder, prepared = order.kind, order.folder, order.prepared
    makers = {INLINED: _inlined, OPTIMISED: _optimised}
    if kind.endswith(ENGINE_NAME):
        from ropeexport.bench.engines import build_engine

        return build_engine(Artifact.read(folder), prepared, kind, order.sizes)
    if kind in makers:
        return Made(seconds=makers[kind](folder, prepared / kind))
    return Made(seconds=_exported(kind, folder, prepared / kind, order.module))


def _inlined(folder: Path, target: Path) -> float:
    import onnx_ir as ir

    from ropeexport.onnx_files.variants import inlined, with_body

    loaded = Artifact.read(folder).file.whole
    start = time.perf_counter()
    ir.save(inlined(with_body(loaded, "general")), target, external_data=f"{target.name}.data")
    return time.perf_counter() - start


def _optimised(_: Path, target: Path) -> float:
    from onnxruntime.transformers.optimizer import optimize_model

    start = time.perf_counter()
    optimised = optimize_model(str(target.with_name(PLAIN)), model_type="bert", opt_level=0)
    optimised.save_model_to_file(str(target), use_external_data_format=True)
    return time.perf_counter() - start


def _exported(kind: str, folder: Path, target: Path, module: str | Held | None) -> float:
    from ropeexport.bench.optimum import export_with_optimum
    from ropeexport.bench.plain import export_plain, export_without_rope
    from ropeexport.models import sources

    makers: dict[str, Callable[[Any, Path], None]] = {
        OPTIMUM: lambda example, path: export_with_optimum(example.module, path),
        PLAIN: export_plain,
        WITHOUT_ROPE: export_without_rope,
    }
    example = sources.rebuild_example(Artifact.read(folder), module)
    start = time.perf_counter()
    makers[kind](example, target)
    return time.perf_counter() - start


if __name__ == "__main__":
    serve({MakeFile: make_file})
