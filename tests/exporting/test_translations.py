"""Operators that torch's exporter has no translation of, or a wrong one, beside a rotation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ropeexport
from ropeexport import Example


class Rotated(nn.Module):
    """A rotation of halves, and what becomes of it."""

    def after(self, x: Tensor, cos: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return self.after(x * cos + torch.cat([-b, a], -1) * sin, cos)


class Squeezed(Rotated):
    def after(self, x: Tensor, cos: Tensor) -> Tensor:
        return x.squeeze(1).squeeze((0, 1, 3))  # axes of 3, 2 and 8 elements: they stay


class SqueezedLength(Rotated):
    def after(self, x: Tensor, cos: Tensor) -> Tensor:
        return x.squeeze(2)


class Volume(Rotated):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(2, 3, (1, 1, 3), bias=False, padding=(0, 0, 1))

    def after(self, x: Tensor, cos: Tensor) -> Tensor:
        return self.convolution(x[:, :, None])


class AllTrue(Rotated):
    def after(self, x: Tensor, cos: Tensor) -> Tensor:
        torch._assert_async(torch._is_all_true(cos < 9), "cosines below 9")
        return torch.where(torch._is_all_true(cos < 0.5), x, 2 * x)


class AnyTrue(Rotated):
    def after(self, x: Tensor, cos: Tensor) -> Tensor:
        return torch.where(torch._is_any_true(cos < -9), x, 2 * x)


class Scaled(Rotated):
    """As Cosmos normalises its positions."""

    def after(self, x: Tensor, cos: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.add(1e-6, norm, alpha=np.sqrt(norm.numel() / x.numel()))


def made(module: nn.Module, folder, **options) -> ropeexport.Export:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(3, 2, 5, 8), "cos": torch.randn(5, 8), "sin": torch.randn(5, 8)}
    axes = {"x": {0: "batch", 2: "length"}, "cos": {0: "length"}, "sin": {0: "length"}}
    return ropeexport.export(Example(module.eval(), inputs, axes), out=folder, **options)


class Entropy(Rotated):
    def after(self, x: Tensor, cos: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=x).entropy()


@pytest.mark.parametrize(
    "kind", [Squeezed, SqueezedLength, Volume, AllTrue, AnyTrue, Entropy, Scaled]
)
def test_it_is_as_in_eager(kind: type[Rotated], tmp_path) -> None:
    torch.manual_seed(1)
    module = kind()
    folder = made(module, tmp_path)
    assert (folder.found, folder.replaced) == (1, 1)
    assert folder.check(cases=4, runtimes="onnxruntime", module=module).verdict == "PASS"


def test_a_length_that_is_squeezed_where_it_is_one_begins_at_two(tmp_path) -> None:
    """At 1 eager's result has three axes, and a file has four everywhere."""
    assert made(SqueezedLength(), tmp_path).manifest.axes["length"].min == 2
    with pytest.raises(ropeexport.errors.AxisRangeError, match=r"length from 2, as it is squeezed"):
        made(SqueezedLength(), tmp_path / "given", axes={"length": (1, 8, 16)})


class Padded(nn.Module):
    """Rows of other lengths as complex numbers, filled up, in a region without autocast."""

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        with torch.amp.autocast("cuda", enabled=False):
            turns = torch.polar(torch.ones_like(angles), angles)
            rows = [turns, turns[:3]]
            filled = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0.5)
            pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * filled[:, None]).flatten(3)


def test_complex_rows_that_are_filled_up_in_a_region_of_their_own(tmp_path) -> None:
    """Z-Image writes so; a real number that fills them up has no imaginary part."""
    inputs = {"x": torch.randn(2, 3, 5, 8), "angles": torch.randn(5, 4)}
    module = Padded()
    folder = ropeexport.export(Example(module, inputs, {"x": {1: "heads"}}), out=tmp_path)
    assert (folder.found, folder.replaced) == (1, 1)
    assert folder.check(cases=4, runtimes="onnxruntime", module=module).verdict == "PASS"


def test_quotients_of_sizes_are_rounded_down(tmp_path) -> None:
    class Halved(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            batch, length, _ = x.shape
            up, down = -(-length // 2), (batch - length) // 3
            return x[:, :up], torch.arange(down, 5), x[:, : length // 2], torch.arange(up // -2, 3)

    module = Halved().eval()
    ropeexport.export(
        module,
        {"x": torch.randn(2, 6, 4)},
        tmp_path,
        dynamic_axes={"x": {0: "batch", 1: "length"}},
        axes={"length": (4, 6, 64)},
    )
    loaded = ropeexport.load(tmp_path, device="cpu")
    for batch, length in ((2, 6), (1, 5), (3, 4), (8, 64), (5, 63)):
        x = torch.randn(batch, length, 4)
        for found, expected in zip(loaded(x), module(x), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, None])
def test_elements_are_repeated_along_their_axis(tmp_path, dim) -> None:
    class Repeated(torch.nn.Module):
        def forward(self, x: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
            times = like.shape[0]
            return x.repeat_interleave(times, dim=dim), x.repeat_interleave(3, dim=dim)

    module = Repeated().eval()
    inputs = {"x": torch.randn(2, 3, 4), "like": torch.zeros(5)}
    ropeexport.export(
        module,
        inputs,
        tmp_path,
        dynamic_axes={"x": {0: "batch", 1: "length"}, "like": {0: "times"}},
    )
    loaded = ropeexport.load(tmp_path, device="cpu")
    for batch, length, times in ((2, 3, 2), (3, 3, 3), (1, 5, 4), (4, 1, 1)):
        x, like = torch.randn(batch, length, 4), torch.zeros(times)
        for found, expected in zip(loaded(x, like), module(x, like), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("descending", [False, True])
def test_a_stable_sort_keeps_the_order_of_what_is_equal(tmp_path, descending: bool) -> None:
    """Of Booleans too, which ONNX orders none of."""

    class Ordered(Rotated):
        def after(self, x: Tensor, cos: Tensor) -> Tensor:
            order = torch.sort(x[0, 0] > 0, dim=-1, stable=True, descending=descending)
            return torch.gather(x[0, 0], 1, order.indices) * order.values

    inputs = {name: torch.randn(5, 8) for name in ("cos", "sin")}
    axes = {"x": {2: "length"}, "cos": {0: "length"}, "sin": {0: "length"}}
    module = Ordered()
    example = Example(module, {"x": torch.randn(1, 2, 5, 8), **inputs}, axes)
    folder = ropeexport.export(example, out=tmp_path)
    assert (folder.found, folder.replaced) == (1, 1)
    assert folder.check(cases=4, runtimes="onnxruntime", module=module).verdict == "PASS"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_what_cancels_near_zero_keeps_its_digits(tmp_path, dtype: torch.dtype) -> None:
    class Small(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            a, b = x.to(dtype), y.to(dtype)
            found = torch.expm1(a), torch.log1p(b), torch.logaddexp(a, b), torch.erfinv(b)
            return tuple(each.to(x.dtype) for each in found)

    given = torch.float32 if dtype == torch.float64 else dtype
    size = 10 ** torch.linspace(-7, 1.9, 500, dtype=torch.float64)
    some = torch.tensor([0.0, -1.0, float("inf")], dtype=torch.float64)
    x = torch.cat([size, -size, some]).clamp(max=88.0).to(given)
    y = torch.cat([size, -size.clamp(max=0.9), some]).to(given)
    ropeexport.export(
        Small(), {"x": x, "y": y}, tmp_path, dynamic_axes={"x": {0: "length"}, "y": {0: "length"}}
    )
    wide, other = x.double(), y.double()
    exact = torch.expm1(wide), torch.log1p(other), torch.logaddexp(wide, other), other.erfinv()
    error = 4 * torch.finfo(given).eps
    for found, expected in zip(ropeexport.load(tmp_path, device="cpu")(x, y), exact, strict=True):
        torch.testing.assert_close(found, expected.to(given), rtol=error, atol=0, equal_nan=True)


def test_bfloat16_is_ordered_as_float32(tmp_path) -> None:
    """ONNX orders no bfloat16 before opset 24: the file would not be valid."""

    class Ordered(Rotated):
        def after(self, x: Tensor, cos: Tensor) -> Tensor:
            return torch.cat([torch.topk(x, 3).values, torch.sort(x).values], -1)

    inputs = {name: torch.randn(5, 8).bfloat16() for name in ("cos", "sin")}
    axes = {"x": {2: "length"}, "cos": {0: "length"}, "sin": {0: "length"}}
    example = Example(Ordered(), {"x": torch.randn(1, 2, 5, 8).bfloat16(), **inputs}, axes)
    folder = ropeexport.export(example, out=tmp_path)
    assert (folder.found, folder.replaced) == (1, 1)
    assert folder.manifest.model.outputs[0].dtype == "bfloat16"


class Hashed(nn.Module):
    """Hashes of a few numbers each, which wrap around 64 bits.

    Source: transformers ``modeling_blt.py``, ``rolling_polynomial_hash``.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        powers = 1_000_000_007 ** torch.arange(4)
        terms = x.unfold(1, 4, 1) * powers
        return terms.sum(-1), terms.sum(dim=(2,), keepdim=True), (x > 3).sum(1, keepdim=True)


def test_whole_numbers_are_summed_to_their_last_bit(tmp_path) -> None:
    example = Example(Hashed(), {"x": torch.arange(24).reshape(2, 12)}, {"x": {0: "batch"}})
    ropeexport.export(example, out=tmp_path)
    loaded = ropeexport.load(tmp_path, device="cpu")
    x = torch.randint(0, 256, (5, 12))
    assert Hashed()(x)[0].abs().max() > 2**60
    for found, expected in zip(loaded(x), Hashed()(x), strict=True):
        assert torch.equal(found, expected)
