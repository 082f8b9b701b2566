"""The shapes that are timed, their inputs, and what outputs must be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from ropeexport.bench.device import count_sets as count_sets  # noqa: PLC0414  (for a sweep)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_INTEGERS = {2: torch.int16, 4: torch.int32}


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

    def moved_bytes(self, dtype: str) -> int:
        """Return what the op must move at least: q and k read and written, the matrices read."""
        heads = self.q_heads + self.k_heads
        elements = self.batch * heads * self.length * self.head_size
        matrices = self.pe_batch * self.length * self.head_size // 2
        return 2 * elements * DTYPES[dtype].itemsize + 16 * matrices


SHAPES = (
    Shape("flux", 1, 24, 24, 4608, 128),  # 1024x1024 pixels and 512 tokens of text
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

    rounded_before: ClassVar[int] = 0  # how often the data is, before it is rotated

    @property
    def data_bytes(self) -> int:
        """Bytes of q and k, read once and written once."""
        return 2 * (self.q.nbytes + self.k.nbytes)

    def rotated_data(self, name: str, head: int) -> Tensor:
        """Return what is rotated of a head of ``q`` or ``k``, (B, L, D), in float64."""
        x: Tensor = getattr(self, name)
        return x[:, head].double()


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


def module_from(path: Path) -> ModuleType:
    """Import a Python file that is in no package; :class:`ImportError` where it cannot be."""
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path}: no Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# FLUX's ``apply_rope`` as printed, which every implementation must equal: ten launches for q and k
seed_apply_rope = module_from(
    Path(__file__).parents[2] / "tests" / "seed_functions.py"
).seed_apply_rope


def rotated_by_tables(x: Tensor, cos: Tensor, sin: Tensor, pairing: str) -> Tensor:
    """Return x (..., D) rotated in the type of the tables (..., D/2)."""
    x = x.to(cos.dtype)
    first, second = x.chunk(2, -1) if pairing == "half" else (x[..., 0::2], x[..., 1::2])
    parts = (cos * first - sin * second, sin * first + cos * second)
    return torch.cat(parts, -1) if pairing == "half" else torch.stack(parts, -1).flatten(-2)


def differing(expected: Tensor, got: Tensor) -> str:
    """Return how two tensors differ bit for bit, any NaN equal to any NaN; empty: they do not."""
    if (expected.shape, expected.dtype) != (got.shape, got.dtype):
        return f"expected {_kind(expected)}, got {_kind(got)}"
    integer = _INTEGERS[expected.element_size()]
    a, b = (x.contiguous().view(integer) for x in (expected, got))
    wrong = (a != b) & ~(expected.isnan() & got.isnan())
    count = int(wrong.sum())
    if count == 0:
        return ""
    first = tuple(int(i) for i in wrong.nonzero()[0])
    values = f"expected {expected[first].item()!r}, got {got[first].item()!r}"
    return f"{count} of {expected.numel()} elements, the first at {first}: {values}"


def beyond_rounding(problem: Problem, outputs: tuple[Tensor, Tensor], pairing: str) -> str:
    """Return how far outputs are from a rotation in float64, where that is beyond rounding."""
    half_eps = torch.finfo(problem.q.dtype).eps / 2
    allowed = bound(problem.q.dtype) + problem.rounded_before * half_eps
    tables = [table[:, 0].double() for table in (problem.cos, problem.sin)]
    for name, x, got in zip("qk", (problem.q, problem.k), outputs, strict=True):
        if got.shape != x.shape or got.dtype != x.dtype:
            return f"{name}: expected {_kind(x)}, got {_kind(got)}"
        wrong = whole = 0.0
        for head in range(x.shape[1]):  # float64 of all heads would not fit
            data = problem.rotated_data(name, head)
            expected = rotated_by_tables(data, *tables, pairing)
            wrong += float((expected - got[:, head].double()).square().sum())
            whole += float(expected.square().sum())
        distance = math.sqrt(wrong / whole) if whole else math.nan
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


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
