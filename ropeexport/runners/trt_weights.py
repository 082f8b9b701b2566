"""The weights of a loaded TensorRT engine: put in by name, all of them or none, and bounded.

Source of the call sequence: TensorRT's Python API reference (Refitter, ICudaEngine) and its
chapters on refitting and on weight streaming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ropeexport.dtypes import float_type
from ropeexport.errors import EngineError
from ropeexport.manifest import EngineRecord
from ropeexport.runners.runner import Array
from ropeexport.trt import preflight


def no_weight(name: str) -> Array:
    """Return the values of a weight where none are known."""
    raise KeyError(name)


class EngineWeights:
    """The weights of an engine that was deserialized.

    Parameters
    ----------
    trt : module
        The flavour.
    engine, logger
        TensorRT's.
    record : EngineRecord
        What the engine is.
    weight : callable
        Returns the values that a weight is to have by now, by its name.
    error : callable
        Returns the error of a text, with what TensorRT said.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        logger: Any,
        record: EngineRecord,
        weight: Callable[[str], Array],
        error: Callable[[str], EngineError],
    ) -> None:
        self._trt = trt
        self._engine = engine
        self._logger = logger
        self._record = record
        self._weight = weight
        self._error = error
        self.is_mixed = False  # whether an exchange failed half-way

    def check(self, names: Iterable[str]) -> None:
        """Raise :class:`UsageError` for the first name that cannot be exchanged, with why."""
        preflight.check_refits(self._record, names)

    def put(self, names: Iterable[str]) -> None:
        """Put the values that weights are to have into the engine.

        Raises
        ------
        EngineError
            Where TensorRT takes them not; nothing was exchanged then, or ``is_mixed`` says so.
        """
        import torch

        try:
            refitter = self._trt.Refitter(self._engine, self._logger)
        except TypeError as error:  # the bindings' word for none
            raise self._error("its weights cannot be exchanged") from error
        kept = [self._give(refitter, name) for name in names]
        # what TensorRT has joined with one of these has to be given with it
        kept += [self._give(refitter, name) for name in refitter.get_missing_weights()]
        torch.cuda.synchronize()  # nothing that runs may be under way
        if not refitter.refit_cuda_engine():
            self.is_mixed = True
            raise self._error("exchanging weights failed half-way; load it again")
        del kept  # which the refitter has read by now

    def bound(self, budget: int) -> None:
        """Bound the GPU's memory for weights, in bytes; what would hold them all is no bound."""
        wanted = min(budget, self._engine.streamable_weights_size)
        self._engine.weight_streaming_budget_v2 = wanted
        if self._engine.weight_streaming_budget_v2 != wanted:
            raise self._error(f"memory_budget: {budget} bytes were refused")

    def _give(self, refitter: Any, name: str) -> Array:
        """Give a weight to a refitter, and return its values, which must outlive that."""
        if name not in self._record.refits:
            raise self._error(f"{name or 'a weight without a name'}: needed too, and not known")
        values = np.ascontiguousarray(self._weight(name))
        kind = getattr(self._trt.DataType, float_type(str(values.dtype)).tensorrt)
        weights = self._trt.Weights(kind, values.ctypes.data, values.size)
        if not refitter.set_named_weights(name, weights):
            raise self._error(f"{name}: refused")
        return values
