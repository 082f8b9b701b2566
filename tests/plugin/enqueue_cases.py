"""Folders of cases for ``ropeexport_harness LIBRARY --enqueue FOLDER``, see its enqueue.h."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from plugin.bits import random_data, random_matrices
from seed_functions import seed_apply_rope
from torch import Tensor

from ropeexport.machine import find_gpu
from ropeexport.reference import rope_matrices

_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# B, Hq, Hk, L, D, Bp, Hp
_SHAPES = [
    (1, 24, 24, 512, 128, 1, 1),
    (2, 24, 24, 65, 128, 2, 1),
    (2, 6, 6, 33, 64, 1, 6),
    (2, 32, 8, 129, 128, 1, 1),
    (64, 32, 8, 1, 128, 64, 1),
    (1, 3, 3, 7, 66, 1, 1),
    (3, 5, 5, 11, 2, 3, 5),
    (1, 70, 1, 17, 256, 1, 1),
    (2, 4, 4, 0, 128, 1, 1),
]


@dataclass(frozen=True)
class Case:
    """Inputs, and by how many elements they lie beside an aligned address."""

    name: str
    q: Tensor
    k: Tensor
    pe: Tensor
    offset: int = 0


def has_gpu() -> bool:
    """Say whether an NVIDIA driver reports a GPU."""
    return find_gpu() is not None


def write(folder: Path, cases: Iterable[Case]) -> None:
    """Write cases and what the seed's function makes of them."""
    lines = []
    for case in cases:
        # the seed's function takes no empty tensors
        empty = case.q.numel() == 0
        outputs = (case.q, case.k) if empty else seed_apply_rope(case.q, case.k, case.pe)
        arrays = {"q": case.q, "k": case.k, "pe": case.pe, "q_out": outputs[0], "k_out": outputs[1]}
        for name, tensor in arrays.items():
            (folder / f"{case.name}.{name}").write_bytes(_raw(tensor))
        lines.append(_line(case))
    (folder / "cases.txt").write_text("".join(lines))


def small() -> list[Case]:
    """Return one case, for what needs no GPU."""
    return [Case("small", *_random((1, 2, 2, 3, 8, 1, 1), torch.float16))]


def sweep() -> Iterator[Case]:
    """Yield shapes by types, unaligned ones, real positions, extreme values."""
    for index, (shape, (name, dtype)) in enumerate(itertools.product(_SHAPES, _TYPES.items())):
        for offset in (0, 1, 2):
            yield Case(f"random_{index}_{name}_{offset}", *_random(shape, dtype), offset)
    for name, dtype in _TYPES.items():
        yield _positions(f"positions_{name}", dtype)
        yield _extreme(f"extreme_{name}", dtype)


def _random(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    B, Hq, Hk, L, D, Bp, Hp = shape
    q, k = random_data((B, Hq, L, D), dtype, 1), random_data((B, Hk, L, D), dtype, 2)
    return q, k, random_matrices((Bp, Hp, L, D // 2), 3)


def _positions(name: str, dtype: torch.dtype) -> Case:
    q, k, _ = _random((1, 4, 4, 257, 128, 1, 1), dtype)
    return Case(name, q, k, rope_matrices(torch.arange(1_000_000, 1_000_257), 128, 1e4)[None, None])


def _extreme(name: str, dtype: torch.dtype) -> Case:
    kind = torch.finfo(dtype)
    values = torch.tensor([0.0, -0.0, kind.max, -kind.max, kind.tiny, kind.smallest_normal / 4])
    values = torch.cat([values.to(dtype), torch.tensor([torch.inf, torch.nan], dtype=dtype)])
    q = torch.cartesian_prod(values, values).reshape(1, 1, 1, -1).repeat(1, 2, 8, 1)
    entries = torch.tensor([0.0, 1.0, -1.0, 2.0**-149, 3.4e38, torch.inf, torch.nan, 0.1])
    matrices = torch.cartesian_prod(entries, entries)[:, None] * torch.ones(1, 2, 1)
    return Case(name, q, q.flip(-1), matrices.reshape(1, 1, 1, 64, 2, 2).repeat(1, 1, 8, 1, 1, 1))


def _line(case: Case) -> str:
    B, Hq, L, D = case.q.shape
    sizes = (B, Hq, case.k.shape[1], L, D, *case.pe.shape[:2], case.offset)
    kind = str(case.q.dtype).removeprefix("torch.")
    return f"{case.name} {kind} {' '.join(map(str, sizes))}\n"


def _raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
