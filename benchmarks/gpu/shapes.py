"""The shapes that are timed, and their inputs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cases import DTYPES

_LEAST_SETS = 2
_CACHES_BETWEEN = 3  # how many times the L2 is passed before a set comes round again


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention's q and k; ``pe_batch`` is 1, or ``batch``."""

    name: str
    batch: int
    q_heads: int
    k_heads: int
    length: int
    head_size: int
    pe_batch: int = 1

    def record(self) -> dict[str, Any]:
        """Return the shape as a result file keeps it."""
        return asdict(self)

    def moved_bytes(self, dtype: str) -> int:
        """Return what the op must move at least: q and k read and written, the matrices read."""
        heads = self.q_heads + self.k_heads
        elements = self.batch * heads * self.length * self.head_size
        matrices = self.pe_batch * self.length * self.head_size // 2
        return 2 * elements * DTYPES[dtype].itemsize + 16 * matrices


FLUX = "flux"
SHAPES = (
    Shape(FLUX, 1, 24, 24, 4608, 128),  # 1024x1024 pixels and 512 tokens of text
    Shape("flux-512", 1, 24, 24, 1536, 128),
    Shape("llama-prefill", 1, 32, 8, 8192, 128),
    Shape("llama-decode", 64, 32, 8, 1, 128, pe_batch=64),
    Shape("video", 1, 40, 40, 32760, 128),
    Shape("small-heads", 8, 16, 16, 1024, 64),
)


@dataclass(frozen=True)
class Problem:
    """One set of inputs: q and k (B, H, L, D), rotations as tables and as matrices.

    ``cos`` and ``sin`` are float32 (B or 1, 1, L, D/2), ``pe`` is (B or 1, 1, L, D/2, 2, 2).
    """

    q: Tensor
    k: Tensor
    cos: Tensor
    sin: Tensor
    pe: Tensor

    @property
    def data_bytes(self) -> int:
        """Bytes of q and k, read once and written once."""
        return 2 * (self.q.nbytes + self.k.nbytes)


def make_problem(shape: Shape, dtype: str, device: torch.device, seed: int) -> Problem:
    """Return normal numbers and rotations by angles of a whole turn."""
    generator = torch.Generator(device).manual_seed(seed)

    def data(heads: int) -> Tensor:
        sizes = (shape.batch, heads, shape.length, shape.head_size)
        return torch.randn(sizes, generator=generator, device=device, dtype=DTYPES[dtype])

    sizes = (shape.pe_batch, 1, shape.length, shape.head_size // 2)
    angles = torch.rand(sizes, generator=generator, device=device) * (2 * math.pi)
    cos, sin = angles.cos(), angles.sin()
    pe = torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
    return Problem(data(shape.q_heads), data(shape.k_heads), cos, sin, pe)


def count_sets(set_bytes: int, l2_bytes: int) -> int:
    """Return how many sets of inputs to go round, so that the L2 never holds the next one."""
    return max(_LEAST_SETS, 1 + math.ceil(_CACHES_BETWEEN * l2_bytes / set_bytes))
