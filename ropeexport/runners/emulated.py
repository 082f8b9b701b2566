"""EMULATED: bfloat16 in float32 arithmetic with the graph's own roundings, in onnxruntime.

It is for machines whose onnxruntime has no bfloat16 kernels, and is never a runtime's own PASS.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ropeexport.dtypes import FOREIGN, FloatType
from ropeexport.errors import MissingError
from ropeexport.onnx_files.onnx_file import OnnxFile, weight_bytes
from ropeexport.onnx_files.retype import float32_twin, has_foreign
from ropeexport.onnx_files.specs import output_specs
from ropeexport.onnx_files.variants import whole_message
from ropeexport.packages import require
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.registry import CPU, Opening
from ropeexport.runners.runner import Facts, Runner

_LIMIT_BYTES = 1 << 30  # weights double in float32, and a serialized model ends at 2 GiB


_HOW = "EMULATED: float32 rounded to bfloat16 between operators"


def opened(opening: Opening) -> EmulatedRunner:
    """Return a runner as a stage wants it, see :mod:`ropeexport.runners.registry`."""
    assert isinstance(opening.model, OnnxFile)
    return EmulatedRunner(opening.model)


class EmulatedRunner(Runner):
    """Runs the float32 twin of a bfloat16 ONNX file.

    Parameters
    ----------
    file : OnnxFile
        The ONNX file.
    """

    def __init__(self, file: OnnxFile) -> None:
        self._file = file
        self._runner: OrtRunner | None = None
        self._outputs: dict[str, FloatType] = {}
        self.facts = Facts(implementation=(_HOW,), emulated=True)

    def __enter__(self) -> Self:
        require("onnxruntime")
        model, path = self._file.graph, self._file.path
        size = weight_bytes(model)
        if size > _LIMIT_BYTES:  # before anything of it is read
            raise MissingError(f"{path}: too large to emulate in memory ({size >> 20} MiB)")
        if not has_foreign(model):
            raise MissingError(f"{path}: no bfloat16 to emulate")
        kinds = {spec.name: FOREIGN.get(spec.dtype) for spec in output_specs(model)}
        self._outputs = {name: kind for name, kind in kinds.items() if kind is not None}
        twin = whole_message(float32_twin(self._file.whole)).SerializeToString()
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

    def close(self) -> None:
        """Let the model go."""
        self._runner = None

    def call(self, loaded: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run it once."""
        if self._runner is None:
            raise MissingError(f"{self._file.path}: enter the runner before running it")
        results = self._runner.run({name: _widened(x) for name, x in loaded.items()})
        return {
            name: x.astype(self._outputs[name].numpy) if name in self._outputs else x
            for name, x in results.items()
        }


def _widened(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array.astype(np.float32) if str(array.dtype) in FOREIGN else array
