"""What looks like a rope and cannot be judged is counted, with why; nothing else is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from fusion.graphs import ANGLES, FREQUENCIES, ROPE, SUMMED, TURNED, X, Y, again, graph
from fusion.writings import WRITINGS
from onnx.backend.test.case.node import collect_testcases
from torch import nn

from ropeexport.exporting.exporter import onnx_model, work_of
from ropeexport.exporting.passes import SIMPLIFY, run
from ropeexport.exporting.tracing import trace
from ropeexport.fusion.fuse import fuse
from ropeexport.fusion.suspects import suspects
from ropeexport.manifest import Source
from ropeexport.models.example import Example

SOURCE = Source(kind="factory", name="test")


def without_shapes(nodes: str, inputs: str, values: str = "") -> ir.Model:
    """Return a graph of which nothing is known behind its first operator, which is another's."""
    more = f", {values}" if values else ""
    constants = "int64[1] zero = {0}, int64[1] half = {4}, int64[1] end = {8}, int64[1] last = {-1}"
    return ir.from_proto(
        onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["" : 23, "other" : 1]>
            g ({inputs}) => (float[a, b, c, 8] y) <{constants}{more}> {{ {nodes} }}"""
        )
    )


INPUTS = "float[batch, 2, length, 8] given, float[length, 8] cos, float[length, 8] sin"
CHUNKS = """
  a, b = Split<axis = -1, num_outputs = 2>(x)
  ac = Mul(a, cos) bs = Mul(b, sin) bc = Mul(b, cos) as = Mul(a, sin)
  first = Sub(ac, bs) second = Add(bc, as)
  y = Concat<axis = -1>(first, second)
"""
UNSIGNED = """
  a = Slice(x, zero, half, last) b = Slice(x, half, end, last)
  turned = Concat<axis = -1>(b, a)
"""
SUSPECTS = {
    "halves": ROPE,
    "the sign is in the table": UNSIGNED + SUMMED,
    "halves, each with a row": CHUNKS,
}


@pytest.mark.parametrize("name", SUSPECTS)
def test_a_rope_of_unknown_shape_is_not_judged(name: str) -> None:
    fused = fuse(without_shapes("x = other.project(given)" + SUSPECTS[name], INPUTS))
    assert (fused.count.found, fused.count.replaced, fused.count.refused) == (0, 0, ())
    (refusal,) = fused.count.not_judged
    assert refusal.reason == "unknown shapes at x"


def test_each_tensor_that_is_not_judged_is_counted() -> None:
    nodes = "x = other.q(given) x_2 = other.k(given)" + ROPE + again(ROPE, "x")
    assert len(fuse(without_shapes(nodes, INPUTS)).count.not_judged) == 2


def test_what_one_table_is_broadcast_by_is_not_judged() -> None:
    """The data has one head, the tables have two: the result is larger than what is rotated."""
    inputs = "float[batch, 1, length, 8] x, float[2, length, 8] cos, float[2, length, 8] sin"
    (refusal,) = fuse(graph(ROPE, inputs, Y)).count.not_judged
    assert refusal.node == "y"
    assert refusal.reason == "no data of its result's shape is among its factors"


NONE = {
    "a gate": "a, b = Split<axis = -1, num_outputs = 2>(x) s = Sigmoid(b) t = Mul(a, s) "
    "u = Mul(t, cos) y = Add(u, sin)",
    "a blend of shifted data": "a = Slice(x, zero, half, last) b = Slice(x, half, end, last) "
    "n = Mul(a, cos) m = Mul(b, sin) y = Add(n, m)",
    "two products of one": "n = Mul(x, cos) m = Mul(x, sin) y = Add(n, m)",
    "a norm": "c = Sub(x, cos) q = Mul(c, c) d = Mul(c, sin) e = Mul(q, cos) y = Add(d, e)",
    "a complex product": "re = other.a(x) im = other.b(x) rc = Mul(re, cos) is = Mul(im, sin) "
    "rs = Mul(re, sin) ic = Mul(im, cos) k = Sub(rc, is) l = Add(rs, ic) "
    "y = Concat<axis = -1>(k, l)",
    "a wave of one product": "c = Cos(cos) s = Sin(sin) n = Mul(x, c) m = Mul(x, s) y = Add(n, m)",
}


@pytest.mark.parametrize("name", NONE)
def test_other_sums_of_products_are_no_suspects(name: str) -> None:
    fused = fuse(without_shapes("x = other.project(given)" + NONE[name], INPUTS))
    assert fused.count.not_judged == ()


@pytest.mark.parametrize("name", WRITINGS)
def test_every_writing_is_a_suspect_by_its_nodes(name: str) -> None:
    """One for each of q and k, whatever is known of shapes."""
    x, pos = torch.randn(2, 6, 16), torch.arange(6).repeat(2, 1)
    axes = {0: "batch", 1: "length"}
    example = Example(WRITINGS[name]().eval(), {"x": x, "pos": pos}, {"x": axes, "pos": axes})
    model = run((SIMPLIFY,), work_of(trace(example, 23).model, example, SOURCE)).model
    assert len(suspects(model.graph)) == 2


class Ordinary(nn.Module):
    """Norms, gates, masks, resizing, recurrent cells: sums of products that rotate nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.batch, self.group = nn.LayerNorm(8), nn.BatchNorm1d(6), nn.GroupNorm(2, 6)
        self.cell, self.up, self.down = nn.GRUCell(8, 8), nn.Linear(8, 16), nn.Linear(8, 8)

    def forward(self, x):
        a, b = self.up(self.layer(x)).chunk(2, dim=-1)
        gated = nn.functional.silu(a) * b + nn.functional.gelu(a, approximate="tanh") * (1 - b)
        mixed = x * 0.3 * self.down.weight[0] + nn.functional.pad(x, (0, 0, 1, -1)) * a
        wide = nn.functional.interpolate(x[:, None], scale_factor=2, mode="bilinear")
        state = self.cell(x[:, 0], x[:, 1])
        angle = torch.cat((x.sin(), x.cos()), dim=-1)
        mask = torch.where(a > b, 0.0, float("-inf"))
        return self.group(self.batch(gated)), mixed, wide, state, angle, mask * 1.0 + a * b


def test_an_ordinary_network_has_no_suspects() -> None:
    x = torch.randn(2, 6, 8)
    made = onnx_model(Example(Ordinary().eval(), {"x": x}, {"x": {0: "batch"}}), SOURCE)
    assert made.count.not_judged == ()
    assert made.count.found == 0


def test_of_onnx_own_examples_the_rotations_alone_are_suspects() -> None:
    """Of its examples of every operator, a rotary embedding written out, and nothing else."""
    with np.errstate(all="ignore"):
        cases = collect_testcases(None)
    assert len(cases) > 1500
    graphs = {
        case.name: [model.graph, *model.functions.values()]
        for case in cases
        for model in [ir.from_proto(case.model)]
    }
    found = {name for name, parts in graphs.items() if any(suspects(part) for part in parts)}
    assert found == {name for name in graphs if "rotary" in name and "expanded" in name}


BRANCH = f"""
  y = If (flag) <
    then_branch = then () => (float[batch, 2, length, 8] rotated) {{
      {(TURNED + SUMMED).replace("y = ", "rotated = ")} }},
    else_branch = other () => (float[batch, 2, length, 8] same) {{ same = Identity(x) }}
  >
"""


def test_a_rope_in_a_branch_is_refused_by_its_place() -> None:
    fused = fuse(graph(BRANCH, f"{X}, float[length, 8] cos, float[length, 8] sin, bool flag"))
    (refusal,) = fused.count.refused
    assert (fused.count.found, fused.count.not_judged) == (1, ())
    assert refusal.reason.startswith("inside the then_branch of If ")


def test_a_rope_of_unknown_shape_in_a_branch_is_not_judged_by_its_place() -> None:
    branch = BRANCH.replace("float[batch, 2, length, 8] ", "float[a, b, c, 8] ")
    model = without_shapes("x = other.project(given)" + branch, f"{INPUTS}, bool flag")
    (refusal,) = fuse(model).count.not_judged
    assert refusal.reason.startswith("inside the then_branch of If ")
    assert refusal.reason.endswith("unknown shapes at x")


def test_an_operator_in_a_branch_is_counted_too() -> None:
    branch = """
      y = If (flag) <
        then_branch = then () => (float[batch, 2, length, 8] rotated) {
          rotated = RotaryEmbedding(x, cos, sin) },
        else_branch = other () => (float[batch, 2, length, 8] same) { same = Identity(x) }
      >
    """
    tables = "float[batch, length, 4] cos, float[batch, length, 4] sin, bool flag"
    (refusal,) = fuse(graph(branch, f"{X}, {tables}")).count.refused
    assert "then_branch" in refusal.reason


def test_a_rope_in_a_loop_is_not_judged_by_its_place() -> None:
    body = f"""
      y = Loop (trips, , x) <
        body = turn (int64 i, bool on, float[batch, 2, length, 8] x_in)
          => (bool on_out, float[batch, 2, length, 8] x_out) {{
          on_out = Identity(on)
          {(ANGLES + ROPE).replace("(x", "(x_in").replace("y = ", "x_out = ")} }}
      >
    """
    fused = fuse(graph(body, f"{X}, float[length] pos, int64 trips", Y, FREQUENCIES))
    (refusal,) = fused.count.not_judged
    assert refusal.reason.startswith("inside the body of Loop ")
    assert refusal.reason.endswith("unknown shapes at column")
