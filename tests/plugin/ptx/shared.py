"""What the threads of a block tell each other: shared memory between barriers, and lanes of a warp.

A GPU runs warps in any order between two barriers. So a number that one thread wrote and another
reads without a barrier between them is an error here, whatever its value, and so is a lane that a
shuffle or a barrier waits for in vain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from plugin.ptx.memory import KernelError, MisalignedError, OutOfBoundsError

LANES = 32  # of a warp


class ExchangeError(KernelError):
    """Threads that do not wait for each other, or that wait in vain."""


class SharedMemory:
    """The shared memory of some blocks, and who wrote each byte, after how many barriers."""

    def __init__(self, blocks: int, size: int, block_threads: int) -> None:
        self._block_threads = block_threads
        self._bytes = np.zeros((blocks, size), np.uint8)
        self._writer = np.full((blocks, size), -1, np.int64)
        self._written = np.zeros((blocks, size), np.int64)
        self._barriers = np.zeros(blocks, np.int64)

    def _place(
        self, addresses: NDArray[np.uint32], size: int, threads: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return blocks and bytes, (threads, bytes of an access)."""
        if (addresses % np.uint32(size) != 0).any():
            raise MisalignedError(f"{size} bytes of shared memory")
        first = addresses.astype(np.int64)
        if (first + size > self._bytes.shape[1]).any():
            raise OutOfBoundsError(f"{size} bytes of shared memory")
        cells = first[:, None] + np.arange(size)
        return (threads // self._block_threads)[:, None] + np.zeros_like(cells), cells

    def _expect_own(
        self, at: tuple[NDArray[np.int64], NDArray[np.int64]], threads: NDArray[np.int64]
    ) -> None:
        """Raise where another thread wrote since the last barrier."""
        is_new = (self._writer[at] >= 0) & (self._written[at] == self._barriers[at[0]])
        if (is_new & (self._writer[at] != threads[:, None])).any():
            raise ExchangeError("another thread's write without a barrier")

    def load(
        self, addresses: NDArray[np.uint32], kind: np.dtype, count: int, threads: NDArray[np.int64]
    ) -> NDArray:
        """Return (threads, count) numbers, read by one access a thread."""
        at = self._place(addresses, kind.itemsize * count, threads)
        self._expect_own(at, threads)
        if (self._writer[at] < 0).any():
            raise ExchangeError("a read of shared memory that nobody wrote")
        return np.ascontiguousarray(self._bytes[at]).view(kind)

    def store(
        self, addresses: NDArray[np.uint32], values: NDArray, threads: NDArray[np.int64]
    ) -> None:
        """Write (threads, count) numbers, by one access a thread."""
        at = self._place(addresses, values.dtype.itemsize * values.shape[1], threads)
        self._expect_own(at, threads)
        self._bytes[at] = np.ascontiguousarray(values).view(np.uint8)
        self._writer[at] = threads[:, None]
        self._written[at] = self._barriers[at[0]]

    def wait(self, threads: NDArray[np.int64]) -> None:
        """Take all threads of some blocks to a barrier."""
        blocks, counts = np.unique(threads // self._block_threads, return_counts=True)
        if (counts != self._block_threads).any():
            raise ExchangeError("a barrier that not all threads of a block come to")
        self._barriers[blocks] += 1


def partners(threads: NDArray[np.int64], steps: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the threads whose values a butterfly gives to ``threads``, of whole warps."""
    _, counts = np.unique(threads // LANES, return_counts=True)
    if (counts != LANES).any():
        raise ExchangeError("a shuffle that not all lanes of a warp come to")
    if (steps >= LANES).any():
        raise ExchangeError("a shuffle beyond the warp")
    return threads ^ steps.astype(np.int64)
