"""One export of a folder of transformers in a process of its own.  Prints the seconds of its steps.

``plain FOLDER`` is what a user writes with ``torch.onnx.export``; ``ours FOLDER`` is what
``ropeexport export`` does, its steps timed from within.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

# by step: what is timed, where the step before it looks it up
_STEPS = {
    "trace": ("ropeexport.exporting.exporter", "trace"),
    "is the module a function": ("ropeexport.exporting.exporter", "check_repeats"),
    "traced against eager": ("ropeexport.exporting.exporter", "check_traced"),
    "rewritten regions": ("ropeexport.fusion.fuse", "compare_regions"),
    "the whole graph": ("ropeexport.exporting.model_writer", "with_whole"),
}
PROOF = tuple(name for name in _STEPS if name != "trace")


def plain(folder: Path) -> dict[str, float]:
    """Export with dynamic batch and length, weights beside the file."""
    start = time.perf_counter()
    import torch
    from transformers import AutoModel

    imported = time.perf_counter()
    module = AutoModel.from_pretrained(folder).eval()
    tokens = torch.zeros(2, 12, dtype=torch.int64)
    positions = torch.arange(12).expand(2, 12)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        module,
        kwargs={"input_ids": tokens, "position_ids": positions, "use_cache": False},
        dynamic_shapes={"input_ids": axes, "position_ids": axes, "use_cache": None},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # only the old exporter returns None
    program.save(folder / "plain.onnx", external_data=True)
    return {"imports": imported - start, "export": time.perf_counter() - imported}


def ours(folder: Path) -> dict[str, float]:
    """Export as the command does."""
    start = time.perf_counter()
    import ropeexport

    seconds = defaultdict[str, float](float)
    for module, _ in _STEPS.values():
        import_module(module)
    import transformers.models.llama.modeling_llama  # noqa: F401

    imported = time.perf_counter()
    with ExitStack() as stack:
        for name, place in _STEPS.items():
            stack.enter_context(_timed(name, *place, seconds))
        ropeexport.export(f"transformers:{folder}", out=folder, force=True)
    return {"imports": imported - start, "export": time.perf_counter() - imported, **seconds}


@contextmanager
def _timed(step: str, module: str, name: str, seconds: dict[str, float]) -> Iterator[None]:
    function = getattr(import_module(module), name)

    def run(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds[step] += time.perf_counter() - start

    with mock.patch(f"{module}.{name}", run):
        yield


if __name__ == "__main__":
    print(json.dumps({"plain": plain, "ours": ours}[sys.argv[1]](Path(sys.argv[2]))))
