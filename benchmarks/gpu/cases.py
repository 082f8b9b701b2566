"""Inputs by which the kernel is held to eager torch: shapes, types, values, layouts.

B batch, Hq and Hk heads, L length, D head size, Bp and Hp the batch and head axes of pe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ropeexport.reference import rope_matrices

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# B, Hq, Hk, L, D, Bp, Hp
_SHAPES = (
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
_QUICK_SHAPES = _SHAPES[1:6]
_ODD_OFFSETS = (1, 2, 8)
# most columns a launch, enough blocks, most heads a thread: many slices, few and many heads
_TUNINGS = ((1 << 30, 1, 12), (1 << 30, 1, 3), (1 << 30, 1 << 40, 12), (40, 1056, 12), (1, 8, 5))
_TUNED_SHAPES = ((3, 13, 5, 9, 64, 3, 1), (2, 7, 7, 9, 64, 1, 7))
_FLUX_AXES = (16, 56, 56)  # how FLUX shares the head size among text, row and column
_THETA = 1e4


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


def sweep(quick: bool = False) -> Iterator[Case]:
    """Yield every case, those of one kind together."""
    shapes = _QUICK_SHAPES if quick else _SHAPES
    yield from (random_case(shape, name) for shape in shapes for name in DTYPES)
    for offset in _ODD_OFFSETS:
        yield from (_unaligned(shape, name, offset) for shape in shapes[:6] for name in DTYPES)
    yield from (_other_layout(shape, name) for shape in shapes[:6] for name in DTYPES)
    for name in DTYPES:
        yield extreme_case(name)
        yield from (_tuned(shape, name, cut) for shape in _TUNED_SHAPES for cut in _TUNINGS)
        yield _long_positions(name)
        yield flux_case(name, 4 if quick else 24)


def random_case(shape: tuple[int, ...], dtype: str) -> Case:
    """Return normal numbers and general matrices, whose products round in most places."""
    batch, q_heads, k_heads, length, head_size, *pe_axes = shape
    generator = torch.Generator().manual_seed(sum(shape))
    data = [(batch, heads, length, head_size) for heads in (q_heads, k_heads)]
    q, k = (torch.randn(sizes, generator=generator) for sizes in data)
    pe = torch.randn((*pe_axes, length, head_size // 2, 2, 2), generator=generator)
    kind = DTYPES[dtype]
    return Case("random", f"{dtype} {shape}", q.to(kind), k.to(kind), pe)


def flux_case(dtype: str, heads: int) -> Case:
    """Return FLUX's attention of a 1024x1024 image: 512 tokens of text and 64 by 64 of image."""
    pe = flux_matrices(512, 64, 64)
    case = random_case((1, heads, heads, pe.shape[2], 128, 1, 1), dtype)
    return replace(case, kind="FLUX positions", pe=pe)


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


def _long_positions(dtype: str) -> Case:
    pe = rope_matrices(torch.arange(1_000_000, 1_000_257), 128, _THETA)[None, None]
    return replace(random_case((1, 4, 4, 257, 128, 1, 1), dtype), kind="long positions", pe=pe)


def _unaligned(shape: tuple[int, ...], dtype: str, offset: int) -> Case:
    case = random_case(shape, dtype)
    return replace(case, kind="unaligned", name=f"{case.name}, {offset} beside", offset=offset)


def _other_layout(shape: tuple[int, ...], dtype: str) -> Case:
    return replace(random_case(shape, dtype), kind="strided views", layout="BLHD")


def _tuned(shape: tuple[int, ...], dtype: str, cut: tuple[int, int, int]) -> Case:
    case = random_case(shape, dtype)
    return replace(case, kind="other cuts", name=f"{case.name}, {cut}", tuning=cut)
