"""The comparison of a whole graph with the one that it was made from: what it lets through."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ropeexport.dtypes import SINGLE
from ropeexport.errors import ExportError
from ropeexport.exporting.whole_graph import compare_whole, with_whole
from ropeexport.manifest import Comparison

UNIT = SINGLE.unit_roundoff  # what rounding to float32 loses of a number, at most
X = "float[batch, length, 4] x"


def graph(
    nodes: str, inputs: str = X, outputs: str = "float[batch, length, 4] y", values: str = ""
) -> ir.Model:
    header = '<ir_version: 10, opset_import: ["" : 23, "other" : 1]>'
    constants = f"<{values}>" if values else ""
    text = f"{header} g ({inputs}) => ({outputs}) {constants} {{ {nodes} }}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def constant(values: object, added: object = 0.0) -> ir.Model:
    """Return a graph with one output, whose elements are given as float64."""
    model = graph(
        "y = Add(c, d)", outputs="double[length] y", values="double c = {0}, double d = {0}"
    )
    for name, value in (("c", values), ("d", added)):
        array = np.asarray(value, dtype=np.float64)
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return model


def test_of_very_many_nodes_nothing_is_compared() -> None:
    """Each takes the evaluator tens of microseconds, six times: minutes of a chain of 100,000."""
    nodes = [ir.node("Neg", [ir.val("x", ir.DataType.FLOAT, [2])])]
    for _ in range(20_000):
        nodes.append(ir.node("Neg", [nodes[-1].outputs[0]]))
    long = ir.Model(ir.Graph(nodes[0].inputs, nodes[-1].outputs, nodes=nodes), ir_version=10)
    assert compare_whole(long, long) == (None, "it has 20,001 nodes, more than 20,000")


def share(before: ir.Model, after: ir.Model) -> float:
    worst, reason = compare_whole(before, after)
    assert reason == ""
    assert worst is not None
    return worst


def refused(before: ir.Model, after: ir.Model) -> str:
    with pytest.raises(ExportError) as error:
        compare_whole(before, after)
    return str(error.value)


def test_what_is_equal_uses_nothing_of_what_is_allowed() -> None:
    assert share(graph("y = Neg(x)"), graph("y = Neg(x)")) == 0.0


def test_zeros_that_are_equal_use_nothing_of_what_is_allowed() -> None:
    assert share(constant([0.0, 0.0]), constant([0.0, 0.0])) == 0.0


def test_thirty_two_roundings_of_the_largest_value_are_allowed() -> None:
    ones = constant([1.0, -4.0])
    assert share(ones, constant([1.0, -4.0], [31 * 4 * UNIT, 0.0])) == pytest.approx(31 / 32)
    assert "output 'y'" in refused(ones, constant([1.0, -4.0], [33 * 4 * UNIT, 0.0]))


def test_eight_times_the_error_of_the_graph_as_it_was_is_allowed() -> None:
    lost = "high = Add(c, one)  y = Sub(high, c)"  # 1, and 0 in float32
    values = "float c = {100000000.0}, float one = {1.0}"
    before = graph(lost, outputs="float y", values=values)
    assert share(before, constant(1.0, 7.9)) == pytest.approx(7.9 / 8, abs=1e-5)
    assert "expected at most 8" in refused(before, constant(1.0, 8.1))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e38])
def test_a_mask_and_what_is_not_finite_are_equal_to_themselves_alone(wrong: float) -> None:
    right = constant([1.0, wrong])
    assert share(right, constant([1.0, wrong])) == 0.0
    assert "output 'y'" in refused(constant([1.0, 2.0]), right)
    assert "output 'y'" in refused(right, constant([1.0, 2.0]))


def test_infinity_is_not_its_negative() -> None:
    assert "output 'y'" in refused(constant([np.inf]), constant([-np.inf]))


def test_what_is_not_finite_says_nothing_of_the_other_values() -> None:
    for large in (np.nan, np.inf, 1e38, 1e300):  # 1e300 is infinite in float32
        assert "output 'y'" in refused(constant([large, 1.0]), constant([large, 1.001]))


def test_an_error_that_is_not_finite_allows_nothing() -> None:
    # the root of -1e-60 is NaN; in float32, that of -0 is -0
    nodes = "a = Mul(c, c)  b = Neg(a)  d = Sqrt(b)  y = Concat<axis = 0>(d, {})"
    values = "float[1] c = {1e-30}, float[1] one = {1.0}, float[1] more = {1.001}"
    right, wrong = (
        graph(nodes.format(last), outputs="float[length] y", values=values)
        for last in ("one", "more")
    )
    assert share(right, right) == 0.0
    assert "output 'y'" in refused(right, wrong)


def test_a_mask_is_held_to_its_own_roundings() -> None:
    masked = constant([-1e38, 1.0])
    assert share(masked, constant([-1e38 * (1 + 31 * UNIT), 1.0])) == 0.0
    assert "output 'y'" in refused(masked, constant([-1e38 * (1 + 40 * UNIT), 1.0]))


def test_another_shape_is_a_difference() -> None:
    assert "got inf" in refused(constant([1.0, 1.0]), constant([1.0, 1.0, 1.0]))
    assert "got inf" in refused(
        constant([1.0]), constant([1.0, 1.0])
    )  # which NumPy would broadcast


def test_every_output_is_compared_and_named() -> None:
    outputs = "float[batch, length, 4] y, float[batch, length, 4] z"
    before = graph("y = Neg(x)  z = Abs(x)", outputs=outputs)
    assert "output 'z'" in refused(before, graph("y = Neg(x)  z = Neg(x)", outputs=outputs))
    assert "output 'y'" in refused(before, graph("y = Abs(x)  z = Abs(x)", outputs=outputs))


def test_axes_are_tried_unlike_each_other_all_alike_and_all_single() -> None:
    # one is added at these sizes alone
    nodes = """
      s = Shape<end = 2>(x)
      hit = Equal(s, sizes)
      all = Cast<to = 6>(hit)
      both = ReduceMin<keepdims = 0>(all)
      more = Cast<to = 1>(both)
      y = Add(x, more)
    """
    for sizes in ("2, 6", "4, 4", "1, 1"):
        wrong = graph(nodes, values=f"int64[2] sizes = {{{sizes}}}")
        assert "output 'y'" in refused(graph("y = Identity(x)"), wrong), sizes
    assert share(graph("y = Identity(x)"), graph(nodes, values="int64[2] sizes = {5, 7}")) == 0.0


def test_an_axis_that_broadcasts_is_single() -> None:
    nodes = "s = Shape<end = 1>(x)  m = Sub(s, one)  f = Cast<to = 1>(m)  y = Add(x, f)"
    wrong = graph(nodes, values="int64[1] one = {1}")
    right = graph("y = Identity(x)")
    assert compare_whole(right, wrong, single={"batch"}) == (0.0, "")
    assert "output 'y'" in refused(right, wrong)


def test_what_cannot_be_evaluated_is_said() -> None:
    unknown = graph("y = other.Unknown(x)")
    worst, reason = compare_whole(unknown, unknown)
    assert worst is None
    assert reason.startswith("onnx's reference implementation cannot evaluate it: ")


def test_a_graph_that_cannot_be_evaluated_after_it_could_before_is_not_taken_as_equal() -> None:
    worst, reason = compare_whole(graph("y = Neg(x)"), graph("y = other.Unknown(x)"))
    assert (worst, bool(reason)) == (None, True)


def test_weights_that_are_not_there_yet_are_said(tmp_path) -> None:
    weight = ir.ExternalTensor(
        "w", 0, 16, ir.DataType.FLOAT, shape=ir.Shape((4,)), name="w", base_dir=tmp_path
    )
    model = graph("y = Add(x, w)", values="float[4] w = {0, 0, 0, 0}")
    model.graph.initializers["w"].const_value = weight
    worst, reason = compare_whole(model, model)
    assert worst is None
    assert reason.startswith("its weights cannot be read: ")


def test_what_would_take_too_long_is_not_tried() -> None:
    shape = "float[200000, 200000]"
    wide = graph("y = other.Unknown(x)", f"{shape} x", f"{shape} y")
    assert compare_whole(wide, wide) == (None, "it would take too long")


def test_a_graph_with_half_types_is_compared_from_where_its_constants_are_folded() -> None:
    nodes = "h = Cast<to = 10>(x)  z = Cast<to = 1>(h)  y = Add(z, c)"
    before, folded = (graph(nodes, values=f"float c = {{{c}}}") for c in (0.1, 0.0999755859375))
    none = Comparison()
    assert with_whole(none, before, folded, folded).worst_whole == 0.0
    with pytest.raises(ExportError):
        with_whole(none, before, folded, before)
    plain, other = graph("y = Neg(x)"), graph("y = Abs(x)")
    assert with_whole(none, plain, other, plain).worst_whole == 0.0
    assert with_whole(none, None, plain, plain).worst_whole == 0.0
    for source in (plain, None):
        with pytest.raises(ExportError):
            with_whole(none, source, plain, other)


def test_a_graph_of_large_weights_is_compared_region_by_region() -> None:
    size = 256 * 10**6 // 4
    large = ir.Value(name="w", const_value=ir.tensor(np.zeros(1, np.float32)))
    graph = ir.Graph([], [], nodes=[], initializers=[large], opset_imports={"": 23})
    model = ir.Model(graph, ir_version=10)
    large.const_value = ir.LazyTensor(
        lambda: pytest.fail("a weight was read"), dtype=ir.DataType.FLOAT, shape=ir.Shape([size])
    )
    assert compare_whole(model, model) == (None, "its weights take 256 MB, 256 or more")


def of_text(nodes: str, kind: str = "float") -> ir.Model:
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 23]>
        g ({kind}[n] x) => ({kind}[n] y)
        <float low = {{-3e38}}, float zero = {{0.0}}, float much = {{1.01}}, float one = {{1.0}}>
        {{ {nodes} }}"""
    )


@pytest.mark.parametrize("kind", ["float", "float16", "bfloat16"])
def test_a_small_difference_of_a_whole_graph_is_found_in_every_type(kind: str) -> None:
    one, much = (
        of_text(f"factor = CastLike({factor}, x) y = Mul(x, factor)", kind)
        for factor in ("one", "much")
    )
    assert compare_whole(one, one) == (0.0, "")
    with pytest.raises(ExportError, match="departs"):
        compare_whole(one, much)


def test_what_a_mask_hides_no_difference_behind() -> None:
    nodes = "negative = Less(x, zero) scaled = Mul(x, {}) y = Where(negative, low, scaled)"
    one, much = (of_text(nodes.format(factor)) for factor in ("one", "much"))
    assert compare_whole(one, one) == (0.0, "")
    with pytest.raises(ExportError, match="departs"):
        compare_whole(one, much)
