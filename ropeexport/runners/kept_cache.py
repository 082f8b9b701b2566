"""A decoder's cache between calls, held where its runtime wants it.

A runner that knows a better place than arrays in the CPU's memory has a class of its own, and
returns that from :meth:`ropeexport.runners.runner.Runner.kept_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ropeexport.dtypes import numpy_type
from ropeexport.manifest import CacheRecord, TensorSpec

if TYPE_CHECKING:
    from ropeexport.runners.runner import Array, Arrays, Runner


class KeptCache:
    """The cache of one batch of texts, as arrays that go in and out of each call.

    Parameters
    ----------
    runner : Runner
        Entered.
    cache : CacheRecord
        Which inputs and outputs are the cache's.
    pasts : sequence of TensorSpec
        Of those inputs.
    batch : int
        How many texts.
    """

    def __init__(
        self, runner: Runner, cache: CacheRecord, pasts: Sequence[TensorSpec], batch: int
    ) -> None:
        self._runner = runner
        self._pairs = cache.pairs
        self._held: dict[str, Array] = {
            spec.name: np.zeros(empty_shape(spec, batch), numpy_type(spec.dtype)) for spec in pasts
        }

    def step(self, inputs: Arrays) -> dict[str, Array]:
        """Run the model on new tokens, keep what it returns for the cache, and return the rest.

        Parameters
        ----------
        inputs : mapping of str to ndarray
            The inputs that are not the cache's.
        """
        results = self._runner.run({**inputs, **self._held})
        self._held = {past: results.pop(present) for past, present in self._pairs}
        return results

    def presents(self) -> dict[str, Array]:
        """Return what is held, by the names of the outputs, as arrays in the CPU's memory."""
        return {present: self._held[past] for past, present in self._pairs}


def empty_shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    """Return the shape of a cache without a token: of one that grows, a length of 0."""
    _, heads, length, width = spec.shape
    return tuple(n if isinstance(n, int) else 0 for n in (batch, heads, length, width))
