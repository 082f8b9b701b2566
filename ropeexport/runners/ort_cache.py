"""A decoder's cache in the memory of an onnxruntime session, bound from step to step.

One that grows is handed on as onnxruntime made it: what a step returns is bound as the past of the
next.  One of a fixed capacity is one memory for each pair of past and present, bound once as both:
``TensorScatter`` then writes the new tokens into it, and copies nothing.

Source: onnxruntime's Python API reference (``IOBinding``, ``OrtValue``), and its CPU kernel of
``TensorScatter``, which copies where past and present have two addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropeexport.dtypes import numpy_type
from ropeexport.manifest import CacheRecord, TensorSpec
from ropeexport.runners.kept_cache import KeptCache, empty_shape
from ropeexport.runners.ort_memory import Memory, Place, array_of, zeros
from ropeexport.runners.runner import Array, Arrays

Run = Callable[[Any], None]  # runs the session on a binding of it


def bound_cache(
    session: Any,
    run: Run,
    cache: CacheRecord,
    pasts: Sequence[TensorSpec],
    batch: int,
    place: Place = ("cpu", 0),
) -> KeptCache:
    """Return an empty cache for a batch of texts.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        On the CPU, or on a GPU of NVIDIA's.
    run : callable
        Runs the session on a binding of it, and gives its errors their names.
    cache : CacheRecord
        Which inputs and outputs are the cache's.
    pasts : sequence of TensorSpec
        Of those inputs.
    batch : int
        How many texts.
    place : tuple of str and int
        Where the session computes, as onnxruntime calls it.
    """
    kind = _FixedCache if cache.form == "fixed" else _GrowingCache
    return kind(session, run, cache, [_Empty.of(spec, batch, place) for spec in pasts], place)


@dataclass(frozen=True)
class _Empty:
    """The cache of a layer's keys or values without a token."""

    name: str
    dtype: np.dtype[np.generic]
    value: Any  # an OrtValue of its bits
    memory: Memory

    @classmethod
    def of(cls, spec: TensorSpec, batch: int, place: Place) -> _Empty:
        shape, dtype = empty_shape(spec, batch), numpy_type(spec.dtype)
        value = zeros(shape, dtype, place)
        return cls(spec.name, dtype, value, Memory.of_value(value, dtype, place))


class _BoundCache(KeptCache):
    def __init__(
        self, session: Any, run: Run, cache: CacheRecord, empty: list[_Empty], place: Place
    ) -> None:
        self._run_binding, self._place = run, place
        self._pairs = cache.pairs
        self._binding = session.io_binding()
        self._takes = frozenset(value.name for value in session.get_inputs())
        presents = {present for _, present in cache.pairs}
        outputs = [value.name for value in session.get_outputs()]
        self._results = [name for name in outputs if name not in presents]
        self._bind_results()  # before the cache, so that a binding returns them first
        self._types = {each.name: each.dtype for each in empty}
        self._values = {each.name: each.value for each in empty}  # that are held
        for each in empty:
            each.memory.bind(self._binding.bind_input, each.name)

    def _bind_results(self) -> None:
        for name in self._results:
            self._binding.bind_output(name)

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        """Run the session on new tokens, and return the results in memory of their own."""
        given = {name: Memory.of_array(x) for name, x in inputs.items() if name in self._takes}
        for name, memory in given.items():
            memory.bind(self._binding.bind_input, name)
        self._bind_results()
        self._run_binding(self._binding)
        values = self._binding.get_outputs_as_ortvaluevector()  # one object for each takes longer
        return {name: array_of(values[place]) for place, name in enumerate(self._results)}

    def presents(self) -> dict[str, Array]:
        """Return copies of what is held, by the names of the outputs."""
        return {
            present: array_of(self._values[past]).view(self._types[past]).copy()
            for past, present in self._pairs
        }


class _GrowingCache(_BoundCache):
    """What a step writes is bound as it lies, as the past of the next."""

    def step(self, inputs: Arrays) -> dict[str, Array]:
        """Run the session on new tokens."""
        for _, present in self._pairs:
            self._binding.bind_output(present, *self._place)
        results = self._run(inputs)
        presents = self._binding.get_outputs()[len(self._results) :]
        for (past, _), value in zip(self._pairs, presents, strict=True):
            self._binding.bind_ortvalue_input(past, value)
            self._values[past] = value
        return results


class _FixedCache(_BoundCache):
    """Past and present of a pair are one memory all along."""

    def __init__(
        self, session: Any, run: Run, cache: CacheRecord, empty: list[_Empty], place: Place
    ) -> None:
        super().__init__(session, run, cache, empty, place)
        memories = {each.name: each.memory for each in empty}
        for past, present in cache.pairs:
            memories[past].bind(self._binding.bind_output, present)

    def step(self, inputs: Arrays) -> dict[str, Array]:
        """Run the session on new tokens."""
        return self._run(inputs)
