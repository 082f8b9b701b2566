"""Fourier transforms of one size, which vocoders end in: products with real matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ropeexport
from ropeexport import Example, ExportError


class Transformed(nn.Module):
    """A spectrum, turned, and back again."""

    def __init__(self, size: int, dim: int, norm: str | None, n: int | None) -> None:
        super().__init__()
        self.given = {"n": n, "dim": dim, "norm": norm}
        self.register_buffer("turn", torch.tensor(0.7))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = torch.fft.rfft(x, **self.given)
        turned = spectrum * torch.polar(torch.ones_like(self.turn), self.turn)
        return torch.view_as_real(spectrum), torch.fft.irfft(turned, **self.given)


@pytest.mark.parametrize(
    ("size", "dim", "n", "norm"),
    [
        (16, -1, None, None), (9, -1, 9, "ortho"), (12, 1, None, "forward"), (10, 2, 16, "ortho"),
        (20, -1, 6, "backward"),
    ],
)  # fmt: skip
def test_a_transform_and_its_inverse(size: int, dim: int, n: int | None, norm, tmp_path) -> None:
    module = Transformed(size, dim, norm, n)
    x = torch.randn(3, size, 4) if dim == 1 else torch.randn(3, 4, size)
    made = ropeexport.export(Example(module, {"x": x}, {"x": {0: "batch"}}), out=tmp_path)
    assert made.check(cases=4, runtimes="onnxruntime", module=module).verdict == "PASS"


def test_one_of_a_dynamic_size_is_refused_by_name(tmp_path) -> None:
    module = Transformed(16, -1, None, None)
    example = Example(module, {"x": torch.randn(3, 16)}, {"x": {1: "length"}})
    with pytest.raises(ExportError, match="a Fourier transform of a dynamic size"):
        ropeexport.export(example, out=tmp_path)
