"""The global memory of a GPU that does not exist: rows at any address, and a record of each access.

Only the rows of the arrays exist. Whatever lies between them, and an access that crosses from one
row into the next, is out of bounds. So tensors whose rows are 2^45 elements apart cost no more than
dense ones, and the smallest step beside a row is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

import numpy as np
from numpy.typing import NDArray

CELL_BYTES = 2  # the smallest access: what is counted
Addresses = NDArray[np.uint64]


class KernelError(Exception):
    """Something that a GPU would trap, or would do differently from one run to the next."""


class MisalignedError(KernelError):
    """An address that is no multiple of the access's size."""


class OutOfBoundsError(KernelError):
    """An access that is not within one row of an array."""


class ForbiddenError(KernelError):
    """A write into an input, a read of an output, or a read-only load of what is written."""


class Use(Flag):
    """What a kernel may do with an array."""

    READ = auto()
    WRITE = auto()


@dataclass(frozen=True)
class Array:
    """The rows of one tensor."""

    name: str
    use: Use
    cells: slice  # of the memory
    row_cells: int


class Memory:
    """Arrays, and how often each of their cells was read and written, and by which thread."""

    def __init__(self) -> None:
        self._arrays: list[Array] = []
        self._cells = np.empty(0, np.uint16)
        # of each row, in the order of the addresses
        self._starts = np.empty(0, np.uint64)
        self._first_cells = np.empty(0, np.int64)
        self._owners = np.empty(0, np.int64)
        self._clear_record()

    def add(self, name: str, addresses: Addresses, rows: NDArray[np.uint8], use: Use) -> Array:
        """Place ``rows``, (count, bytes of a row), at an address each."""
        count, row_cells = rows.shape[0], rows.shape[1] // CELL_BYTES
        first = len(self._cells)
        array = Array(name, use, slice(first, first + count * row_cells), row_cells)
        self._cells = np.concatenate(
            [self._cells, np.ascontiguousarray(rows).view(np.uint16).ravel()]
        )
        first_cells = first + row_cells * np.arange(count)
        owners = np.full(count, len(self._arrays))
        self._arrays.append(array)
        self._insert(addresses, first_cells, owners)
        self._clear_record()
        return array

    def _insert(
        self, starts: Addresses, first_cells: NDArray[np.int64], owners: NDArray[np.int64]
    ) -> None:
        starts = np.concatenate([self._starts, starts])
        order = np.argsort(starts)
        self._starts = starts[order]
        self._first_cells = np.concatenate([self._first_cells, first_cells])[order]
        self._owners = np.concatenate([self._owners, owners])[order]

    def _clear_record(self) -> None:
        count = len(self._cells)
        self._reads, self._writes = np.zeros(count, np.uint16), np.zeros(count, np.uint16)
        self._reader, self._writer = np.zeros(count, np.int32), np.zeros(count, np.int32)

    def load(
        self,
        addresses: Addresses,
        kind: np.dtype,
        count: int,
        threads: NDArray[np.int32],
        *,
        read_only: bool,
    ) -> NDArray:
        """Return (threads, count) numbers of ``kind``, read by one access a thread."""
        cells, arrays = self._find(addresses, kind.itemsize * count)
        for array in arrays:
            if not array.use & Use.READ:
                raise ForbiddenError(f"a read of {array.name}")
            if read_only and array.use & Use.WRITE:
                raise ForbiddenError(f"a read-only load of {array.name}, which is written")
        np.add.at(self._reads, cells.ravel(), 1)
        self._reader[cells] = threads[:, None]
        return self._cells[cells].view(kind)

    def store(self, addresses: Addresses, values: NDArray, threads: NDArray[np.int32]) -> None:
        """Write (threads, count) numbers, by one access a thread."""
        cells, arrays = self._find(addresses, values.dtype.itemsize * values.shape[1])
        for array in arrays:
            if not array.use & Use.WRITE:
                raise ForbiddenError(f"a write into {array.name}")
        np.add.at(self._writes, cells.ravel(), 1)
        self._writer[cells] = threads[:, None]
        self._cells[cells] = np.ascontiguousarray(values).view(np.uint16)

    def _find(self, addresses: Addresses, size: int) -> tuple[NDArray[np.int64], list[Array]]:
        """Return the cells of an access of ``size`` bytes at each address, and whose they are."""
        if (wrong := addresses % np.uint64(size) != 0).any():
            raise MisalignedError(f"{size} bytes at {_first(addresses, wrong)}")
        row = np.searchsorted(self._starts, addresses, side="right") - 1
        owners = self._owners[row]
        row_bytes = CELL_BYTES * np.array([array.row_cells for array in self._arrays])
        offset = (addresses - self._starts[row]).astype(np.int64)  # wraps below the first row
        inside = (row >= 0) & (offset >= 0) & (offset + size <= row_bytes[owners])
        if not inside.all():
            raise OutOfBoundsError(f"{size} bytes at {_first(addresses, ~inside)}")
        first = self._first_cells[row] + offset // CELL_BYTES
        cells = first[:, None] + np.arange(size // CELL_BYTES)
        return cells, [self._arrays[i] for i in np.unique(owners)]

    def rows(self, array: Array) -> NDArray[np.uint8]:
        """Return the contents of an array, (rows, bytes of a row)."""
        return self._cells[array.cells].reshape(-1, array.row_cells).view(np.uint8)

    def reads(self, array: Array) -> NDArray[np.uint16]:
        """Return how often each cell was read."""
        return self._reads[array.cells].reshape(-1, array.row_cells)

    def writes(self, array: Array) -> NDArray[np.uint16]:
        """Return how often each cell was written."""
        return self._writes[array.cells].reshape(-1, array.row_cells)

    def exchanged(self, array: Array) -> int:
        """Return how many cells one thread read and another wrote, in no certain order."""
        both = (self._reads[array.cells] > 0) & (self._writes[array.cells] > 0)
        other = self._reader[array.cells] != self._writer[array.cells]
        return int((both & other).sum())


def _first(addresses: Addresses, where: NDArray[np.bool_]) -> str:
    return hex(int(addresses[where][0]))
