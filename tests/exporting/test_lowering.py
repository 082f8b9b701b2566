"""Mixed types: what eager promotes by itself has eager's type and number in the file.

One export holds a whole battery; each of its results is a case of its own.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn.functional import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

from ropeexport.exporting.exporter import onnx_model
from ropeexport.exporting.lowering import axes_of_product
from ropeexport.manifest import Source
from ropeexport.models.example import Example
from ropeexport.modules import FluxSelfAttention, FluxSelfAttentionIds, RMSNorm, attention


class Given(NamedTuple):
    """f and g in float32, d in float64, h in float16, i and j in int64 and int32, m in bool."""

    f: torch.Tensor
    g: torch.Tensor
    d: torch.Tensor
    h: torch.Tensor
    i: torch.Tensor
    j: torch.Tensor
    m: torch.Tensor
    s: torch.Tensor  # float64, of rank 0: does not promote another float
    b: torch.Tensor


def written(x, index, value):
    x = x.clone()
    x[index] = value
    return x


CASES = {
    "einsum outer": lambda t: torch.einsum("ij,kl->ijkl", t.f, t.d),
    "einsum of ids": lambda t: torch.einsum("...n,d->...nd", t.i, t.d[0]),
    "einsum of narrow ids": lambda t: torch.einsum("...n,d->...nd", t.j, t.d[0]),
    "einsum of float16": lambda t: torch.einsum("bi , j -> b i j", t.h, t.f[0]),
    "einsum of three": lambda t: torch.einsum("i,j,k->kij", t.f[0], t.d[0], t.i[0]),
    "einsum elementwise": lambda t: torch.einsum("ij,ij->ij", t.i, t.f),
    "einsum permuted": lambda t: torch.einsum("...i,j->j...i", t.j, t.d[0]),
    "einsum implicit": lambda t: torch.einsum("b...,a", t.i, t.d[0]),
    "einsum of a number": lambda t: torch.einsum("ij,->ij", t.f, t.s),
    "einsum of booleans": lambda t: torch.einsum("i,j->ij", t.m[0], t.i[0]),
    "einsum diagonal": lambda t: torch.einsum("ii,j->ij", t.f[:, :3], t.d[0]),
    "einsum permutation": lambda t: torch.einsum("ij->ji", t.j),
    "einsum contracting": lambda t: torch.einsum("ij,kj->ik", t.h, t.h),
    "einsum summing first": lambda t: torch.einsum("ij,k->ik", t.f, t.d[0]),
    "einsum of broadcast axes": lambda t: torch.einsum("ij,ij->ij", t.f[:, :1], t.d),
    "stack": lambda t: torch.stack((t.f, t.d, t.i)),
    "stack of numbers": lambda t: torch.stack((t.f[0, 0], t.s)),
    "cat": lambda t: torch.cat((t.i, t.h, t.f)),
    "concat": lambda t: torch.concat((t.j, t.i), dim=1),
    "concatenate": lambda t: torch.concatenate((t.m, t.i)),
    "hstack": lambda t: torch.hstack((t.f, t.d)),
    "vstack": lambda t: torch.vstack((t.i, t.f)),
    "dstack": lambda t: torch.dstack((t.h, t.f)),
    "column_stack": lambda t: torch.column_stack((t.m, t.i)),
    "outer": lambda t: torch.outer(t.i[0], t.d[0]),
    "where": lambda t: torch.where(t.m, t.h, t.f),
    "where of a number": lambda t: torch.where(t.m, t.f, t.s),
    "pow": lambda t: torch.pow(t.i, t.f),
    "pow of wider": lambda t: torch.pow(t.f.abs(), t.d),
    "pow of integers": lambda t: torch.pow(t.j, t.i),
    "pow by a number": lambda t: t.i**0.5,
    "pow of a number": lambda t: 2.0**t.i,
    "ldexp": lambda t: torch.ldexp(t.f, t.j),
    "multiply": lambda t: torch.multiply(t.i, 2.5),
    "subtract": lambda t: torch.subtract(t.f, t.d),
    "divide": lambda t: torch.divide(t.i, t.j),
    "greater": lambda t: torch.greater(t.f, t.d),
    "greater_equal": lambda t: torch.greater_equal(t.i, t.f),
    "less": lambda t: torch.less(t.j, t.i),
    "less_equal": lambda t: torch.less_equal(t.h, t.f),
    "not_equal": lambda t: torch.not_equal(t.i, 2.5),
    "rsub": lambda t: torch.rsub(t.i, 2.5),
    "lerp": lambda t: torch.lerp(t.f, t.g, 0.5),
    "addcmul": lambda t: torch.addcmul(t.f, t.i, t.d),
    "clamp": lambda t: torch.clamp(t.i, min=t.f),
    "remainder": lambda t: torch.remainder(t.i, t.f.abs() + 1),
    "masked_fill": lambda t: t.f.masked_fill(t.m, t.s),
    "written by a mask": lambda t: written(t.f, t.m, t.s),
    "written into a slice": lambda t: written(t.f, (slice(None), slice(1, 3)), t.i[:, 1:3]),
    "index_fill": lambda t: t.f.index_fill(0, torch.tensor([0]), t.s),
    "select_scatter": lambda t: t.f.select_scatter(t.d[0], 0, 0),
    "slice_scatter": lambda t: t.h.slice_scatter(t.f[:2], 0, 0, 2),
    "in place": lambda t: t.f.clone().mul_(t.d).add_(t.i),
    "mean in a type": lambda t: t.i.mean(0, dtype=torch.float32),
    "softmax in a type": lambda t: t.i.softmax(-1, dtype=torch.float32),
    "log_softmax in a type": lambda t: t.i.log_softmax(-1, dtype=torch.float32),
    "nansum in a type": lambda t: t.i.nansum(0, dtype=torch.float32),
    "cumsum in a type": lambda t: t.j.cumsum(0, dtype=torch.float32),
    "sum of float16": lambda t: t.h.sum(0),
    "prod of float16": lambda t: t.h.prod(0),
    "cumsum of float16": lambda t: t.h.cumsum(0),
    "amax of float16": lambda t: t.h.amax(0),
    "index_add of float16": lambda t: t.h.index_add(0, torch.tensor([2, 0, 2]), t.h),
    "scatter_add of float16": lambda t: t.h.scatter_add(0, torch.zeros(3, 4).long(), t.h),
    "scatter_reduce of float16": lambda t: t.h.scatter_reduce(
        0, torch.zeros(3, 4).long(), t.h, "amax"
    ),
    "sum of integers": lambda t: t.j.sum(0),
    "layer_norm": lambda t: layer_norm(t.h, (4,), t.f[0], t.g[0]),
    "rms_norm": lambda t: rms_norm(t.h, (4,), t.f[0], 1e-6),
    "rms_norm of wider": lambda t: rms_norm(t.f, (4,), t.h[0], 1e-6),
    "group_norm": lambda t: group_norm(t.h[None], 3, t.f[:, 0], t.g[:, 0]),
    "instance_norm": lambda t: instance_norm(t.h[None], weight=t.f[:, 0], bias=t.g[:, 0]),
    "batch_norm": lambda t: batch_norm(t.h, t.f[0], t.g[0].abs(), t.f[1], t.g[1]),
}
IN_BFLOAT16 = {
    "einsum contracting": lambda t: torch.einsum("ij,kj->ik", t.b, t.b),
    "einsum outer": lambda t: torch.einsum("i,j->ij", t.b[0], t.f[0]),
    "stack": lambda t: torch.stack((t.b, t.h)),
    "sum": lambda t: t.b.sum(0),
    "layer_norm": lambda t: layer_norm(t.b, (4,), t.f[0], t.g[0]),
    "index": lambda t: t.f.expand(6, 3, 4)[t.j],
    "index_of_axes": lambda t: t.f.expand(6, 3, 4)[t.j, t.j % 3],
    "index_put": lambda t: t.f.clone().index_put((t.j[0].clamp(max=2), t.j[1] % 4), t.g[0]),
    "rms_norm": lambda t: rms_norm(t.b, (4,), t.f[0], 1e-6),
}


class Battery(nn.Module):
    def __init__(self, cases: dict) -> None:
        super().__init__()
        self.cases = list(cases.values())

    def forward(self, f, g, h, i, j, m):
        given = Given(f, g, g.double(), h, i, j, m, g[0, 0].double(), f.bfloat16())
        return tuple(case(given) for case in self.cases)


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    numbers = {name: torch.randn(3, 4) for name in "fg"} | {"h": torch.randn(3, 4).half()}
    whole = {"i": torch.randint(1, 5, (3, 4)), "j": torch.randint(1, 5, (3, 4)).int()}
    return numbers | whole | {"m": torch.rand(3, 4) > 0.5}


def exported(module: nn.Module, given: dict, axes: dict | None = None) -> ir.Model:
    example = Example(module.eval(), given, axes or {})
    model = onnx_model(example, Source(kind="factory", name="test")).model
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def type_of(tensor: torch.Tensor) -> ir.DataType:
    if tensor.dtype is torch.bfloat16:
        return ir.DataType.BFLOAT16
    return ir.DataType.from_numpy(tensor.numpy().dtype)


def arrays(given: dict) -> dict[str, np.ndarray]:
    return {
        name: x.float().numpy().astype(ml_dtypes.bfloat16)
        if x.dtype is torch.bfloat16
        else x.numpy()
        for name, x in given.items()
    }


def assert_close(ours: np.ndarray, eager: torch.Tensor, eps: float) -> None:
    ours, right = np.asarray(ours).astype("f8"), eager.double().numpy()
    assert ours.shape == right.shape
    error = np.abs(ours - right).max(initial=0.0)
    assert error <= 8 * eps * np.abs(right).max(initial=0.0), error


@pytest.fixture(scope="module")
def results():
    module, given = Battery(CASES), inputs()
    model = exported(module, given)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    feed = {x.name: given[x.name].numpy() for x in session.get_inputs()}
    eager = module(**given)
    types = [output.dtype for output in model.graph.outputs]
    return dict(zip(CASES, zip(session.run(None, feed), types, eager, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_mixed_types_are_promoted_as_in_eager(results, name: str) -> None:
    ours, dtype, eager = results[name]
    assert dtype == type_of(eager)
    if not eager.is_floating_point():
        np.testing.assert_array_equal(ours, eager.numpy())
        return
    # where a case sums in float32 and returns float64, eager's own rounding is float32's
    narrow = torch.float32 if eager.dtype is torch.float64 and "summing" in name else eager.dtype
    assert_close(ours, eager, torch.finfo(narrow).eps)


def test_bfloat16_is_promoted_as_in_eager() -> None:
    module, given = Battery(IN_BFLOAT16), inputs()
    model = exported(module, given)
    eager = module(**given)
    assert [output.dtype for output in model.graph.outputs] == [type_of(x) for x in eager]
    feed = {x.name: given[x.name].numpy() for x in model.graph.inputs}
    ours = ReferenceEvaluator(ir.to_proto(model)).run(None, feed)
    for x, right in zip(ours, eager, strict=True):
        assert_close(x, right, torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize(
    ("equation", "ranks"), [("ij,jk->ik", [2, 2]), ("...i,j->j", [2, 1]), ("ii->i", [2])]
)
def test_sums_and_diagonals_are_no_products(equation: str, ranks: list[int]) -> None:
    assert axes_of_product(equation, ranks) is None


def test_a_product_written_as_einsum_leaves_no_einsum() -> None:
    class Outer(nn.Module):
        def forward(self, x, y):
            return torch.einsum("...n,d->d...n", x, y), torch.einsum("...i,...i->...i", x, y)

    given = {"x": torch.randn(2, 3), "y": torch.randint(0, 9, (3,))}
    model = exported(Outer(), given, {"x": {0: "batch"}})
    assert "Einsum" not in {node.op_type for node in model.graph}
    other = {"x": torch.randn(5, 3), "y": torch.randint(0, 9, (3,))}
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    for ours, eager in zip(session.run(None, arrays(other)), Outer()(**other), strict=True):
        np.testing.assert_array_equal(ours, eager.numpy())


class Autocast(nn.Module):
    """A module in a region of its own under autocast."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x, ids):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.module(x, ids)


class Mixed(nn.Module):
    """Einsum of mixed types, which eager takes under autocast alone, norms, joins and sums."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, x, ids):
        y = self.linear(x)
        scores = torch.einsum("bld,bmd->blm", y, x)
        angles = torch.einsum("...n,d->...nd", ids[..., 1], torch.ones(4, dtype=torch.float64))
        return self.norm(y), scores, torch.cat((y, x)), y.sum(), angles.cos().float()


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("make", [Mixed, lambda: FluxSelfAttentionIds(32, 2, (4, 6, 6))])
def test_autocast_gives_what_it_gives_in_eager(make, inside: bool) -> None:
    torch.manual_seed(0)
    module = Autocast(make()) if inside else make()
    given = {"x": torch.randn(2, 6, 32), "ids": torch.randint(0, 50, (2, 6, 3))}
    axes = {name: {0: "batch", 1: "length"} for name in given}
    other = {"x": torch.randn(3, 9, 32), "ids": torch.randint(0, 50, (3, 9, 3))}
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=not inside):
        model = exported(module, given, axes)
        eager = module(**other)
    eager = eager if isinstance(eager, tuple) else (eager,)
    assert [output.dtype for output in model.graph.outputs] == [type_of(x) for x in eager]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's on bfloat16
        ours = ReferenceEvaluator(ir.to_proto(model)).run(None, arrays(other))
    for x, right in zip(ours, eager, strict=True):
        assert_close(x, right, torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_norm_scales_in_a_narrow_model(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = FluxSelfAttentionIds(32, 2, (4, 6, 6)).to(dtype)
    for norm in module.modules():
        if isinstance(norm, RMSNorm):
            norm.float()
    given = {"x": torch.randn(2, 6, 32, dtype=dtype), "ids": torch.randint(0, 50, (2, 6, 3))}
    eager = module(**given)
    assert eager.dtype is dtype
    model = exported(module, given)
    assert sum("ApplyRope" in node.op_type for node in model.graph) == 1
    ours = ReferenceEvaluator(ir.to_proto(model)).run(None, arrays(given))[0]
    assert_close(ours, eager.detach(), torch.finfo(dtype).eps)


def test_attention_under_autocast_takes_values_of_another_type() -> None:
    q, pe = torch.randn(1, 2, 6, 8), torch.eye(2).expand(1, 1, 6, 4, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention(q, q, q.bfloat16(), pe)
        right = nn.functional.scaled_dot_product_attention(q, q, q.bfloat16())
        x, table = torch.randn(1, 6, 16), torch.eye(2).expand(1, 1, 6, 4, 2, 2)
        assert FluxSelfAttention(16, 2)(x, table).dtype is torch.bfloat16
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, right.transpose(1, 2).flatten(2))
