"""What a contender must have computed before it is timed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu.bits import differing
from benchmarks.gpu.seed import seed_apply_rope
from benchmarks.gpu.shapes import Problem

Outputs = tuple[Tensor, Tensor]


def equals_eager(problem: Problem, outputs: Outputs) -> str:
    """Return how outputs differ from eager torch's on the same device, bit for bit."""
    expected = seed_apply_rope()(problem.q, problem.k, problem.pe)
    named = zip("qk", expected, outputs, strict=True)
    differences = [(name, differing(a, b)) for name, a, b in named]
    return "; ".join(f"{name}: {text}" for name, text in differences if text)


def is_rotation(problem: Problem, outputs: Outputs, pairing: str) -> str:
    """Return how far outputs are from a rotation in float64, where that is beyond rounding."""
    allowed = bound(problem.q.dtype)
    for name, x, got in zip("qk", (problem.q, problem.k), outputs, strict=True):
        if got.shape != x.shape or got.dtype != x.dtype:
            return f"{name}: expected {_kind(x)}, got {_kind(got)}"
        distance = _relative_l2(problem, x, got, pairing)
        if not distance <= allowed:  # NaN is not
            return f"{name}: relative L2 distance {distance:.1e}, allowed {allowed:.1e}"
    return ""


def bound(dtype: torch.dtype) -> float:
    """Return the greatest relative L2 distance that rounding in a type explains.

    A contender may round the tables, each product, the sum and the result to the type, every time
    by half an eps of what stands there: together 2 eps (|c x0| + |s x1|) for an element. The sum
    of squares of those brackets is at most twice that of the data.
    """
    return 2 * math.sqrt(2) * torch.finfo(dtype).eps


def _relative_l2(problem: Problem, x: Tensor, got: Tensor, pairing: str) -> float:
    squares = [
        torch.stack([(expected - part.double()).square().sum(), expected.square().sum()])
        for expected, part in _by_head(problem, x, got, pairing)
    ]
    wrong, whole = torch.stack(squares).sum(dim=0).tolist()
    return math.sqrt(wrong / whole) if whole else math.nan


def _by_head(
    problem: Problem, x: Tensor, got: Tensor, pairing: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what is expected and what came, a head at a time: float64 of all would not fit."""
    cos, sin = (table[:, 0].double() for table in (problem.cos, problem.sin))
    for head in range(x.shape[1]):
        row = x[:, head].double()
        first, second = row.chunk(2, -1) if pairing == "half" else (row[..., 0::2], row[..., 1::2])
        rotated = (cos * first - sin * second, sin * first + cos * second)
        joined = (
            torch.cat(rotated, -1) if pairing == "half" else torch.stack(rotated, -1).flatten(-2)
        )
        yield joined, got[:, head]


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype}"
