"""Modules as a user would write them, exported by reference in the tests."""

from __future__ import annotations

import torch
from torch import nn

import ropeexport


class TwoLayers(nn.Module):
    """Two attentions with grouped heads and one pe, five-dimensional as the seed writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(32, 32)
        self.kv = nn.Linear(32, 32)

    def layer(self, x, pe):
        q = self.q(x).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, 2, 8)).permute(2, 0, 3, 1, 4)
        return ropeexport.attention(q, k, v, pe)

    def forward(self, x, pe):
        return self.layer(self.layer(x, pe), pe)


def grouped_attention():
    axes = {0: "batch", 1: "length"}
    example = {"x": torch.zeros(1, 6, 32), "pe": torch.zeros(1, 6, 4, 2, 2)}
    return TwoLayers(), example, {"x": axes, "pe": axes}


def wrong_kind():
    return TwoLayers()


def wrong_axis():
    return TwoLayers(), (torch.zeros(1, 6, 32), torch.zeros(1, 6, 4, 2, 2)), {"x": {5: "batch"}}


class FrozenBatch(TwoLayers):
    """A comparison of sizes in traced code, which makes the batch a constant."""

    def forward(self, x, pe):
        if x.shape[0] not in (2, 4):
            raise ValueError("batch")
        return super().forward(x, pe)


def frozen_batch():
    return FrozenBatch(), *grouped_attention()[1:]


def fails():
    raise RuntimeError("no such weights")


def list_of_axes():
    return *grouped_attention()[:2], [0, 1]


def axes_in_a_list():
    return *grouped_attention()[:2], {"x": ["batch"]}


def axes_in_a_word():
    return *grouped_attention()[:2], {"x": "batch"}


def number_for_a_name():
    return *grouped_attention()[:2], {"x": {0: 5}}


def no_inputs():
    return TwoLayers(), None, {}


def number_for_inputs():
    return TwoLayers(), 5, {}


def odd_name():
    module, example, _ = grouped_attention()
    return module, example, {"x": {0: "batch size"}}


def float64():
    module, example, axes = grouped_attention()
    return module.double(), {name: x.double() for name, x in example.items()}, axes


def array_input():
    module, example, axes = grouped_attention()
    return module, {**example, "x": example["x"].numpy()}, axes


CACHE_HEADS, CACHE_SIZE = 2, 8
CACHE_AXES = {
    "x": {0: "batch", 1: "length"},
    "past": {0: "batch", 2: "past"},
    "mask": {1: "length", 2: "past + length"},
}


def turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return x * cos + turned(x) * sin


class Cached(nn.Module):
    """Attention over a past that grows; positions go on where the past ends."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(CACHE_HEADS * CACHE_SIZE, 3 * CACHE_HEADS * CACHE_SIZE)
        frequencies = 1.0 / 10000.0 ** (torch.arange(0, CACHE_SIZE, 2) / CACHE_SIZE)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x, past, mask=None):
        q, k, v = self.qkv(x).unflatten(-1, (3, CACHE_HEADS, -1)).permute(2, 0, 3, 1, 4)
        start = past["key"].shape[2]
        positions = torch.arange(start, start + x.shape[1])
        angles = torch.outer(positions, self.frequencies)
        cos, sin = (wave(torch.cat((angles, angles), -1)) for wave in (torch.cos, torch.sin))
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        key = torch.cat((past["key"], k), 2)
        value = torch.cat((past["value"], v), 2)
        y = nn.functional.scaled_dot_product_attention(q, key, value, attn_mask=mask)
        return y.transpose(1, 2).flatten(2), {"key": key, "value": value}


def cached() -> Cached:
    torch.manual_seed(1)
    return Cached()


def cache(batch: int = 2, length: int = 5) -> dict[str, torch.Tensor]:
    return {name: torch.randn(batch, CACHE_HEADS, length, CACHE_SIZE) for name in ("key", "value")}


def cache_inputs() -> dict[str, object]:
    torch.manual_seed(0)
    return {
        "x": torch.randn(2, 3, CACHE_HEADS * CACHE_SIZE),
        "past": cache(),
        "mask": torch.randn(1, 3, 8),
    }


def growing_cache():
    return cached(), cache_inputs(), CACHE_AXES
