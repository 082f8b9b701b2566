"""ropeexport: torch attention with rotary position embedding, to ONNX and TensorRT, with parity.

The public names load on first use: ``import ropeexport`` brings in neither torch nor a runtime.
With torch it registers its torch ops, so that ``torch.export.load`` knows those of a saved program.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ropeexport.registration import register

if TYPE_CHECKING:  # as _PUBLIC has them, which a test holds to
    from ropeexport.api.making import Export as Export
    from ropeexport.api.making import Fusion as Fusion
    from ropeexport.api.making import build as build
    from ropeexport.api.making import export as export
    from ropeexport.api.making import fuse as fuse
    from ropeexport.api.proving import bench as bench
    from ropeexport.api.proving import check as check
    from ropeexport.api.proving import doctor as doctor
    from ropeexport.api.proving import inspect as inspect
    from ropeexport.api.proving import lint as lint
    from ropeexport.api.proving import locate as locate
    from ropeexport.api.proving import report as report
    from ropeexport.api.running import load as load
    from ropeexport.api.trusting import sign as sign
    from ropeexport.api.trusting import verify as verify
    from ropeexport.bench.records import Bench as Bench
    from ropeexport.doctor import Diagnosis as Diagnosis
    from ropeexport.errors import AxisRangeError as AxisRangeError
    from ropeexport.errors import BuildError as BuildError
    from ropeexport.errors import EngineError as EngineError
    from ropeexport.errors import ExportError as ExportError
    from ropeexport.errors import LockedError as LockedError
    from ropeexport.errors import ManifestError as ManifestError
    from ropeexport.errors import MissingError as MissingError
    from ropeexport.errors import ModelFileError as ModelFileError
    from ropeexport.errors import NotComparableError as NotComparableError
    from ropeexport.errors import ParityError as ParityError
    from ropeexport.errors import PluginError as PluginError
    from ropeexport.errors import RopeExportError as RopeExportError
    from ropeexport.errors import UntrustedError as UntrustedError
    from ropeexport.errors import UsageError as UsageError
    from ropeexport.inference.loaded import LoadedModel as LoadedModel
    from ropeexport.lint.lint import Lint as Lint
    from ropeexport.lint.rule import Finding as Finding
    from ropeexport.manifest import Axis as Axis
    from ropeexport.manifest import EngineRecord as EngineRecord
    from ropeexport.manifest import Manifest as Manifest
    from ropeexport.models.example import Example as Example
    from ropeexport.modules import attention as attention
    from ropeexport.onnx_files.inspection import Inspection as Inspection
    from ropeexport.ops.apply_rope_torch import apply_rope as apply_rope
    from ropeexport.ops.norm_rope_torch import norm_rope as norm_rope
    from ropeexport.ops.rope_table_torch import rope as rope
    from ropeexport.parity.records import Report as Report
    from ropeexport.trust.verification import Signature as Signature
    from ropeexport.trust.verification import Verification as Verification

__version__ = "0.1.0"

# onnxruntime 1.29 and later reports each session to its maker, unless this is set before it loads
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
if "onnxruntime" in sys.modules:
    sys.modules["onnxruntime"].disable_telemetry_events()

# every public name, once, by the module that has it
_PUBLIC = {
    "ropeexport.api.making": "Export Fusion build export fuse",
    "ropeexport.api.proving": "bench check doctor inspect lint locate report",
    "ropeexport.api.running": "load",
    "ropeexport.api.trusting": "sign verify",
    "ropeexport.bench.records": "Bench",
    "ropeexport.doctor": "Diagnosis",
    "ropeexport.errors": "AxisRangeError BuildError EngineError ExportError LockedError "
    "ManifestError MissingError ModelFileError NotComparableError ParityError PluginError "
    "RopeExportError UntrustedError UsageError",
    "ropeexport.inference.loaded": "LoadedModel",
    "ropeexport.lint.lint": "Lint",
    "ropeexport.lint.rule": "Finding",
    "ropeexport.manifest": "Axis EngineRecord Manifest",
    "ropeexport.models.example": "Example",
    "ropeexport.modules": "attention",
    "ropeexport.onnx_files.inspection": "Inspection",
    "ropeexport.ops.apply_rope_torch": "apply_rope",
    "ropeexport.ops.norm_rope_torch": "norm_rope",
    "ropeexport.ops.rope_table_torch": "rope",
    "ropeexport.parity.records": "Report",
    "ropeexport.trust.verification": "Signature Verification",
}
_HOMES = {name: home for home, names in _PUBLIC.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604  (names, all of them)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ropeexport' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """The package, whose public names stay what they are.

    An import of ``ropeexport.lint.rule`` binds the folder ``lint`` here, in the verb's place.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return import_module, (self.__name__,)  # code of a caller's that names it can be pickled


sys.modules[__name__].__class__ = _Package

register()
