"""``libropeexport_host_norm.so`` for NumPy arrays: the norm's own source, walked on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_int32, c_int64
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from plugin.host_walk import DEFAULT_TUNING, WAVE
from plugin.norm_reference import DTYPES, Op, matrices_of

from benchmarks.gpu.kernel import (
    Coefficients,
    NormParams,
    Params,
    Rotated,
    Scale,
    Strides,
    Tuning,
)

_TYPES = {kind: number for number, kind in enumerate(DTYPES.values())}


class Seen(Structure):
    """What the dispatch chose."""

    _fields_ = tuple(
        (name, c_int64)
        for name in (
            *("access_bytes", "launches", "blocks", "heads_per_thread", "row_units", "threads"),
        )
    )


@dataclass
class Call:
    """Arrays of one call; data is (B, H, L, D) of any strides, contiguous along D.

    ``tables`` are matrices, or cosines and sines (B or 1, L, P).
    """

    op: Op
    data: list[NDArray]
    scales: list[NDArray]
    tables: list[NDArray[np.float32]]
    out: list[NDArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out = self.out or [np.full(x.shape, -7, x.dtype) for x in self.data]

    @property
    def matrices(self) -> NDArray[np.float32]:
        """(B or 1, H or 1, L, P, 2, 2)."""
        if len(self.tables) == 1:
            return self.tables[0]
        return matrices_of(*(table[:, None] for table in self.tables))

    def params(self) -> NormParams:
        batch, _, length, size = self.data[0].shape
        tensors = [_rotated(x, out) for x, out in zip(self.data, self.out, strict=True)]
        scales = [Scale(x.ctypes.data, _TYPES[x.dtype]) for x in self.scales]
        if len(tensors) == 1:
            tensors.append(Rotated())
            scales.append(Scale())
        first = self.tables[0]
        by_head = first if first.ndim == 6 else first[:, None]
        second = None if len(self.tables) == 1 else self.tables[1].ctypes.data
        pe = Coefficients(first.ctypes.data, second, *by_head.shape[:2], _strides(by_head))
        kind = _TYPES[self.data[0].dtype]
        rope = Params(kind, batch, length, size, self.op.rotary_size, *tensors, pe)
        return NormParams(rope, *scales, self.op.epsilon, self.op.across_heads)


def _strides(x: NDArray) -> Strides:
    assert x.strides[-1] == x.itemsize or x.shape[-1] <= 1 or x.size == 0
    return Strides(*(step // x.itemsize for step in x.strides[:3]))


def _rotated(x: NDArray, out: NDArray) -> Rotated:
    return Rotated(x.ctypes.data, out.ctypes.data, x.shape[1], _strides(x), _strides(out))


class HostNorm:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        self._walk: Callable[..., int] = ctypes.CDLL(str(path)).ropeexport_host_norm
        self._walk.argtypes = [POINTER(NormParams), POINTER(Tuning), c_int32, c_int64]
        self._walk.argtypes += [POINTER(Seen)]

    def status(
        self, params: NormParams, *, halves: bool = False, tuning: tuple[int, ...] = DEFAULT_TUNING
    ) -> tuple[int, Seen]:
        """Walk the grid and return the launch's status and what was chosen."""
        seen = Seen()
        status = self._walk(byref(params), byref(Tuning(*tuning)), halves, WAVE, byref(seen))
        return status, seen

    def __call__(self, call: Call, tuning: tuple[int, ...] = DEFAULT_TUNING) -> Seen:
        """Write the outputs of a call and return what was chosen."""
        status, seen = self.status(call.params(), halves=call.op.halves, tuning=tuning)
        assert status == 0, f"cudaError_t {status}"
        return seen
