"""ONNX Runtime's own operators for the float64 oracle."""
from __future__ import annotations
OPS: tuple[type, ...] = ()
