"""A traced graph that is the module's at the example's sizes alone is not written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ropeexport
from ropeexport.errors import ExportError
from ropeexport.models.example import Example


class Part(nn.Module):
    """Computes something else while it is exported, as code for an exporter may."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if torch.compiler.is_exporting() and self.wrong == "shape":
            return x[:, :3] * 2
        if torch.compiler.is_exporting() and self.wrong == "numbers":
            return x[:, : length // 2] * (2 + (length - 6) * 0.5)
        return x[:, : length // 2] * 2


def example(module: nn.Module) -> Example:
    return Example(module.eval(), {"x": torch.randn(2, 6)}, {"x": {0: "batch", 1: "length"}})


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("shape", r"length=5: expected \(3, 2\), got \(3, 3\)"),
        ("numbers", r"length=5: off by .* on values"),
    ],
)
def test_other_sizes_are_the_modules_too(tmp_path, wrong, text) -> None:
    with pytest.raises(ExportError, match=rf"output 'out' .*at batch=3, {text}") as caught:
        ropeexport.export(example(Part(wrong)), out=tmp_path / "out")
    assert caught.value.code == "RX218"
    assert not (tmp_path / "out").exists()


def test_what_is_right_is_written_with_the_module_as_it_was(tmp_path) -> None:
    class Counting(Part):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_exporting():
                self.calls += 1
            return super().forward(x)

    module = Counting()
    made, state = example(module), torch.random.get_rng_state()
    ropeexport.export(made, out=tmp_path)
    assert module.calls.item() == 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_a_range_that_is_asked_for_is_held_to_the_module(tmp_path) -> None:
    """At 6 and 7 a half is 3, as at the example's size."""
    made = ropeexport.export(example(Part("shape")), out=tmp_path, axes={"length": (6, 6, 7)})
    assert made.manifest.axes["length"].max == 7


def test_a_module_that_takes_no_drawn_numbers_is_written(tmp_path) -> None:
    class Picky(Part):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_exporting() and x.min() < 0:
                raise ValueError("expected no negative numbers")
            return super().forward(x)

    assert ropeexport.export(example(Picky()), out=tmp_path).folder == tmp_path
