"""A decoder's cache in the GPU's memory, where TensorRT reads and writes it.

Source: TensorRT's operator reference, KVCacheUpdate: what it updates is a network's input and
output at one address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ropeexport.manifest import CacheRecord, TensorSpec
from ropeexport.runners.kept_cache import KeptCache, empty_shape
from ropeexport.runners.trt_memory import make_tensor

if TYPE_CHECKING:
    from ropeexport.runners.runner import Array, Arrays
    from ropeexport.runners.trt import TensorrtRunner


class EngineCache(KeptCache):
    """The cache of one batch of texts, of which no step copies anything.

    A cache of a fixed length is one memory that each step writes into.  Of one that grows, what a
    step returns is what the next one reads, and torch takes the memory of the one before it back.

    Parameters
    ----------
    runner : TensorrtRunner
        Entered.
    cache, pasts, batch
        See :class:`KeptCache`.
    device : str
        Where the memory is.
    """

    def __init__(
        self,
        runner: TensorrtRunner,
        cache: CacheRecord,
        pasts: Sequence[TensorSpec],
        batch: int,
        device: str,
    ) -> None:
        self._engine = runner
        self._pairs = cache.pairs
        self._tensors = {
            spec.name: make_tensor(spec, empty_shape(spec, batch), device).zero_() for spec in pasts
        }

    def step(self, inputs: Arrays) -> dict[str, Array]:
        """Run the engine on new tokens; only what is not the cache's is copied out."""
        results = self._engine.run_beside(inputs, self._tensors, dict(self._pairs))
        self._tensors = {past: results.pop(present) for past, present in self._pairs}
        return self._engine.read(results)

    def presents(self) -> dict[str, Array]:
        """Return what is held, by the names of the outputs, as arrays in the CPU's memory."""
        held = {present: self._tensors[past] for past, present in self._pairs}
        return self._engine.read(held)
