"""``libropeexport_host_walk.so`` for torch tensors: the kernel's own source, walked on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_int32, c_int64, c_uint32
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.kernel import Coefficients, Params, Rotated, Strides, Tuning

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_HALVES = {"interleaved": 0, "half": 1}
INVALID_VALUE = 1  # cudaErrorInvalidValue


class Seen(Structure):
    """What the dispatch chose."""

    _fields_ = [
        ("access_bytes", c_int64),
        ("launches", c_int64),
        ("blocks", c_int64),
        ("heads_per_thread", c_int64),
    ]


DEFAULT_TUNING = (1 << 30, 0, 12)
WAVE = 132 * 8  # of an H100, of most variants


def _strides(tensor: Tensor) -> Strides:
    assert tensor.stride(-1) == 1 or tensor.shape[-1] == 1
    return Strides(*tensor.stride()[:3])


def _rotated(x: Tensor | None, out: Tensor | None) -> Rotated:
    if x is None or out is None:
        return Rotated()
    return Rotated(x.data_ptr(), out.data_ptr(), x.shape[1], _strides(x), _strides(out))


def _coefficients(pe: Tensor, second: Tensor | None) -> Coefficients:
    other = None if second is None else second.data_ptr()
    return Coefficients(pe.data_ptr(), other, pe.shape[0], pe.shape[1], _strides(pe))


def parameters(
    q: Tensor,
    k: Tensor | None,
    pe: Tensor,
    outputs: tuple[Tensor, Tensor | None],
    sin: Tensor | None = None,
    rotary_size: int = 0,
) -> Params:
    """Describe a launch; ``pe`` holds matrices, or cosines where ``sin`` is given."""
    batch, _, length, head_size = q.shape
    return Params(
        TYPES[q.dtype],
        batch,
        length,
        head_size,
        rotary_size,
        _rotated(q, outputs[0]),
        _rotated(k, outputs[1]),
        _coefficients(pe, sin),
    )


class HostWalk:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._walk: Callable[..., int] = library.ropeexport_host_walk
        self._walk.argtypes = [POINTER(Params), POINTER(Tuning), c_int32, c_int64, POINTER(Seen)]
        self._cuts: Callable[..., int] = library.ropeexport_host_cuts
        self._cuts.argtypes = [*self._walk.argtypes[:3], POINTER(c_int64), c_int64, POINTER(Seen)]
        self.quotient: Callable[[int, int], int] = library.ropeexport_quotient
        self.quotient.argtypes = [c_uint32, c_uint32]
        self.quotient.restype = c_uint32

    def status(
        self, params: Params, pairing: str = "interleaved", tuning: tuple[int, ...] = DEFAULT_TUNING
    ) -> tuple[int, Seen]:
        """Walk the grid and return the launch's status and what was chosen."""
        seen = Seen()
        halves = _HALVES[pairing]
        status = self._walk(byref(params), byref(Tuning(*tuning)), halves, WAVE, byref(seen))
        return status, seen

    def cuts(
        self,
        params: Params,
        waves: Sequence[int],
        pairing: str = "interleaved",
        tuning: tuple[int, ...] = DEFAULT_TUNING,
    ) -> list[tuple[int, int]]:
        """Return blocks and heads of q a thread on GPUs of these waves; no array is touched."""
        seen = (Seen * len(waves))()
        given = (c_int64 * len(waves))(*waves)
        status = self._cuts(
            byref(params), byref(Tuning(*tuning)), _HALVES[pairing], given, len(waves), seen
        )
        assert status == 0, f"cudaError_t {status}"
        return [(one.blocks, one.heads_per_thread) for one in seen]

    def __call__(
        self,
        q: Tensor,
        k: Tensor | None,
        pe: Tensor,
        *,
        out: tuple[Tensor, Tensor | None] | None = None,
        pairing: str = "interleaved",
        tuning: tuple[int, ...] = DEFAULT_TUNING,
        **form: object,
    ) -> tuple[Tensor, Tensor | None, Seen]:
        """Rotate and return the outputs and what was chosen."""
        if out is None:
            out = (torch.full_like(q, -7), None if k is None else torch.full_like(k, -7))
        status, seen = self.status(parameters(q, k, pe, out, **form), pairing, tuning)
        assert status == 0, f"cudaError_t {status}"
        return *out, seen
