"""A few nodes in float64, at trial sizes: what they give, and why one cannot be computed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from fusion.graphs import X, graph

from ropeexport.fusion.evaluation import (
    EVEN_SIZES,
    ODD_SIZES,
    Trial,
    UnevaluableError,
    evaluate,
)


def value(model: ir.Model, name: str) -> ir.Value:
    made = [x for node in model.graph for x in node.outputs]
    return next(x for x in (*model.graph.inputs, *made) if x.name == name)


def computed(nodes: str, given: dict[str, np.ndarray] | None = None, **trial) -> np.ndarray:
    """Return what nodes make of ``y``; ``x`` is (batch, 2, length, 8)."""
    model = graph(nodes, f"{X}, int64[length] pos", "", "float number = {0.1}")
    rounded = {value(model, name) for name in trial.pop("rounded", ())}
    numbers = {value(model, name): array for name, array in (given or {}).items()}
    sizes = Trial(model.graph, 23, rounded=rounded, **trial)
    return evaluate(value(model, "y"), numbers, sizes, {})


def fails(nodes: str, given: dict[str, np.ndarray] | None = None) -> str:
    with pytest.raises(UnevaluableError) as error:
        computed(nodes, given)
    return str(error.value)


ONES = {"x": np.ones((2, 2, 6, 8))}


def test_axes_have_sizes_in_the_order_of_their_names() -> None:
    assert computed("y = Shape(x)").tolist() == [2, 2, 6, 8]
    assert computed("y = Shape<start = 1, end = -1>(x)").tolist() == [2, 6]
    assert computed("y = Shape<start = 2>(x)").tolist() == [6, 8]
    assert computed("y = Shape(x)", sizes=(5,)).tolist() == [5, 2, 5, 8]
    assert computed("y = Shape(x)", sizes=(3, 4)).tolist() == [3, 2, 4, 8]


def test_the_shape_of_what_is_not_known_follows_from_its_numbers() -> None:
    nodes = "moved = other.moved(x) y = Shape(moved)"
    assert computed(nodes, {"moved": np.zeros((3, 1))}).tolist() == [3, 1]


def test_everything_is_computed_in_float64() -> None:
    assert computed("y = Mul(x, number)", ONES).dtype == np.float64
    assert computed("y = Mul(x, number)", ONES).flat[0] == float(np.float32(0.1))
    assert computed("half_x = Cast<to = 10>(x) y = Cast<to = 1>(half_x)", ONES).dtype == np.float64
    third = {"x": np.full((2, 2, 6, 8), 1 / 3)}
    assert computed("y = Cast<to = 10>(x)", third).flat[0] == 1 / 3
    assert computed("y = CastLike(x, pos)", third | {"pos": np.arange(6)}).flat[0] == 1 / 3
    assert computed("y = Identity(x)", third).flat[0] == 1 / 3


def test_whole_numbers_are_made_whole() -> None:
    assert computed("y = Cast<to = 7>(x)", {"x": np.full((2, 2, 6, 8), 2.7)}).dtype == np.int64
    assert computed("y = Cast<to = 1>(pos)", {"pos": np.arange(6)}).dtype == np.float64
    assert computed("y = Cast<to = 9>(pos)", {"pos": np.arange(6)}).tolist() == [False] + 5 * [True]


def test_half_types_round_where_they_are_to_count() -> None:
    third = {"x": np.full((2, 2, 6, 8), 1 / 3)}
    nodes = "half_x = Cast<to = 10>(x) y = Cast<to = 1>(half_x)"
    assert computed(nodes, third, rounded=["half_x"]).flat[0] == float(np.float16(1 / 3))
    assert computed(nodes, third, rounded=["x", "y"]).flat[0] == 1 / 3


def test_every_output_of_a_node_is_computed_at_once() -> None:
    nodes = "a, b = Split<axis = -1, num_outputs = 2>(x) y = Sub(b, a)"
    x = np.broadcast_to(np.arange(8.0), (2, 2, 6, 8))
    assert (computed(nodes, {"x": x}) == 4.0).all()


def test_constants_and_attributes_are_taken_as_they_are() -> None:
    model = graph("both = Constant<value_ints = [1, 2]>() y = Neg(both)", X, "")
    constant = value(model, "both")
    constant.const_value = ir.tensor(np.array([1, 2]))
    assert evaluate(value(model, "y"), {}, Trial(model.graph, 23), {}).tolist() == [-1, -2]
    assert computed("y = Transpose<perm = [1, 0, 3, 2]>(x)", ONES).shape == (2, 2, 8, 6)


def test_what_is_given_is_not_computed_again() -> None:
    nodes = "moved = other.moved(x) y = Neg(moved)"
    assert computed(nodes, {"moved": np.ones(3)}).tolist() == [-1, -1, -1]
    assert computed("y = Neg(x)", {"y": np.ones(3)}).tolist() == [1, 1, 1]


def test_a_long_chain_is_no_deep_recursion() -> None:
    chain = "y_0 = Neg(x)" + "".join(f" y_{i + 1} = Neg(y_{i})" for i in range(2000))
    assert (computed(chain + " y = Neg(y_2000)", ONES) == 1.0).all()


def test_an_op_of_ours_means_what_it_means() -> None:
    nodes = 'y = ropeexport.ApplyRopeCosSinHalfSingle<pairing = "half">(x, cos, sin)'
    tables = "float[batch, length, 4] cos, float[batch, length, 4] sin"
    model = graph(nodes, f"{X}, {tables}", "")
    quarter = {"cos": np.zeros((2, 6, 4)), "sin": np.ones((2, 6, 4))} | ONES
    given = {value(model, name): x for name, x in quarter.items()}
    y = evaluate(value(model, "y"), given, Trial(model.graph, 23), {})
    assert (y[..., :4] == -1.0).all()
    assert (y[..., 4:] == 1.0).all()


def test_reasons_name_what_is_missing() -> None:
    assert fails("y = Neg(x)") == "x depends on the model's data"
    assert fails("z = other.op(x) y = Neg(z)", ONES) == "no meaning is known of other::op"
    assert fails("z = Gather(pos, pos) y = Neg(z)", {"pos": np.array([9])}).startswith("Gather ")
    assert fails("w = other.made(x) y = MatMul(x, w)", ONES | {"w": np.ones((3, 3))}).startswith(
        "MatMul "
    )


def test_a_filled_shape_has_its_number() -> None:
    filled = computed("s = Shape(x) y = ConstantOfShape<value = float[1] {0.1}>(s)", ONES)
    assert (filled.shape, filled.dtype) == ((2, 2, 6, 8), np.float64)
    assert (filled == float(np.float32(0.1))).all()
    assert computed("s = Shape<end = 1>(x) y = ConstantOfShape(s)", ONES).tolist() == [0.0, 0.0]


def test_an_operator_that_its_opset_lacks_is_named() -> None:
    assert "opset 23 has no operator Squeezed" in fails("y = Squeezed(x)", ONES)


def test_shapes_that_are_not_known_are_named() -> None:
    model = graph("z = other.op(x) y = Neg(z)", X, "")
    trial = Trial(model.graph, 23)
    with pytest.raises(UnevaluableError, match="the shape of z is not known"):
        trial.shape(value(model, "z"))
    unknown = value(model, "y")
    unknown.shape = ir.Shape(["elsewhere", 2])
    with pytest.raises(UnevaluableError, match="a dimension of y is not known"):
        trial.shape(unknown)
    unknown.shape = ir.Shape(["batch + length", 2])
    assert trial.shape(unknown) == (8, 2)


def with_constant(tensor: ir.TensorProtocol) -> tuple[ir.Model, ir.Value]:
    model = graph("y = Add(x, number)", X, "", "float number = {0.1}")
    model.graph.initializers["number"].const_value = tensor
    return model, value(model, "y")


def lazy(size: int, read) -> ir.LazyTensor:
    return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape([size]))


def test_a_weight_is_not_read() -> None:
    model, y = with_constant(lazy((1 << 22) + 1, lambda: pytest.fail("a weight was read")))
    given = {model.graph.inputs[0]: np.ones((2, 2, 6, 8))}
    with pytest.raises(UnevaluableError, match="number is a weight") as error:
        evaluate(y, given, Trial(model.graph, 23), {})
    assert error.value.value is model.graph.initializers["number"]


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_a_constant_that_is_not_in_its_place_is_named(kind: type[Exception]) -> None:
    def read() -> ir.TensorProtocol:
        raise kind("no such file")

    model, y = with_constant(lazy(1 << 22, read))
    given = {model.graph.inputs[0]: np.ones((2, 2, 6, 8))}
    with pytest.raises(UnevaluableError, match="number cannot be read: no such file"):
        evaluate(y, given, Trial(model.graph, 23), {})


@pytest.mark.parametrize(
    "dim", ["length // 4", "length - 5", "past + length", "length * 2", "(length - 127) // 64 // 3"]
)
def test_no_axis_that_a_graph_makes_has_fewer_than_two_elements(dim: str) -> None:
    """One element would broadcast, and of none nothing is shown."""
    inputs = "float[batch, length] x, float[past, 8] z"
    model = graph("y = Neg(x) w = Neg(z)", inputs, "float[batch, length] y, float[past, 8] w")
    model.graph[0].outputs[0].shape = ir.Shape([dim, 8])
    trial = Trial(model.graph, 23)
    (size, _) = trial.shape(model.graph[0].outputs[0])
    assert size >= 2
    assert len(set(trial.symbols.values())) == 3
    assert trial.symbols["batch"] == 2, "it is no part of the axis"


def test_an_axis_without_a_size_is_named() -> None:
    model = graph("y = Neg(x)", X)
    model.graph[0].outputs[0].shape = ir.Shape(["batch - length", 8])
    with pytest.raises(UnevaluableError, match="the size of y is negative at trial sizes"):
        Trial(model.graph, 23).shape(model.graph[0].outputs[0])


@pytest.mark.parametrize("sizes", [EVEN_SIZES, ODD_SIZES])
def test_dozens_of_axes_have_sizes_of_their_own(sizes: tuple[int, ...]) -> None:
    names = [f"axis_{number}" for number in range(36)]
    model = graph("y = Neg(x)", f"float[{', '.join(names)}] x", "")
    made = Trial(model.graph, 23, sizes).symbols
    assert len(set(made.values())) == len(names)
    assert max(made.values()) < 100
