"""One runner a runtime: entered as a context manager, a dict of arrays in, a dict of arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


class Runner(Protocol):
    """A runtime that holds a model.

    Entering loads the model.  It raises :class:`ropeexport.errors.MissingError` where this machine
    lacks what the runtime needs, which a parity run reports as SKIPPED with the message.
    """

    name: str  # "eager", "onnxruntime", "tensorrt"
    implementation: str  # what computed the rope: "eager", "function body", "plugin", ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run the model once; bfloat16 arrays are of ``ml_dtypes.bfloat16``."""
        ...


def same_bits(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    """Say whether two arrays are the same in type, shape and every bit: NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.size == 0:
        return True
    mine, theirs = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (one, other))
    return bool(np.array_equal(mine, theirs))


class ReferenceRunner(Runner, Protocol):
    """What the others are held to, and is therefore run again: eager, or an ONNX file."""

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, NDArray[np.generic]]]:
        """Run the model once for each of some inputs, nothing put back in between."""
        ...

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        ...
