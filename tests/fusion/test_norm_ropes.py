"""Every way to write a norm before a rope becomes one op with it, or is refused by its reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ropeexport.exporting.exporter import onnx_model
from ropeexport.fusion.norm_ropes import put_norms
from ropeexport.manifest import RopeCount, Source
from ropeexport.models.example import Example
from ropeexport.onnx_files.variants import take_norms_apart
from ropeexport.ops import names
from ropeexport.ops.forms import AXIS, EPSILON, PERM, form_of

HEADS, HEAD = 3, 8
WIDTH = HEADS * HEAD
Norm = Callable[[int], nn.Module]


class Early(nn.Module):
    """Rounded to the data's type, then scaled: FLUX, Llama, Qwen."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.scale, self.eps = nn.Parameter(torch.randn(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.scale * normed.to(x.dtype)


class Gemma(Early):
    """Scaled by one and the weight in float32, then rounded."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.scale.float())).type_as(x)


class Widening(Early):
    """Rounded to the data's type and then scaled in float32: no op does that to half data."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (self.scale.float() * normed.to(x.dtype).float()).to(x.dtype)


def torchs(dim: int) -> nn.Module:
    norm = nn.RMSNorm(dim, eps=1e-5)
    nn.init.normal_(norm.weight)
    return norm


def without_scale(dim: int) -> nn.Module:
    return nn.RMSNorm(dim, eps=1e-4, elementwise_affine=False)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, H, L, D) in halves by tables (L, D/2)."""
    cos, sin = (torch.cat([table, table], dim=-1) for table in (cos, sin))
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x.float() * cos + turned * sin).to(x.dtype)


class Heads(nn.Module):
    """q and k from x (B, L, width): normed by heads before they are brought into (B, H, L, D)."""

    def __init__(self, norm: Norm, k_norm: Norm | None = None) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, HEAD)
        self.q_norm, self.k_norm = norm(HEAD), (k_norm or norm)(HEAD)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        q = self.q_norm(self.q(x).unflatten(-1, (-1, HEAD))).transpose(1, 2)
        k = self.k_norm(self.k(x).unflatten(-1, (-1, HEAD))).transpose(1, 2)
        return rotated(q, cos, sin), rotated(k, cos, sin)


class Behind(Heads):
    """The same, normed in (B, H, L, D): Gemma 3."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        q = self.q_norm(self.q(x).unflatten(-1, (-1, HEAD)).transpose(1, 2))
        k = self.k_norm(self.k(x).unflatten(-1, (-1, HEAD)).transpose(1, 2))
        return rotated(q, cos, sin), rotated(k, cos, sin)


class AllHeads(nn.Module):
    """Normed over all heads of a token, then cut into heads: Wan."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q_norm, self.k_norm = norm(WIDTH), norm(WIDTH)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        q, k = (
            norm(project(x)).unflatten(-1, (-1, HEAD)).transpose(1, 2)
            for norm, project in ((self.q_norm, self.q), (self.k_norm, self.k))
        )
        return rotated(q, cos, sin), rotated(k, cos, sin)


class Segments(nn.Module):
    """Text before image, each with projections and norms of its own: FLUX's double blocks."""

    def __init__(self, norm: Norm, before: bool = True) -> None:
        super().__init__()
        self.text, self.image = Heads(norm), Heads(norm)

    def forward(self, x: Tensor, text: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        made = []
        for name in ("q", "k"):
            parts = [
                getattr(block, f"{name}_norm")(getattr(block, name)(data).unflatten(-1, (-1, HEAD)))
                for block, data in ((self.text, text), (self.image, x))
            ]
            made.append(torch.cat(parts, dim=1).transpose(1, 2))
        q, k = made
        return rotated(q, cos, sin), rotated(k, cos, sin)


def inputs_of(module: nn.Module, dtype: torch.dtype, batch: int, length: int) -> dict[str, Tensor]:
    text = 4 if isinstance(module, Segments) else 0
    # beyond the first token so small that an epsilon counts
    x = torch.randn(batch, length, WIDTH) * torch.logspace(0, -5, length)[:, None]
    angles = torch.randn(length + text, HEAD // 2)
    given = {"x": x.to(dtype)}
    if text:
        given["text"] = torch.randn(batch, text, WIDTH).to(dtype)
    return given | {"cos": angles.cos(), "sin": angles.sin()}


def made_of(module: nn.Module, dtype: torch.dtype) -> tuple[ir.Model, RopeCount]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        given = inputs_of(module, dtype, 2, 6)
        axes: dict[str, dict[int, str]] = {"x": {0: "batch", 1: "length"}}
        axes |= {"text": {0: "batch"}} if "text" in given else {}
        total = "length + 4" if "text" in given else "length"
        axes |= {name: {0: total} for name in ("cos", "sin")}
        example = Example(module.to(dtype).eval(), given, axes)
        asked = (names.APPLY_ROPE, names.NORM_ROPE)
        made = onnx_model(example, Source(kind="factory", name="test"), requested=asked)
    assert made.count.replaced == 1
    assert made.norms is not None
    return made.model, made.norms


def normed_ropes(model: ir.Model) -> list[ir.Node]:
    found = ((node, form_of(node.domain, node.op_type)) for node in model.graph)
    return [node for node, form in found if form is not None and form.normed]


def run(model: ir.Model, given: dict[str, Tensor]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {name: x.numpy() for name, x in given.items()})


def assert_equal(module: nn.Module, model: ir.Model, dtype: torch.dtype) -> None:
    given = inputs_of(module, dtype, 3, 9)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(**{name: x.double() for name, x in given.items()})
    # normed, scaled and rotated: a rounding each, of a sum of two products
    spacing = float(torch.finfo(dtype).eps)
    for ours, theirs in zip(run(model, given), exact, strict=True):
        worst = np.abs(ours.astype(np.float64) - theirs.numpy()).max()
        assert worst <= 16 * spacing * theirs.abs().max()


WRITINGS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "FLUX, Qwen": (lambda: Heads(Early), {EPSILON: 1e-6, AXIS: -1, PERM: (0, 2, 1, 3)}),
    "Gemma": (lambda: Behind(Gemma), {EPSILON: 1e-6, AXIS: -1, PERM: (0, 2, 1, 3)}),
    "torch": (lambda: Heads(torchs), {EPSILON: 1e-5, AXIS: -1, PERM: (0, 2, 1, 3)}),
    "no scale": (lambda: Heads(without_scale), {EPSILON: 1e-4, AXIS: -1, PERM: (0, 2, 1, 3)}),
    "Wan": (lambda: AllHeads(torchs), {EPSILON: 1e-5, AXIS: -2, PERM: (0, 2, 1, 3)}),
}


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_norm_and_its_rope_become_one_op(writing: str, dtype: torch.dtype) -> None:
    make, facts = WRITINGS[writing]
    module = make()
    model, count = made_of(module, dtype)
    assert (count.found, count.replaced, count.refused) == (1, 1, ())
    (node,) = normed_ropes(model)
    assert node.op_type == "NormRopeCosSinHalf"
    said = {name: node.attributes[name].value for name in facts}
    assert said[EPSILON] == pytest.approx(facts[EPSILON], rel=1e-6)
    assert {**said, EPSILON: facts[EPSILON]} == facts
    others = {n.op_type for n in model.graph}
    assert not {"RMSNormalization", "ReduceMean"} & others
    assert_equal(module, model, dtype)


@pytest.mark.parametrize(("writing", "wide"), [("FLUX, Qwen", False), ("Gemma", True)])
def test_the_scales_type_says_where_is_rounded(writing: str, wide: bool) -> None:
    model, _ = made_of(WRITINGS[writing][0](), torch.float16)
    (node,) = normed_ropes(model)
    scales = {x.dtype for x in node.inputs[-2:] if x is not None}
    assert scales == {ir.DataType.FLOAT if wide else ir.DataType.FLOAT16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_segments_have_an_op_each(dtype: torch.dtype) -> None:
    module = Segments(Early)
    model, count = made_of(module, dtype)
    assert (count.found, count.replaced, count.refused) == (1, 1, ())
    assert len(normed_ropes(model)) == 2
    assert_equal(module, model, dtype)


@pytest.mark.parametrize("writing", WRITINGS)
def test_what_is_one_op_comes_apart_again(writing: str) -> None:
    module = WRITINGS[writing][0]()
    model, _ = made_of(module, torch.float16)
    assert take_norms_apart(model) == 1
    assert not normed_ropes(model)
    assert_equal(module, model, torch.float16)


class ReadTwice(Heads):
    """Its normed k is an output too."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Any:
        k = self.k_norm(self.k(x).unflatten(-1, (-1, HEAD)))
        q = self.q_norm(self.q(x).unflatten(-1, (-1, HEAD))).transpose(1, 2)
        return rotated(q, cos, sin), rotated(k.transpose(1, 2), cos, sin), k


REFUSED: dict[str, tuple[Callable[[], nn.Module], torch.dtype, str]] = {
    "LayerNorm": (lambda: Heads(nn.LayerNorm), torch.float32, "its norm is LayerNormalization"),
    "one alone": (
        lambda: Heads(Early, lambda _: nn.Identity()), torch.float32, "only one of q and k",
    ),
    "two epsilons": (
        lambda: Heads(Early, lambda n: Early(n, 1e-3)), torch.float32, "in different ways",
    ),
    "read twice": (lambda: ReadTwice(Early), torch.float32, "read elsewhere too"),
    "widening": (lambda: Heads(Widening), torch.float16, "scaled in FLOAT"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_op_does_is_refused(name: str) -> None:
    make, dtype, reason = REFUSED[name]
    model, count = made_of(make(), dtype)
    assert (count.found, count.replaced) == (1, 0)
    assert reason in count.refused[0].reason
    assert not normed_ropes(model)


class Mixing(Heads):
    """Rotated by tables that need not be of one angle for both of a pair."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        q = self.q_norm(self.q(x).unflatten(-1, (-1, HEAD))).transpose(1, 2)
        k = self.k_norm(self.k(x).unflatten(-1, (-1, HEAD))).transpose(1, 2)
        table = torch.cat([cos, sin], dim=-1)
        first, second = q.chunk(2, dim=-1), k.chunk(2, dim=-1)
        turned = (torch.cat([-b, a], dim=-1) for a, b in (first, second))
        q, k = (y * table + t * table for y, t in zip((q, k), turned, strict=True))
        return q, k


def test_a_form_that_no_model_has_is_named() -> None:
    _, count = made_of(Mixing(Early), torch.float32)
    assert "no op norms before a rotation of the form ApplyRopeHalf" in count.refused[0].reason


def test_a_rope_without_a_norm_is_not_counted() -> None:
    _, count = made_of(Heads(lambda _: nn.Identity()), torch.float32)
    assert (count.found, count.replaced, count.refused) == (0, 0, ())


def test_a_transpose_that_names_no_order_reverses_the_axes() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 23, "ropeexport" : 1]>
        normed (float[2, 6, 3, 8] x, float[8] scale, float[1, 1, 6, 4, 2, 2] pe)
            => (float[2, 3, 6, 8] out) {
          y = RMSNormalization (x, scale)
          reversed = Transpose (y)
          back = Transpose (reversed)
          heads = Transpose <perm = [0, 2, 1, 3]> (back)
          out = ropeexport.ApplyRopeSingle (heads, pe)
        }
    """
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    count = put_norms(ir.from_proto(proto))
    assert (count.found, count.replaced) == (1, 0)
    assert "Transpose between the norm and the rope cuts a head" in count.refused[0].reason
