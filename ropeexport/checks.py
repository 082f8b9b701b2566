"""Checks of the arguments of the rope functions: every message names what, expected and got.

Checks of rank, type and device hold while a module is traced too.  Checks that compare sizes run
only on real data: inside a trace they would freeze a dynamic batch or length into the file.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ropeexport.dtypes import DOUBLE, EXPORTED

_TYPES = tuple(kind.torch for kind in (*EXPORTED.values(), DOUBLE))
_TYPE_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in _TYPES)


def check_rope_arguments(pos: Tensor, dim: int, theta: float) -> None:
    """Raise unless ``pos`` is (..., L) of real numbers, ``dim`` even and ``theta`` positive."""
    _check_tensor("pos", pos)
    if pos.dtype.is_complex or pos.dtype is torch.bool:
        raise TypeError(f"pos: expected integer or floating positions, got {pos.dtype}")
    if pos.ndim < 1:
        raise ValueError("pos: expected shape (..., L), got a scalar")
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim: expected an int, got {type(dim).__name__}")
    if dim <= 0 or dim % 2:
        raise ValueError(f"dim: expected a positive even number, got {dim}")
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        raise TypeError(f"theta: expected a number, got {type(theta).__name__}")
    if not (theta > 0 and math.isfinite(theta)):
        raise ValueError(f"theta: expected a positive number, got {theta}")


def check_integer_positions(pos: Tensor) -> None:
    """Raise unless ``pos`` holds integers: the op of a table knows no derivative."""
    if pos.dtype.is_floating_point or pos.dtype.is_complex or pos.dtype is torch.bool:
        raise TypeError(
            f"pos: expected integer positions, got {pos.dtype}; ropeexport.rope takes floating ones"
        )


def check_traceable(xq: Tensor, xk: Tensor, pe: Tensor) -> None:
    """Raise for a wrong rank, type or device: what a trace may check without freezing a size."""
    for name, x in (("xq", xq), ("xk", xk), ("freqs_cis", pe)):
        _check_tensor(name, x)
        if x.dtype not in _TYPES:
            raise TypeError(f"{name}: expected floating data of {_TYPE_NAMES}, got {x.dtype}")
        if x.device != xq.device:
            raise ValueError(f"{name}: expected device {xq.device} as xq has, got {x.device}")
    for name, x in (("xq", xq), ("xk", xk)):
        if x.ndim != 4:
            raise ValueError(f"{name}: expected shape (B, H, L, D), got {_shape(x)}")
    if pe.ndim not in (5, 6):
        raise ValueError(
            "freqs_cis: expected shape (B, L, D/2, 2, 2) or (B, 1 or H, L, D/2, 2, 2), "
            f"got {_shape(pe)}"
        )


def check_values(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise unless ``v`` fits the keys and the heads of q are a multiple of theirs.

    Under autocast q, k and v may differ in type: attention casts them to autocast's.
    """
    if v.dtype != q.dtype and not torch.is_autocast_enabled(q.device.type):
        raise TypeError(f"v: expected {q.dtype} as q has, got {v.dtype}")
    if v.ndim != 4:
        raise ValueError(f"v: expected shape (B, H, L, D), got {_shape(v)}")
    if torch.compiler.is_compiling():
        return  # sizes may be symbols
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: expected shape {(*k.shape[:3], 'D')} as k has, got {_shape(v)}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"k: expected a number of heads that divides {q.shape[1]}, got {_shape(k)}"
        )


def check_sizes(xq: Tensor, xk: Tensor, pe: Tensor) -> None:
    """Raise unless ``xk`` and the six-dimensional ``pe`` fit ``xq`` (B, H, L, D) on real data."""
    batch, heads, length, head_size = xq.shape
    if head_size == 0 or head_size % 2:
        raise ValueError(f"xq: expected an even head size D, got shape {_shape(xq)}")
    if (xk.shape[0], *xk.shape[2:]) != (batch, length, head_size):
        raise ValueError(
            f"xk: expected shape ({batch}, H, {length}, {head_size}) as xq has, got {_shape(xk)}"
        )
    if tuple(pe.shape[2:]) != (length, head_size // 2, 2, 2):
        raise ValueError(
            f"freqs_cis: expected shape (B, 1 or H, {length}, {head_size // 2}, 2, 2) "
            f"or the same without the head axis, got {_shape(pe)}"
        )
    if pe.shape[0] not in (1, batch):
        raise ValueError(f"freqs_cis: expected batch 1 or {batch}, got {_shape(pe)}")
    if pe.shape[1] != 1 and not pe.shape[1] == heads == xk.shape[1]:
        allowed = f"1 or {heads}" if heads == xk.shape[1] else "1 (q and k differ in heads)"
        raise ValueError(f"freqs_cis: expected a head axis of {allowed}, got {_shape(pe)}")


def _check_tensor(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
