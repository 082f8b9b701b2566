"""The torch op that norms and rotates: its numbers, derivatives, errors, and what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ropeexport
from ropeexport.modules import RMSNorm
from ropeexport.ops.norm_rope_torch import norm_rope_op
from ropeexport.reference import rms_norm, rotate

B, L, H, D = 2, 3, 2, 4


def arguments(
    dtype: torch.dtype, scales: torch.dtype | None = None, axes: int = 1, grad: bool = False
) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((B, L, H, D), (B, L, 1, D), (H, D)[-axes:], (1, D)[-axes:], (1, 1, L, D // 2, 2, 2))
    types = (dtype, dtype, scales or dtype, scales or dtype, dtype)
    return [
        torch.randn(s, dtype=t).requires_grad_(grad) for s, t in zip(shapes, types, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    given = arguments(dtype, grad=dtype.itemsize > 2)
    torch.library.opcheck(norm_rope_op, (*given, 1e-6, [0, 2, 1, 3]))


@pytest.mark.parametrize("axes", [1, 2])
def test_gradients(axes: int) -> None:
    inputs = arguments(torch.float64, axes=axes, grad=True)
    batched = {"check_batched_grad": True}
    forward = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(ropeexport.norm_rope, inputs, **batched, **forward)
    assert torch.autograd.gradgradcheck(ropeexport.norm_rope, inputs, **batched)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scales", [None, torch.float32])
def test_gradients_of_half_types_are_near_those_in_float64(
    dtype: torch.dtype, scales: torch.dtype | None
) -> None:
    given = arguments(dtype, scales, grad=True)
    wide = [x.detach().double().requires_grad_() for x in given]
    for inputs in (given, wide):
        sum(x.double().sin().sum() for x in ropeexport.norm_rope(*inputs)).backward()
    for x, y in zip(given, wide, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        assert x.grad.dtype == x.dtype
        assert (x.grad.double() - y.grad).abs().max() <= 16 * torch.finfo(
            dtype
        ).eps * y.grad.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_scale_of_the_datas_type_is_fluxs_norm_bit_for_bit(dtype: torch.dtype) -> None:
    q, k, q_scale, k_scale, pe = arguments(dtype)
    pe = pe.float()
    norm = RMSNorm(D)
    norm.scale.data = q_scale
    rotated, _ = ropeexport.norm_rope(q, k, q_scale, k_scale, pe)
    expected = rotate(norm(q).transpose(1, 2), pe)
    assert torch.equal(rotated, expected)


def test_a_float32_scale_is_rounded_once() -> None:
    x = torch.randn(64, D).half()
    scale = torch.randn(D)
    exact = rms_norm(x.double(), scale.double(), 1e-6)
    once, twice = rms_norm(x, scale, 1e-6), rms_norm(x, scale.half(), 1e-6)
    assert torch.equal(once, exact.half())
    assert not torch.equal(twice, rms_norm(x.double(), scale.half().double(), 1e-6).half())


def test_layouts_are_the_same_but_for_their_order() -> None:
    q, k, *rest = arguments(torch.float32)
    one = ropeexport.norm_rope(q, k, *rest)
    other = ropeexport.norm_rope(q.transpose(1, 2), k.transpose(1, 2), *rest, layout="BHLD")
    for x, y in zip(one, other, strict=True):
        assert torch.equal(x, y)
        assert x.is_contiguous()


def test_all_heads_are_normed_together() -> None:
    q, k, q_scale, k_scale, pe = arguments(torch.float32, axes=2)
    flat = torch.nn.functional.rms_norm(q.flatten(2), (H * D,), q_scale.flatten(), 1e-6)
    expected = rotate(flat.view(q.shape).transpose(1, 2), pe)
    rotated, _ = ropeexport.norm_rope(q, k, q_scale, k_scale, pe)
    torch.testing.assert_close(rotated, expected)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "layout": ({"layout": "LBHD"}, "layout: expected 'BLHD' or 'BHLD', got 'LBHD'"),
    "eps": ({"eps": -1.0}, "eps: expected a number from 0 on, got -1.0"),
    "scale's type": ({"q_scale": torch.ones(D).half()}, "q_scale: expected torch.float32"),
    "scale's size": ({"k_scale": torch.ones(D + 1)}, r"k_scale: expected shape \(4,\), got \(5,\)"),
    "scale's axes": ({"k_scale": torch.ones(1, D)}, "k_scale: expected shape .* as q_scale"),
    "both layouts": (
        {"q_scale": torch.ones(H, D), "layout": "BHLD"}, r"q_scale: expected shape \(D,\), got",
    ),
    "data's axes": ({"xq": torch.ones(B, L, H * D)}, r"xq: expected shape \(B, L, H, D\)"),
    "length": ({"xk": torch.ones(B, L + 1, 1, D)}, "xk: expected shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name: str) -> None:
    change, message = WRONG[name]
    names = ("xq", "xk", "q_scale", "k_scale", "freqs_cis")
    given = dict(zip(names, arguments(torch.float32), strict=True)) | change
    with pytest.raises((TypeError, ValueError), match=message):
        ropeexport.norm_rope(**given)


class Block(torch.nn.Module):
    """What a user writes with it: all heads together, of two segments."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = torch.nn.Linear(H * D, H * D), torch.nn.Linear(H * D, H * D)
        self.q_scale = torch.nn.Parameter(torch.randn(H, D))
        self.k_scale = torch.nn.Parameter(torch.randn(H, D))

    def forward(self, x: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
        q, k = (project(x).unflatten(-1, (H, D)) for project in (self.q, self.k))
        return ropeexport.norm_rope(q, k, self.q_scale, self.k_scale, pe, eps=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("fuse", ["rope", "norm-rope"])
def test_it_is_exported_and_checked(dtype: torch.dtype, fuse: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = {"x": torch.randn(1, 6, H * D).to(dtype), "pe": torch.zeros(1, 1, 6, D // 2, 2, 2)}
    axes = {"x": {0: "batch", 1: "length"}, "pe": {2: "length"}}
    made = ropeexport.export(
        Block().to(dtype), given, tmp_path / "out", dynamic_axes=axes, roles={"pe": "matrices"},
        fuse=fuse,
    )  # fmt: skip
    ops = {node.op_type for node in made.artifact.file.graph.graph if node.domain == "ropeexport"}
    assert ops == {"NormRope" if fuse == "norm-rope" else "ApplyRope"}
    report = made.check(runtimes=["onnxruntime"])
    assert report.verdict == "PASS", report.reason
