"""ropeexport: torch attention with rotary position embedding, to ONNX and TensorRT, with parity.

The public names load on first use: ``import ropeexport`` brings in neither torch nor a runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ropeexport.api import export
    from ropeexport.manifest import Axis
    from ropeexport.models.example import Example
    from ropeexport.modules import attention
    from ropeexport.op import apply_rope, rope
    from ropeexport.parity.check import check
    from ropeexport.trt.build import build

__version__ = "0.1.0"

_HOMES = {
    "Axis": "ropeexport.manifest",
    "Example": "ropeexport.models.example",
    "build": "ropeexport.trt.build",
    "check": "ropeexport.parity.check",
    "attention": "ropeexport.modules",
    "apply_rope": "ropeexport.op",
    "export": "ropeexport.api",
    "rope": "ropeexport.op",
}

__all__ = [
    "Axis",
    "Example",
    "__version__",
    "apply_rope",
    "attention",
    "build",
    "check",
    "export",
    "rope",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ropeexport' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
