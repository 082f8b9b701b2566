"""One runner a runtime: entered as a context manager, a dict of arrays in, a dict of arrays out."""

from __future__ import annotations

from collections.abc import Mapping
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
