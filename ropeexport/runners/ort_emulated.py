"""bfloat16 in float32 arithmetic with the graph's own roundings, in onnxruntime.

It is for machines whose onnxruntime has no bfloat16 kernels, and is never a runtime's own PASS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ropeexport.dtypes import FOREIGN, FloatType
from ropeexport.errors import (
    MissingError,
)
from ropeexport.machine import require
from ropeexport.manifest import CacheRecord, TensorSpec
from ropeexport.onnx_files.contract import output_specs
from ropeexport.onnx_files.onnx_file import OnnxFile, weight_bytes
from ropeexport.onnx_files.variants import (
    float32_twin,
    has_foreign,
    whole_message,
)
from ropeexport.runners.kept_cache import KeptCache
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.registry import CPU, Opening
from ropeexport.runners.runner import Array, Arrays, Facts, Runner

if TYPE_CHECKING:
    pass

_LIMIT_BYTES = 1 << 30  # weights double in float32, and a serialized model ends at 2 GiB
_HOW = "EMULATED: float32 rounded to bfloat16 between operators"


def opened_emulated(opening: Opening) -> EmulatedRunner:
    """Return a runner as a stage wants it, see :mod:`ropeexport.runners.registry`."""
    assert isinstance(opening.model, OnnxFile)
    return EmulatedRunner(opening.model)


class EmulatedRunner(OrtRunner):
    """Runs the float32 twin of a bfloat16 ONNX file.

    Parameters
    ----------
    file : OnnxFile
        The ONNX file.
    """

    facts = Facts(implementation=(_HOW,), precision=("float32",), emulated=True)

    def __init__(self, file: OnnxFile) -> None:
        super().__init__(file, provider=CPU)
        self._file = file
        self._narrow: dict[str, FloatType] = {}  # outputs

    def update(self, weights: Arrays) -> None:
        """Refuse: the twin's weights are the file's in another type."""
        raise MissingError(
            "the emulation of bfloat16 does not exchange weights; run on a GPU", code="RX507"
        )

    def __enter__(self) -> Self:
        require("onnxruntime")
        model, path = self._file.graph, self._file.path
        size = weight_bytes(model)
        if size > _LIMIT_BYTES:  # before anything of it is read
            raise MissingError(
                f"{path}: too large to emulate in memory ({size >> 20} MiB)", code="RX512"
            )
        if not has_foreign(model):
            raise MissingError(f"{path}: no bfloat16 to emulate", code="RX513")
        foreign = (spec for spec in output_specs(model) if spec.dtype in FOREIGN)
        self._narrow = {spec.name: FOREIGN[spec.dtype] for spec in foreign}
        self._model = whole_message(float32_twin(self._file.whole)).SerializeToString()
        super().__enter__()
        self.facts = replace(self.facts, version=f"onnxruntime {self.facts.version}")
        return self

    def run(self, inputs: Arrays, out: Arrays | None = None) -> dict[str, Array]:
        """Run the twin once, whose outputs have other types than a caller's arrays."""
        return Runner.run(self, inputs, out)

    def kept_cache(self, cache: CacheRecord, pasts: Sequence[TensorSpec], batch: int) -> KeptCache:
        """Return an empty cache in the file's types, which are not the session's."""
        return KeptCache(self, cache, pasts, batch)

    def load(self, inputs: Arrays) -> Any:
        """Return the inputs in the twin's types."""
        if self._session is None:
            raise MissingError(
                f"{self._file.path}: enter the runner before running it", code="RX515"
            )
        foreign = {name: x for name, x in inputs.items() if str(x.dtype) in FOREIGN}
        wide = {name: x.astype(np.float32) for name, x in foreign.items()}
        return super().load({**inputs, **wide})

    def read(self, results: Any) -> dict[str, Array]:
        """Return the outputs in the file's types."""
        wide = super().read(results)
        return wide | {name: wide[name].astype(kind.numpy) for name, kind in self._narrow.items()}
