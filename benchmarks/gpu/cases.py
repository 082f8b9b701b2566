"""Inputs by which the kernel is held to eager torch, and how they lie in the GPU's memory.

B batch, Hq and Hk heads, L length, D head size, Bp and Hp the batch and head axes of pe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.gpu.kernel import Launch
from benchmarks.gpu.shapes import DTYPES
from ropeexport.reference import rope_matrices

# B, Hq, Hk, L, D, Bp, Hp
SHAPES = (
    (1, 24, 24, 512, 128, 1, 1),
    (2, 24, 24, 65, 128, 2, 1),
    (2, 6, 6, 33, 64, 1, 6),  # matrices of each head
    (2, 6, 6, 33, 64, 2, 6),
    (2, 32, 8, 129, 128, 1, 1),  # grouped heads
    (64, 32, 8, 1, 128, 64, 1),  # one token of many sequences
    (1, 3, 3, 7, 66, 1, 1),  # rows that are no whole number of 16 bytes
    (3, 5, 5, 11, 2, 3, 5),  # one pair
    (1, 70, 1, 17, 256, 1, 1),
    (1, 13, 13, 333, 40, 1, 1),  # a last block that is not full
    (2, 4, 4, 0, 128, 1, 1),  # nothing
)
# most columns a launch, enough blocks, most heads a thread: many slices, few and many heads
_TUNINGS = ((1 << 30, 1, 12), (1 << 30, 1, 3), (1 << 30, 1 << 40, 12), (40, 1056, 12), (1, 8, 5))
_TUNED_SHAPES = ((3, 13, 5, 9, 64, 3, 1), (2, 7, 7, 9, 64, 1, 7))
_FLUX_AXES = (16, 56, 56)  # how FLUX shares the head size among text, row and column
_THETA = 1e4
_GUARD = 256  # elements before and behind an output, which keep an offset's alignment
MARK = -7.0  # what was not written; no NaN: a NaN left from before would pass for a result


@dataclass(frozen=True)
class Case:
    """Inputs on the CPU, and how they are to lie in the GPU's memory.

    ``offset`` counts elements beside an aligned address, ``layout`` is ``BHLD`` or ``BLHD``, and
    ``tuning`` replaces the kernel's own cut.
    """

    kind: str
    name: str
    q: Tensor
    k: Tensor
    pe: Tensor
    offset: int = 0
    layout: str = "BHLD"
    tuning: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.kind}, {self.name}"


def sweep() -> Iterator[Case]:
    """Yield every case, those of one kind together."""
    random = [random_case(shape, name) for shape in SHAPES for name in DTYPES]
    some = random[: 6 * len(DTYPES)]
    yield from random
    for offset in (1, 2, 8):
        for case in some:
            name = f"{case.name}, {offset} beside"
            yield replace(case, kind="unaligned", name=name, offset=offset)
    yield from (replace(case, kind="strided views", layout="BLHD") for case in some)
    for shape in _TUNED_SHAPES:
        for case in (random_case(shape, dtype) for dtype in DTYPES):
            for cut in _TUNINGS:
                yield replace(case, kind="other cuts", name=f"{case.name}, {cut}", tuning=cut)
    yield from (extreme_case(dtype) for dtype in DTYPES)
    long = rope_matrices(torch.arange(1_000_000, 1_000_257), 128, _THETA)[None, None]
    flux = flux_matrices(512, 64, 64)
    for kind, pe, heads in (("long positions", long, 4), ("FLUX positions", flux, 24)):
        shape = (1, heads, heads, pe.shape[2], 128, 1, 1)
        yield from (replace(random_case(shape, dtype), kind=kind, pe=pe) for dtype in DTYPES)


def random_case(shape: tuple[int, ...], dtype: str) -> Case:
    """Return normal numbers and general matrices, whose products round in most places."""
    batch, q_heads, k_heads, length, head_size, *pe_axes = shape
    generator = torch.Generator().manual_seed(sum(shape))
    data = [(batch, heads, length, head_size) for heads in (q_heads, k_heads)]
    q, k = (torch.randn(sizes, generator=generator).to(DTYPES[dtype]) for sizes in data)
    pe = torch.randn((*pe_axes, length, head_size // 2, 2, 2), generator=generator)
    return Case("random", f"{dtype} {shape}", q, k, pe)


def flux_matrices(text: int, rows: int, columns: int) -> Tensor:
    """Return (1, 1, text + rows * columns, 64, 2, 2): text at 0, the image at its row and column.

    Source: black-forest-labs/flux ``prepare`` in ``src/flux/sampling.py``, ``EmbedND``.
    """
    image = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    ids = torch.cat([torch.zeros(text, 3, dtype=image.dtype), image])
    axes = [rope_matrices(ids[:, i], dim, _THETA) for i, dim in enumerate(_FLUX_AXES)]
    return torch.cat(axes, dim=1)[None, None]


def extreme_case(dtype: str) -> Case:
    """Return denormals, infinities, NaN, the largest numbers, zeros of both signs, all by all."""
    info = torch.finfo(DTYPES[dtype])
    finite = torch.tensor([0.0, -0.0, info.max, -info.max, info.tiny, info.smallest_normal / 4])
    values = torch.cat([finite, torch.tensor([torch.inf, torch.nan])]).to(DTYPES[dtype])
    q = torch.cartesian_prod(values, values).reshape(1, 1, 1, -1).repeat(1, 2, 8, 1)
    entries = torch.tensor([0.0, 1.0, -1.0, 2.0**-149, 3.4e38, torch.inf, torch.nan, 0.1])
    rows = torch.cartesian_prod(entries, entries)[:, None].repeat(1, 2, 1)
    pe = rows.reshape(1, 1, 1, 64, 2, 2).repeat(1, 1, 8, 1, 1, 1)
    return Case("extreme values", dtype, q, q.flip(-1).contiguous(), pe)


@dataclass(frozen=True)
class Placed:
    """A case in a device's memory; ``whole`` are the outputs with what lies around them."""

    launch: Launch
    whole: tuple[Tensor, Tensor]
    start: int

    def clear(self) -> None:
        """Mark every element of the outputs as not written."""
        for whole in self.whole:
            whole.fill_(MARK)

    def guards_hold(self) -> bool:
        """Say whether nothing was written beside the outputs."""
        return all(
            bool((x[: self.start] == MARK).all() & (x[-_GUARD:] == MARK).all()) for x in self.whole
        )


def place(case: Case, device: torch.device, in_place: bool = False) -> Placed:
    """Copy a case to a device; ``in_place``: its outputs are its inputs."""
    start = _GUARD + case.offset

    def lying(x: Tensor, whole: Tensor, first: int) -> Tensor:
        inside = whole[first : first + x.numel()]
        if case.layout == "BLHD":
            return inside.view(x.transpose(1, 2).shape).transpose(1, 2)
        return inside.view(x.shape)

    def room(x: Tensor, around: int) -> Tensor:
        return torch.full((around + x.numel(),), MARK, dtype=x.dtype, device=device)

    data = (case.q, case.k)
    whole = tuple(room(x, start + _GUARD) for x in data)
    out = tuple(lying(x, space, start) for x, space in zip(data, whole, strict=True))
    q, k = out if in_place else (lying(x, room(x, case.offset), case.offset) for x in data)
    pe = room(case.pe, case.offset)[case.offset :].view(case.pe.shape)
    for to, x in zip((q, k, pe), (*data, case.pe), strict=True):
        to.copy_(x)
    return Placed(Launch(q, k, pe, out), whole, start)
