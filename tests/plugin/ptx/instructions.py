"""What each arithmetic instruction does to the values of many threads at once.

A table: the type of the result, the types of the sources, and a NumPy function. An instruction that
is not in it is unknown, on purpose also ``mul.f32`` and ``add.f32``: without a rounding in their
name the assembler may fuse the two. The products and sums that are here round once, to the nearest
float32 and to the even one of two, and keep denormals, as NumPy's do on a CPU.

Source: NVIDIA, "PTX ISA", chapter 9 (instruction set).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

# What the bits of a register are taken as; a register itself is an unsigned integer.
KINDS: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "pred": np.bool_,
        **{f"{letter}16": np.uint16 for letter in "bu"},
        **{f"{letter}32": np.uint32 for letter in "bu"},
        **{f"{letter}64": np.uint64 for letter in "bu"},
        "s16": np.int16,
        "s32": np.int32,
        "s64": np.int64,
        "f16": np.float16,
        "bf16": ml_dtypes.bfloat16,
        "f32": np.float32,
    }.items()
}


@dataclass(frozen=True)
class Operation:
    """An instruction without memory: ``compute`` takes and returns arrays of the named types."""

    result: str
    sources: tuple[str, ...]
    compute: Callable[..., NDArray]


def fused_multiply_add(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a * b + c with a single rounding.

    The product is exact in float64, the sum is not. Where it is not, its last bit is made odd,
    which tells the rounding to float32 on which side of a tie the exact sum lies: Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums" (2008), theorem 3.
    """
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + addend
    back = total - product
    rest = (product - (total - back)) + (addend - back)  # what the sum lost, exactly
    is_even = total.view(np.int64) & 1 == 0
    towards = np.where(rest > 0, np.inf, -np.inf)
    odd = np.where(is_even, np.nextafter(total, towards), total)
    return np.where(np.isfinite(total) & (rest != 0), odd, total).astype(np.float32)


def _narrowed_pair(kind: str) -> Callable[..., NDArray]:
    def narrow(high: NDArray[np.float32], low: NDArray[np.float32]) -> NDArray[np.uint32]:
        upper, lower = (
            x.astype(KINDS[kind]).view(np.uint16).astype(np.uint32) for x in (high, low)
        )
        return upper << np.uint32(16) | lower

    return narrow


def _converted(kind: str) -> Callable[[NDArray], NDArray]:
    return lambda x: x.astype(KINDS[kind])


def _selected(a: NDArray, b: NDArray, condition: NDArray[np.bool_]) -> NDArray:
    return np.where(condition, a, b)


def _wide_product(kind: str) -> Callable[..., NDArray]:
    return lambda a, b: a.astype(KINDS[kind]) * b.astype(KINDS[kind])


def _high_product(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint64]:
    return (a.astype(np.uint64) * b) >> np.uint64(32)


_INTEGERS = ("s32", "u32", "s64", "u64")
_BITS = ("b16", "b32", "b64")
_ANY = (*_INTEGERS, *_BITS, "u16", "s16", "f32")
_COMPARISONS: dict[str, Callable[..., NDArray]] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
_WIDER = {"s32": "s64", "u32": "u64"}


def _integer_arithmetic(kind: str) -> dict[str, Operation]:
    two, three = (kind, kind), (kind, kind, kind)
    return {
        f"add.{kind}": Operation(kind, two, np.add),
        f"sub.{kind}": Operation(kind, two, np.subtract),
        f"min.{kind}": Operation(kind, two, np.minimum),
        f"max.{kind}": Operation(kind, two, np.maximum),
        f"mul.lo.{kind}": Operation(kind, two, np.multiply),
        f"mad.lo.{kind}": Operation(kind, three, lambda a, b, c: a * b + c),
        f"shr.{kind}": Operation(kind, (kind, "u32"), np.right_shift),
        **{
            f"setp.{name}.{kind}": Operation("pred", two, compare)
            for name, compare in _COMPARISONS.items()
        },
    }


def _bit_arithmetic(kind: str) -> dict[str, Operation]:
    return {
        f"and.{kind}": Operation(kind, (kind, kind), np.bitwise_and),
        f"or.{kind}": Operation(kind, (kind, kind), np.bitwise_or),
        f"xor.{kind}": Operation(kind, (kind, kind), np.bitwise_xor),
        f"not.{kind}": Operation(kind, (kind,), np.invert),
    }


def _conversions() -> dict[str, Operation]:
    integers = {
        f"cvt.{to}.{source}": Operation(to, (source,), _converted(to))
        for to in _INTEGERS
        for source in (*_INTEGERS, "u16", "s16")
        if to != source
    }
    floats = {
        f"cvt.f32.{kind}": Operation("f32", (kind,), _converted("f32")) for kind in ("f16", "bf16")
    }
    for kind in ("f16", "bf16"):
        floats[f"cvt.rn.{kind}.f32"] = Operation(kind, ("f32",), _converted(kind))
        floats[f"cvt.rn.{kind}x2.f32"] = Operation("b32", ("f32", "f32"), _narrowed_pair(kind))
    return integers | floats


OPERATIONS: dict[str, Operation] = {
    "mul.rn.f32": Operation("f32", ("f32", "f32"), np.multiply),
    "add.rn.f32": Operation("f32", ("f32", "f32"), np.add),
    "sub.rn.f32": Operation("f32", ("f32", "f32"), np.subtract),
    "fma.rn.f32": Operation("f32", ("f32", "f32", "f32"), fused_multiply_add),
    "div.rn.f32": Operation("f32", ("f32", "f32"), np.divide),
    "sqrt.rn.f32": Operation("f32", ("f32",), np.sqrt),
    "neg.f32": Operation("f32", ("f32",), np.negative),
    "mul.hi.u32": Operation("u32", ("u32", "u32"), _high_product),
    "cvta.to.global.u64": Operation("u64", ("u64",), np.copy),  # one space, one address
    "mov.pred": Operation("pred", ("pred",), np.copy),
    **{
        f"mul.wide.{kind}": Operation(wider, (kind, kind), _wide_product(wider))
        for kind, wider in _WIDER.items()
    },
    **{f"mov.{kind}": Operation(kind, (kind,), np.copy) for kind in _ANY},
    **{f"selp.{kind}": Operation(kind, (kind, kind, "pred"), _selected) for kind in _ANY},
    **{f"shl.{kind}": Operation(kind, (kind, "u32"), np.left_shift) for kind in _BITS},
    **{f"shr.{kind}": Operation(kind, (kind, "u32"), np.right_shift) for kind in _BITS},
    **_conversions(),
}
for _kind in _INTEGERS:
    OPERATIONS |= _integer_arithmetic(_kind)
for _kind in (*_BITS, "pred"):
    OPERATIONS |= _bit_arithmetic(_kind)
for _name, _compare in _COMPARISONS.items():
    OPERATIONS |= {
        f"setp.{_name}.{_kind}": Operation("pred", (_kind,) * 2, _compare) for _kind in _BITS
    }
