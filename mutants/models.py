"""The models that are broken: an attention that shows its rope's own outputs beside its own.

A factory's name is a kind and a type, ``ids_fp16``; ``ropeexport check --module`` imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ropeexport import apply_rope
from ropeexport.manifest import Axis
from ropeexport.models.builtin_models import DTYPES
from ropeexport.models.example import Example
from ropeexport.modules import FluxPositionEmbedding
from ropeexport.reference import rms_norm

OUTPUTS = ("q_rotated", "k_rotated", "out")
TRACED_LENGTH = 6
_BATCH = 2
_TEXT = 3  # tokens before the others
_EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """Heads, head size and greatest length of a model.

    A head size of 40 is no multiple of a vector of 16 elements: a kernel's tail shows.
    """

    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 40
    length: int = 128
    least: int = 1
    axes_dim: tuple[int, ...] = field(default=(8, 16, 16))


KINDS = {
    "matrices": Shape(),
    "ids": Shape(),
    "grouped": Shape(kv_heads=2),
    "normed": Shape(),
    "segments": Shape(least=5),
    "million": Shape(heads=8, kv_heads=8, head_dim=128, length=1024),
}


class Exposed(nn.Module):
    """(q, k, v, pe) to the rotated q and k and the attention (B, L, H*D)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, pe: Tensor) -> tuple[Tensor, ...]:
        q, k = apply_rope(q, k, pe)
        x = scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
        return q, k, x.transpose(1, 2).flatten(2)


class ExposedNormed(Exposed):
    """The same with q and k normed before they are rotated, scaled by one and a weight: Gemma."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        drawn = torch.randn(2, 2, head_dim, generator=torch.Generator().manual_seed(0)) / 2
        self.q_weights, self.k_weights = (nn.Parameter(each) for each in drawn)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, pe: Tensor) -> tuple[Tensor, ...]:
        q = rms_norm(q, 1 + self.q_weights[0], _EPSILON)
        k = rms_norm(k, 1 + self.k_weights[0], _EPSILON)
        attended: tuple[Tensor, ...] = super().forward(q, k, v, pe)
        return attended


class ExposedSegments(ExposedNormed):
    """The first tokens normed by scales of their own, as FLUX's double blocks have text."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, pe: Tensor) -> tuple[Tensor, ...]:
        q, k = (
            torch.cat(
                [
                    rms_norm(part, 1 + weight, _EPSILON)
                    for part, weight in zip(x.tensor_split([_TEXT], dim=2), weights, strict=True)
                ],
                dim=2,
            )
            for x, weights in ((q, self.q_weights), (k, self.k_weights))
        )
        return Exposed.forward(self, q, k, v, pe)


class ExposedIds(nn.Module):
    """The same from integer position ids (B, L, 3)."""

    def __init__(self, axes_dim: tuple[int, ...]) -> None:
        super().__init__()
        self.embedding = FluxPositionEmbedding(axes_dim)
        self.attention = Exposed()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        attended: tuple[Tensor, ...] = self.attention(q, k, v, self.embedding(ids))
        return attended


def _example(kind: str, dtype: torch.dtype) -> Example:
    shape = KINDS[kind]
    q = _data(shape.heads, shape, dtype)
    inputs = {"q": q, "k": _data(shape.kv_heads, shape, dtype)}
    inputs["v"] = torch.zeros_like(inputs["k"])
    data_axes = {0: "batch", 2: "length"}
    dynamic = dict.fromkeys(inputs, data_axes)
    axes = {
        "batch": Axis(min=1, opt=1, max=_BATCH),
        "length": Axis(min=shape.least, opt=64, max=shape.length),
    }
    if kind == "ids":
        inputs["ids"] = torch.zeros(_BATCH, TRACED_LENGTH, 3, dtype=torch.int64)
        dynamic["ids"] = {0: "batch", 1: "length"}
        module: nn.Module = ExposedIds(shape.axes_dim)
    else:
        module = _MODULES.get(kind, lambda _: Exposed())(shape.head_dim).to(dtype)
        pairs = shape.head_dim // 2
        pe_heads = shape.heads if shape.heads == shape.kv_heads else 1
        inputs["pe"] = torch.zeros(_BATCH, pe_heads, TRACED_LENGTH, pairs, 2, 2)
        dynamic["pe"] = {0: "pe_batch", 2: "length"} | ({1: "pe_heads"} if pe_heads > 1 else {})
        axes["pe_batch"] = Axis(min=1, opt=1, max=_BATCH, broadcasts_to="batch")
        if pe_heads > 1:
            axes["pe_heads"] = Axis(min=1, opt=1, max=pe_heads, broadcasts_to=pe_heads)
    return Example(module.eval(), inputs, dynamic, axes, OUTPUTS)


_MODULES: dict[str, Callable[[int], nn.Module]] = {
    "normed": ExposedNormed,
    "segments": ExposedSegments,
}


def _data(heads: int, shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.zeros(_BATCH, heads, TRACED_LENGTH, shape.head_dim, dtype=dtype)


def __getattr__(name: str) -> Callable[[], Example]:
    kind, _, dtype = name.rpartition("_")
    if kind not in KINDS or dtype not in DTYPES:
        raise AttributeError(name)
    return partial(_example, kind, DTYPES[dtype])
