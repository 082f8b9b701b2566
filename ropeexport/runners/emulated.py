"""EMULATED: bfloat16 in float32 arithmetic with the graph's own roundings, in onnxruntime.

It is for machines whose onnxruntime has no bfloat16 kernels, and is never a runtime's own PASS.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import MissingError
from ropeexport.onnx_files import onnx_file
from ropeexport.onnx_files.onnx_retype import float32_twin, has_bfloat16
from ropeexport.packages import require
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.registry import CPU, Opening
from ropeexport.runners.runner import Facts, Runner

_LIMIT_BYTES = 1 << 30  # weights double in float32, and a serialized model ends at 2 GiB


_HOW = "EMULATED: float32 rounded to bfloat16 between operators"


def opened(opening: Opening) -> EmulatedRunner:
    """Return a runner as a stage wants it, see :mod:`ropeexport.runners.registry`."""
    assert isinstance(opening.model, Path)
    return EmulatedRunner(opening.model)


class EmulatedRunner(Runner):
    """Runs the float32 twin of a bfloat16 ONNX file.

    Parameters
    ----------
    path : Path
        The ONNX file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runner: OrtRunner | None = None
        self._outputs: frozenset[str] = frozenset()
        self.facts = Facts(implementation=(_HOW,), emulated=True)

    def __enter__(self) -> Self:
        require("onnxruntime")
        size = onnx_file.weight_bytes(onnx_file.load(self._path, external_data=False))
        if size > _LIMIT_BYTES:  # before anything of it is read
            raise MissingError(f"{self._path}: too large to emulate in memory ({size >> 20} MiB)")
        model = onnx_file.load(self._path)
        if not has_bfloat16(model):
            raise MissingError(f"{self._path}: no bfloat16 to emulate")
        specs = onnx_file.output_specs(model)
        self._outputs = frozenset(spec.name for spec in specs if spec.dtype == "bfloat16")
        twin = float32_twin(model).SerializeToString()
        self._runner = OrtRunner(twin, provider=CPU).__enter__()
        ran = self._runner.facts
        self.facts = replace(
            ran,
            version=f"onnxruntime {ran.version}",
            implementation=(_HOW,),
            precision=("float32",),
            emulated=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner = None

    def call(self, loaded: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run it once."""
        if self._runner is None:
            raise MissingError(f"{self._path}: enter the runner before running it")
        results = self._runner.run({name: _widened(x) for name, x in loaded.items()})
        return {
            name: x.astype(ml_dtypes.bfloat16) if name in self._outputs else x
            for name, x in results.items()
        }


def _widened(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
