"""Which ONNX opsets an export can be written at."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir
import onnxscript
import onnxscript.version_converter
import torch

from ropeexport.errors import UsageError
from ropeexport.ops import names


def check_opset(opset: int) -> None:
    """Raise :class:`UsageError` unless torch's exporter can write an opset that the ops need."""
    if opset == names.MIN_OPSET:
        return
    if not names.MIN_OPSET < opset <= newest_opset():
        raise UsageError(
            f"opset: expected {names.MIN_OPSET} (the first with Attention and RotaryEmbedding) to "
            f"{newest_opset()} (the newest that torch {torch.__version__} writes with onnxscript "
            f"{onnxscript.__version__} and onnx {onnx.__version__}), got {opset}"
        )


@cache
def newest_opset() -> int:
    """Return the newest opset that torch's exporter writes.

    It lowers to an older one and leaves the rest to onnxscript's version converter, whose range
    is no public constant and ends before onnx's; so the converter is asked.
    """
    known = range(onnx.defs.onnx_opset_version(), names.MIN_OPSET, -1)
    return next((opset for opset in known if _is_reached(opset)), names.MIN_OPSET)


def _is_reached(opset: int) -> bool:
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": names.MIN_OPSET}), ir_version=10)
    try:
        onnxscript.version_converter.convert_version(model, target_version=opset)
    except Exception:  # whatever it raises for what it does not know, an export would meet too
        return False
    return bool(model.opset_imports.get("") == opset)
