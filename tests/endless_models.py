"""Small ONNX models with loops and large constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_SHAPE = ["batch", 4]


def _value(name: str, kind: int = TensorProto.FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], *inputs: onnx.ValueInfoProto
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [_value("x", shape=_SHAPE), *inputs],
        [_value("y", shape=_SHAPE)],
        [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def loop(
    count: int | str | None = None,
    *,
    begins: bool = True,
    until: str = "",
    inner: onnx.ModelProto | None = None,
) -> onnx.ModelProto:
    """Return a model that negates ``x`` in a loop.

    Its count is a number, an input of that name, or none; ``until`` has it read what it computes,
    which the loop ends by, ``r < z`` at once and ``r >= z`` never; ``inner`` is a loop within it,
    of the same count.
    """
    goes_on = [helper.make_node("Identity", ["goes"], ["goes_on"])]
    if until:
        op = {"r < z": "Less", "r >= z": "GreaterOrEqual"}[until]
        goes_on = [
            helper.make_node("Abs", ["v"], ["a"]),
            helper.make_node("ReduceMax", ["a"], ["r"], keepdims=0),
            helper.make_node(op, ["r", "z"], ["goes_on"]),
        ]
    body = helper.make_graph(
        [helper.make_node("Neg", ["v"], ["w"]), *goes_on, *(inner.graph.node if inner else ())],
        "body",
        [_value("i", TensorProto.INT64, []), _value("goes", TensorProto.BOOL, []), _value("v")],
        [_value("goes_on", TensorProto.BOOL, []), _value("w")],
    )
    constants: dict[str, Any] = {"t": np.array(begins), "z": np.array(-1, np.float32)}
    if isinstance(count, int):
        constants["m"] = np.array(count)
    given = [_value(count, TensorProto.INT64, [])] if isinstance(count, str) else []
    first = count if isinstance(count, str) else "m" if count is not None else ""
    return _model(
        [helper.make_node("Loop", [first, "t", "x"], ["y"], body=body)], constants, *given
    )


def range_of(count: int) -> onnx.ModelProto:
    """Return a model that adds the sum of a range to ``x``."""
    nodes = [
        helper.make_node("Range", ["zero", "count", "one"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    return _model(nodes, {"zero": np.array(0), "one": np.array(1), "count": np.array(count)})


def made_by(op: str, *constants: NDArray[Any]) -> onnx.ModelProto:
    """Return a model that adds the largest number to ``x`` that an operator makes of constants."""
    named = {f"c{place}": x for place, x in enumerate(constants)}
    nodes = [
        helper.make_node(op, list(named), ["made"]),
        helper.make_node("ReduceMax", ["made"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    return _model(nodes, named)
