"""What an input's whole numbers are for follows from what the graph does with it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ropeexport.onnx_files.contract import input_specs
from ropeexport.parity.cases import Case
from ropeexport.parity.inputs import make_inputs

HEAD = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1, "my" : 1]>\n'
ANGLES = "a = Cast<to = 1>(i) b = Unsqueeze(a, last) c = Mul(b, f) d = Concat<axis = -1>(c, c)"
LAST = "<int64[1] last = {-1}>"

ROTARY = "float[b, 2, n, 8] x, float[50, 4] c, float[50, 4] s, int64[b, n] i"
# a graph's inputs, its nodes, and the role and limit of its input i
USES = {
    "rows of a weight": (
        "int64[b, n] i", "<float[7, 4] w> { a = Cast<to = 6>(i) y = Gather(w, a) }", "data", 7,
    ),
    "rows of a table that is an input": (
        "float[4, 9] x, int32[n] i", "{ y = Gather<axis = -1>(x, i) }", "data", 9,
    ),
    "rows of a table of unknown size": (
        "float[?] x, int64[n] i", "{ y = Gather(x, i) }", "data", 1,
    ),
    "rows of an axis": ("float[m] x, int64[n] i", "{ y = Gather(x, i) }", "data", "m"),
    "rows of two axes": (
        "float[m, n] x, int64[n] i", "{ z = Gather(x, i) y = Gather<axis = 1>(x, i) }", "data", 1,
    ),
    "rows behind those of an axis": (
        "float[m] x, int64[n] i", "<int64 two = {2}> { j = Add(i, two) y = Gather(x, j) }", "data",
        "m - 2",
    ),
    "a part of an index": (
        "float[6] x, float[2] z, int64[n] i, int64[n] k",
        "<int64 three = {3}> { first = Gather(z, k) more = Mul(k, three) j = Add(more, i) "
        "y = Gather(x, j) }", "data", 3,
    ),
    "places that are written": (
        "float[m] x, float[n] z, int64[n] i", "{ y = ScatterElements(x, i, z) }", "places", "m",
    ),
    "places that are added to": (
        "float[m] x, float[n] z, int64[n] i",
        '{ y = ScatterElements<reduction = "add">(x, i, z) }', "data", "m",
    ),
    "rows of several axes": (
        "float[5, 3, 9] x, int64[n, 2] i", "{ y = GatherND(x, i) }", "data", 3,
    ),
    "elements": (
        "float[5, 3] x, int64[5, 2] i", "{ y = GatherElements<axis = 1>(x, i) }", "data", 3,
    ),
    "rows behind what is before them": (
        "float[9, 4] w, int64[b, n] i, bool c",
        "<int64[2] before = {0, 3}> { a = Add(i, before) j = Where(c, i, a) y = Gather(w, j) }",
        "data", 6,
    ),
    "classes": (
        "float[5, 3] x, int64[5] i", "{ y = NegativeLogLikelihoodLoss(x, i) }", "data", 3,
    ),
    "positions of tables that are inputs": (
        ROTARY, "{ a = Identity(i) y = RotaryEmbedding(x, c, s, a) }", "positions", 50,
    ),
    "positions of onnxruntime's operator": (
        ROTARY, "{ y = com.microsoft.RotaryEmbedding(x, i, c, s) }", "positions", 50,
    ),
    "positions that become angles": (
        "int64[b, n] i, float[4] f", f"{LAST} {{ {ANGLES} y = Cos(d) }}", "positions", None,
    ),
    "positions of a row, without a batch": (
        "int64[n] i, float[4] f", f"{LAST} {{ {ANGLES} y = Sin(d) }}", "positions", None,
    ),
    "a timestep": (
        "int64 i, float[4] f", "{ a = Cast<to = 1>(i) b = Mul(a, f) y = Sin(b) }", "positions",
        None,
    ),
    "a mask that is compared": (
        "int64[b, n] i, int64 z, float[b, n] x", "{ a = Equal(i, z) y = Where(a, x, x) }", "mask",
        None,
    ),
    "a mask that is turned around": (
        "int64[b, n] i, float z", "{ a = Cast<to = 1>(i) y = Sub(z, a) }", "mask", None,
    ),
    "a mask that is counted": (
        "int64[b, n] i", "<int64[1] one = {1}> { y = ReduceSum(i, one) }", "mask", None,
    ),
    "axes": ("float[a, b, c] x, int64[2] i", "{ y = ReduceSum(x, i) }", "axes", None),
    "sizes": ("float[1] x, int64[3] i", "{ y = Expand(x, i) }", "sizes", None),
    "a shape": ("float[a, b] x, int64[3] i", "{ y = Reshape(x, i) }", "shape", None),
    "plain numbers": ("int64[b, n] i", "{ y = Add(i, i) }", "numbers", None),
    "bytes": ("uint8[b, 3] i", "{ a = Cast<to = 1>(i) y = Add(a, a) }", "numbers", None),
}  # fmt: skip


def written(inputs: str, nodes: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f"{HEAD}g ({inputs}) => (float y) {nodes}"))


@pytest.mark.parametrize("use", USES)
def test_the_role_of_an_input(use: str) -> None:
    inputs, nodes, role, below = USES[use]
    found = next(spec for spec in input_specs(written(inputs, nodes)) if spec.name == "i")
    assert (found.role, found.below) == (role, below)


def test_a_role_is_seen_through_a_function() -> None:
    text = HEAD + "g (float[5, 3] x, int64[n] i) => (float y) { y = my.Rows(x, i) }\n"
    text += '<domain: "my", opset_import: ["" : 23]>\nRows (t, j) => (r) { r = Gather(t, j) }'
    found = input_specs(ir.from_proto(onnx.parser.parse_model(text)))[1]
    assert found.below is not None, "an index, though its table is the caller's"


def drawn(inputs: str, nodes: str, **sizes: int) -> list[np.ndarray]:
    """Return what is drawn for i by several seeds."""
    specs = input_specs(written(inputs, nodes))
    kind = "long positions" if specs[-1].role == "positions" else "random data"
    cases = (Case("c", kind, sizes, seed) for seed in range(20))
    return [make_inputs(case, specs)["i"] for case in cases]


def test_what_is_drawn_fits_its_use() -> None:
    for x in drawn(*USES["positions of tables that are inputs"][:2], b=2, n=40):
        assert (x.dtype, x.shape) == (np.int64, (2, 40))
        assert 0 <= x.min() <= x.max() < 50
    for x in drawn(*USES["a mask that is counted"][:2], b=3, n=6):
        assert (np.diff(x, axis=1) <= 0).all(), "ones, then zeros"
        assert set(x[:, 0]) == {1}
    assert all((x == [0, 1]).all() for x in drawn(*USES["axes"][:2], a=2, b=2, c=2))
    assert all((x == 1).all() for x in drawn(*USES["sizes"][:2]))
    assert all(list(x) == [-1, 1, 1] for x in drawn(*USES["a shape"][:2], a=2, b=2))
    alone = drawn("int64 i", "{ y = Add(i, i) }")
    assert {x.shape for x in alone} == {()}
    assert all(type(x) is np.ndarray for x in alone)


def test_places_are_each_another_of_an_axis() -> None:
    for x in drawn(*USES["places that are written"][:2], m=9, n=7):
        assert len({*x.tolist()}) == 7
        assert {*x.tolist()} <= {*range(9)}
    assert {*drawn(*USES["places that are written"][:2], m=9, n=9)[0].tolist()} == {*range(9)}
    rows = np.concatenate(drawn(*USES["rows of an axis"][:2], m=5, n=40))
    assert {*rows.tolist()} == {*range(5)}
    parts = np.concatenate(drawn(*USES["a part of an index"][:2], n=40))
    assert {*parts.tolist()} == {0, 1, 2}


def test_positions_in_order_end_where_their_table_does() -> None:
    inputs, nodes, *_ = USES["positions of tables that are inputs"]
    specs = input_specs(written(inputs, nodes))
    made = make_inputs(Case("c", "flux positions", {"b": 1, "n": 60}, 0), specs)["i"]
    assert (made == np.arange(60) % 50).all()
