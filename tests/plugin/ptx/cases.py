"""Inputs by which every variant of the kernel is tried, and what lies where in memory.

B batch, H heads, L length, D head size, R rotary size, as everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from plugin.bits import random_data
from plugin.ptx.launches import Form
from torch import Tensor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MANY_HEADS = (1 << 30, 1, 12)  # a thread, however few blocks that makes
FEW_HEADS = (1 << 30, 1 << 40, 12)

DATA = ("q", "k", "q's output", "k's output")
COEFFICIENTS = ("coefficients", "sines")  # matrices or cosines

Strides = tuple[int, int, int]  # of batch, head and length


def _dense(heads: int, length: int, row: int) -> Strides:
    return heads * length * row, length * row, row


def _apart(axis: str, apart: int, heads: int, length: int, row: int) -> Strides:
    """Return steps of which one alone, along an axis, is no whole number of accesses."""
    more = {axis: apart}
    of_row = row + more.get("rows", 0)
    of_head = _whole(length * of_row) + more.get("heads", 0)
    return _whole(heads * of_head) + more.get("batches", 0), of_head, of_row


def _whole(step: int) -> int:
    """Return the next step of whole accesses, which are of eight elements at most."""
    return -(-step // 8) * 8


# of a (B, H, L, row) tensor, in elements
LAYOUTS: dict[str, Callable[[int, int, int], Strides]] = {
    "BHLD": _dense,
    "BLHD": lambda heads, length, row: (length * heads * row, row, heads * row),
    **{
        f"{axis} {apart} apart": partial(_apart, axis, apart)
        for axis in ("batches", "heads", "rows")
        for apart in (1, 2)
    },
    "far heads": lambda heads, length, row: (1 << 42, 1 << 33, 1 << 38),
    "far batches": lambda heads, length, row: (1 << 45, 1 << 31, row),
    "far positions": lambda heads, length, row: (1 << 35, 7 * row, (1 << 32) + 256),
    "backwards": lambda heads, length, row: (1 << 40, -(1 << 33), -(1 << 31)),
}
FAR = tuple(name for name in LAYOUTS if name.startswith(("far", "back")))


@dataclass(frozen=True)
class Case:
    """One call of the rotary op.

    ``beside`` counts elements beside an aligned address, by the array's name; see ``DATA`` and
    ``COEFFICIENTS``. ``k_heads`` of 0: one tensor alone. ``rotary_size`` of 0: all of the row.
    ``tuning`` of None: the product's own cut.
    """

    name: str
    dtype: str
    form: Form
    batch: int = 2
    heads: int = 6
    k_heads: int = 6
    length: int = 5
    head_size: int = 64
    rotary_size: int = 0
    pe_batch: int = 1
    per_head: bool = False
    beside: dict[str, int] = field(default_factory=dict)
    layout: str = "BHLD"
    out_layout: str = ""  # as the input's
    pe_layout: str = "BHLD"
    in_place: bool = False
    tuning: tuple[int, int, int] | None = MANY_HEADS
    extreme: bool = False

    def __str__(self) -> str:
        pairing = "halves" if self.form.halves else "neighbours"
        what = "tables" if self.form.tables else "matrices"
        what += " of each head" if self.per_head else ""
        what += ", partial" if self.form.partial else ""
        return f"{self.dtype}, {what}, {pairing}: {self.name}"

    @property
    def pairs(self) -> int:
        """How many pairs of a row are rotated."""
        return (self.rotary_size or self.head_size) // 2

    def inputs(self) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """Return q and k, those that there are, and matrices or cosines and sines."""
        if self.extreme:
            return _extreme_inputs(self)
        kind = DTYPES[self.dtype]
        counts = [heads for heads in (self.heads, self.k_heads) if heads]
        shapes = [(self.batch, heads, self.length, self.head_size) for heads in counts]
        data = [random_data(shape, kind, seed) for seed, shape in enumerate(shapes)]
        axes = (self.pe_batch, self.heads if self.per_head else 1, self.length, self.pairs)
        if self.form.tables:
            first, second = (random_data(axes, torch.float32, seed) for seed in (2, 3))
            return data, first, second
        return data, random_data((*axes, 2, 2), torch.float32, 2), None


def _extreme_inputs(case: Case) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Return all pairs of extreme numbers in each row, all pairs of extreme coefficients in turn.

    What is not rotated of a row is extreme as well.
    1 + eps and half of eps make sums that lie in the middle between two numbers of the type.
    """
    kind = DTYPES[case.dtype]
    info = torch.finfo(kind)
    finite = [0.0, -0.0, info.max, info.smallest_normal / 4, 1.0, 1.0 + info.eps]
    values = torch.tensor([*finite, torch.inf, torch.nan], dtype=torch.float64).to(kind)
    pairs = torch.cartesian_prod(values, values)
    row = pairs.T if case.form.halves else pairs
    rest = values.repeat(case.head_size)[: case.head_size - 2 * case.pairs]
    q, k = (
        torch.cat([x, rest]).expand(1, case.heads, case.length, -1).contiguous()
        for x in (row.flatten(), row.flatten().flip(0))
    )
    finite = [0.0, 1.0, -1.0, 2.0**-149, 3.4e38, 0.1, info.eps / 2]
    entries = torch.tensor([*finite, torch.inf, torch.nan])
    axes = (1, case.heads if case.per_head else 1, case.length, case.pairs)
    first, second = (
        torch.cartesian_prod(entries, entries)[:, None].expand(-1, case.pairs, -1).unbind(-1)
    )
    if case.form.tables:
        return [q, k], first.expand(axes).contiguous(), second.expand(axes).contiguous()
    pe = torch.stack([first, second, second, first.neg()], dim=-1).unflatten(-1, (2, 2))
    return [q, k], pe.expand(*axes, 2, 2).contiguous(), None


def policies() -> Iterator[Case]:
    """Yield a case of each type and policy that the plugin has a kernel of."""
    for dtype, halves in itertools.product(DTYPES, (False, True)):
        for per_head in (False, True):
            yield Case("", dtype, Form(False, halves, False), per_head=per_head)
        for size in (0, 32):
            yield Case("", dtype, Form(True, halves, partial=size > 0), rotary_size=size)


def sweep() -> Iterator[Case]:
    """Yield every case, few of each variant but each of another kind."""
    for base in policies():
        for name, changes in _changes(base).items():
            yield replace(base, name=name, **changes)


def beside(count: int, *names: str) -> dict[str, object]:
    """Return the change that moves arrays beside an aligned address; without names all of q and k.

    What they are moved by is a number of their elements.
    """
    return {"beside": dict.fromkeys(names or DATA, count)}


def _far(layout: str) -> dict[str, object]:
    return {"layout": layout, "pe_layout": layout, "length": 3}


def _steps_apart() -> dict[str, dict[str, object]]:
    """Return one uneven step at a time: of the inputs, of the outputs, of the coefficients."""
    changes: dict[str, dict[str, object]] = {}
    for axis, apart in itertools.product(("batches", "heads", "rows"), (1, 2)):
        layout = f"{axis} {apart} apart"
        changes[f"{layout} to dense"] = {"layout": layout, "out_layout": "BHLD"}
        changes[f"dense to {layout}"] = {"out_layout": layout}
    for apart in (1, 2):
        changes[f"rows of coefficients {apart} apart"] = {"pe_layout": f"rows {apart} apart"}
        of_batch = {"pe_layout": f"batches {apart} apart", "pe_batch": 2}
        changes[f"batches of coefficients {apart} apart"] = of_batch
    return changes


def _changes(base: Case) -> dict[str, dict[str, object]]:
    changes: dict[str, dict[str, object]] = {
        "dense": {},
        "a block that is not full": {"length": 33, "heads": 13, "k_heads": 13, "head_size": 72},
        **{f"{count} beside": beside(count) for count in (1, 2, 8)},
        **{f"{name} 1 beside": beside(1, name) for name in DATA},
        **{f"all coefficients {count} beside": beside(count, *COEFFICIENTS) for count in (1, 2)},
        "BLHD": {"layout": "BLHD"},
        "BLHD to BHLD": {"layout": "BLHD", "out_layout": "BHLD"},
        "BHLD to BLHD, 1 beside": {"out_layout": "BLHD", **beside(1)},
        **_steps_apart(),
        "rows 2 apart, in place": {"layout": "rows 2 apart", "in_place": True},
        "heads 1 apart, in place": {"layout": "heads 1 apart", "in_place": True},
        "in place": {"in_place": True},
        "in place, BLHD, 2 beside": {"in_place": True, "layout": "BLHD", **beside(2)},
        "in place, 1 beside": {"in_place": True, **beside(1)},
        "one tensor": {"k_heads": 0},
        "coefficients of each batch": {"pe_batch": 2},
        "one token of many": {"batch": 16, "pe_batch": 16, "length": 1},
        "rows of 66": {"head_size": 66},
        "rows of 68": {"head_size": 68},
        "rows of 68, BLHD in place": {"head_size": 68, "layout": "BLHD", "in_place": True},
        "few heads a thread": {"tuning": FEW_HEADS},
        "the product's cut": {"tuning": None},
        "three heads a thread": {"tuning": (1 << 30, 1, 3)},
        "several launches": {"tuning": (40, 1, 12), "batch": 3, "pe_batch": 3},
        "a launch a position": {"tuning": (1, 1, 12), "length": 3, "in_place": True},
        **{name: _far(name) for name in FAR},
        **{f"{name}, rows of 68": {**_far(name), "head_size": 68} for name in FAR},
    }
    if base.per_head:
        changes["heads of coefficients 1 apart"] = {"pe_layout": "heads 1 apart"}
    if base.form.tables:
        changes |= {f"{name} 1 beside": beside(1, name) for name in COEFFICIENTS}
    if not base.per_head:
        changes["grouped heads"] = {"heads": 32, "k_heads": 8, "length": 3}
        changes["70 heads and one"] = {"heads": 70, "k_heads": 1, "length": 1, "head_size": 256}
    extreme = {"extreme": True, "batch": 1, "heads": 2, "k_heads": 2, "length": 81}
    extreme |= {"head_size": 192, "rotary_size": 128} if base.form.partial else {"head_size": 128}
    changes["extreme values"] = extreme
    changes["extreme values, 1 beside"] = {**extreme, **beside(1)}
    changes["extreme values, 2 beside"] = {**extreme, **beside(2)}
    if base.form.partial:
        return {**changes, **_partial_changes()}
    return {**changes, "one pair": {"head_size": 2, "batch": 3}}


def _partial_changes() -> dict[str, dict[str, object]]:
    """Return rotary sizes that are whole units of 16 bytes, whole pairs, and neither."""
    sizes = ((128, 16), (80, 64), (66, 2), (36, 12), (20, 6), (4, 2), (64, 64), (64, 62))
    return {
        f"{rotary} of {head_size}, {offset} beside": {
            "head_size": head_size,
            "rotary_size": rotary,
            **beside(offset),
        }
        for (head_size, rotary), offset in itertools.product(sizes, (0, 1))
    }
