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


def odd_name():
    module, example, _ = grouped_attention()
    return module, example, {"x": {0: "batch size"}}


def float64():
    module, example, axes = grouped_attention()
    return module.double(), {name: x.double() for name, x in example.items()}, axes


def tuple_input():
    module, example, axes = grouped_attention()
    return module, {**example, "x": (example["x"],)}, axes
