"""The compiled kernel for torch tensors: the parameters of ``params.cuh`` by ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_void_p,
)
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
# Form in native/kernel.h: by pairing, and whether coefficients are tables
_FORMS = {("interleaved", False): 0, ("interleaved", True): 1, ("half", True): 2}


class Strides(Structure):
    """``ropeexport::Strides``."""

    _fields_ = tuple((name, c_int64) for name in ("batch", "head", "length"))


class Rotated(Structure):
    """``ropeexport::Rotated``."""

    _fields_ = (
        *(("in_", c_void_p), ("out", c_void_p), ("heads", c_int64)),
        *(("in_strides", Strides), ("out_strides", Strides)),
    )


class Coefficients(Structure):
    """``ropeexport::Coefficients``."""

    _fields_ = (
        *(("first", c_void_p), ("second", c_void_p)),
        *(("batch", c_int64), ("heads", c_int64), ("strides", Strides)),
    )


class Params(Structure):
    """``ropeexport::ApplyRopeParams``."""

    _fields_ = (
        ("type", c_int32),
        *((name, c_int64) for name in ("batch", "length", "head_size", "rotary_size")),
        *(("q", Rotated), ("k", Rotated), ("pe", Coefficients)),
    )


class Scale(Structure):
    """``ropeexport::Scale``."""

    _fields_ = (("values", c_void_p), ("type", c_int32))


class NormParams(Structure):
    """``ropeexport::NormRopeParams``."""

    _fields_ = (
        *(("rope", Params), ("q_scale", Scale), ("k_scale", Scale)),
        *(("epsilon", c_float), ("across_heads", c_bool)),
    )


class Tuning(Structure):
    """``ropeexport::Tuning`` with its defaults."""

    _fields_ = tuple(
        (name, c_int64) for name in ("most_columns", "enough_blocks", "most_heads_per_thread")
    )

    def __init__(self, columns: int = 1 << 30, blocks: int = 0, heads: int = 12) -> None:
        super().__init__(columns, blocks, heads)


@dataclass(frozen=True)
class Launch:
    """The tensors of a launch, all on one device.

    Parameters
    ----------
    q, k : Tensor
        (B, H, L, D), contiguous along D.
    pe : Tensor
        float32 matrices (B or 1, H or 1, L, D/2, 2, 2), or cosines (…, L, D/2) where ``sin`` is
        given.
    out : tuple of Tensor
        Where the rotated q and k go.
    sin : Tensor, optional
        float32 sines with the strides of ``pe``.
    pairing : str
        ``interleaved``: neighbours; ``half``: the two halves of a row, tables only.
    """

    q: Tensor
    k: Tensor
    pe: Tensor
    out: tuple[Tensor, Tensor]
    sin: Tensor | None = None
    pairing: str = "interleaved"

    def params(self) -> Params:
        """Return the launch as the library takes it; the tensors must outlive its use."""
        batch, _, length, head_size = self.q.shape
        sizes = (_TYPES[self.q.dtype], batch, length, head_size, 0)
        q, k = (_rotated(x, out) for x, out in zip((self.q, self.k), self.out, strict=True))
        second = None if self.sin is None else self.sin.data_ptr()
        pe = self.pe
        return Params(
            *sizes, q, k, Coefficients(pe.data_ptr(), second, *pe.shape[:2], _strides(pe))
        )


@dataclass(frozen=True)
class NormLaunch:
    """A launch that norms q and k before it rotates them.

    Parameters
    ----------
    launch : Launch
        What is rotated, of any strides, and how.
    scales : tuple of Tensor
        Of q and k: (D,), or (H, D) where all heads of a token are normed together.
    epsilon : float
        What is added to the mean of the squares.
    across_heads : bool
        Whether they are normed together.
    """

    launch: Launch
    scales: tuple[Tensor, Tensor]
    epsilon: float
    across_heads: bool = False

    def params(self) -> NormParams:
        """Return the launch as the library takes it; the tensors must outlive its use."""
        scales = (Scale(x.data_ptr(), _TYPES[x.dtype]) for x in self.scales)
        return NormParams(self.launch.params(), *scales, self.epsilon, self.across_heads)


class Kernel:
    """A library with the interface of ``native/kernel.h``."""

    def __init__(self, path: Path) -> None:
        self._library = library = ctypes.CDLL(str(path))
        described = {"ropeexport_params_bytes": Params, "ropeexport_norm_params_bytes": NormParams}
        for name, structure in described.items():
            getattr(library, name).restype = c_int64
            if getattr(library, name)() != ctypes.sizeof(structure):
                raise RuntimeError(f"{path}: other parameters than those described here")
        library.ropeexport_error_text.argtypes = [c_int]
        library.ropeexport_error_text.restype = c_char_p
        library.ropeexport_launch.argtypes = [POINTER(Params), POINTER(Tuning), c_int32, c_void_p]
        library.ropeexport_launch_norm.argtypes = [
            *(POINTER(NormParams), POINTER(Tuning), c_int32, c_void_p)
        ]
        library.ropeexport_copy.argtypes = [c_void_p, c_void_p, c_int64, c_void_p]

    def call(self, launch: Launch, tuning: Tuning | None = None) -> Callable[[int], None]:
        """Return a function that enqueues the launch on a stream, given as CUDA's handle."""
        params, tuning = launch.params(), tuning or Tuning()
        form = _FORMS[launch.pairing, launch.sin is not None]

        def enqueue(stream: int) -> None:
            status = self._library.ropeexport_launch(byref(params), byref(tuning), form, stream)
            # naming the launch also keeps its tensors as long as this function
            self._check(status, [tuple(x.shape) for x in (launch.q, launch.k, launch.pe)])

        return enqueue

    def norm_call(self, given: NormLaunch, tuning: Tuning | None = None) -> Callable[[int], None]:
        """Return a function that enqueues a launch which norms first, as ``call`` does."""
        params, tuning, launch = given.params(), tuning or Tuning(), given.launch
        form = _FORMS[launch.pairing, launch.sin is not None]

        def enqueue(stream: int) -> None:
            status = self._library.ropeexport_launch_norm(
                byref(params), byref(tuning), form, stream
            )
            # naming it also keeps its tensors as long as this function
            self._check(status, [tuple(x.shape) for x in (launch.q, launch.k, *given.scales)])

        return enqueue

    def copy(self, to: Tensor, seen: Tensor, stream: int) -> None:
        """Enqueue a copy between dense tensors of a multiple of 16 bytes, 16 bytes a thread."""
        pointers = (to.data_ptr(), seen.data_ptr())
        status = self._library.ropeexport_copy(*pointers, seen.nbytes, stream)
        self._check(status, f"a copy of {seen.nbytes} bytes")

    def _check(self, status: int, what: object) -> None:
        if status != 0:
            text = self._library.ropeexport_error_text(status).decode()
            raise RuntimeError(f"{what}: {text} (cudaError {status})")


def _strides(x: Tensor) -> Strides:
    return Strides(*x.stride()[:3])


def _rotated(x: Tensor, out: Tensor) -> Rotated:
    for tensor in (x, out):
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(f"expected rows of neighbours, got strides {tensor.stride()}")
    return Rotated(x.data_ptr(), out.data_ptr(), x.shape[1], _strides(x), _strides(out))
