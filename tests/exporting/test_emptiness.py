"""Where a module asks whether there is anything to add, its file holds where there is nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ropeexport
from ropeexport import Example
from ropeexport.testing import assert_parity

OF = 8  # what a length is filled up to a multiple of


class Padded(nn.Module):
    """As Z-Image fills an image's patches and a text up.

    Source: diffusers ``transformer_z_image.py``, ``_pad_with_ids``.
    """

    turns = False

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(6, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([self.filled(x.flatten(0, 1)), self.filled(y)])
        scores = torch.softmax(both @ self.mixed(both).mT, dim=-1)
        return (scores @ both)[: len(y)]

    def filled(self, x: Tensor) -> Tensor:
        missing = (-x.shape[0]) % OF
        if missing > 0:
            x = torch.cat([x, x[-1:].repeat(missing, 1)])
            return -x if self.turns else x
        return x


def example(module: nn.Module) -> Example:
    inputs = {"x": torch.randn(3, 4, 6), "y": torch.randn(13, 6)}
    axes = {"x": {0: "height", 1: "width"}, "y": {0: "length"}}
    return Example(module.eval(), inputs, axes)


def exact(module: nn.Module) -> Callable[..., Any]:
    """Return a module in float64, of arrays."""
    wide = copy.deepcopy(module).double()
    return lambda **arrays: wide(**{name: torch.from_numpy(x) for name, x in arrays.items()})


def test_a_length_that_is_filled_up_may_need_none(tmp_path: Path) -> None:
    module = Padded()
    made = ropeexport.export(example(module), out=tmp_path)
    axes = made.manifest.axes
    assert {axis.chosen_by for axis in axes.values()} == {"default"}, "no range is cut"
    assert (axes["height"].max, axes["width"].max, axes["length"].max) == (8, 4096, 4096)
    loaded = ropeexport.load(tmp_path, runtime="onnxruntime")
    for height, width, length in ((4, 6, 16), (4, 6, 5), (3, 3, 8), (1, 1, 1), (5, 9, 31)):
        inputs = {"x": torch.randn(height, width, 6), "y": torch.randn(length, 6)}
        assert_parity(loaded(**inputs), exact(module), inputs=inputs, eager=module(**inputs))


def test_one_that_is_another_then_has_the_sizes_that_need_some(tmp_path: Path) -> None:
    module = Padded()
    module.turns = True
    given = example(module)
    still = Example(module, given.inputs, {"y": {0: "length"}})
    made = ropeexport.export(still, out=tmp_path)
    assert [spec.shape for spec in made.manifest.model.inputs] == [(3, 4, 6), ("4*_length + 1", 6)]
    loaded = ropeexport.load(tmp_path, runtime="onnxruntime")
    for length in (5, 13, 29):
        inputs = {"x": given.inputs["x"], "y": torch.randn(length, 6)}
        assert_parity(loaded(**inputs), exact(module), inputs=inputs, eager=module(**inputs))
