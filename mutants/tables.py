"""Edits of the tables that positions are looked up in, and of how angles are made."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from mutants.edits import Edit
from mutants.models import KINDS
from ropeexport.ops.rope_table import digit_tables

Table = NDArray[np.float32]
_THETA = 10000.0

_ANGLES = """
  wide = Cast<to = 1>(x)
  ends = Constant<value_ints = [-1]>()
  column = Unsqueeze(wide, ends)
  angle = Mul(column, frequencies)
  cos = Cos(angle)
  sin = Sin(angle)
  minus_sin = Neg(sin)
  flat = Concat<axis = -1>(cos, minus_sin, sin, cos)
  pairs = Constant<value_ints = [0, 0, 4, -1]>()
  rows = Reshape(flat, pairs)
  turned = Transpose<perm = [0, 1, 3, 2]>(rows)
  square = Constant<value_ints = [0, 0, -1, 2, 2]>()
  wrong = Reshape(turned, square)
"""


def of_frequencies(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Edit:
    """Return an edit that makes the tables of other frequencies."""

    def edit(model: ModelProto) -> None:
        for node, dim in _ropes(model):
            tables = digit_tables(change(_frequencies(dim)))
            _give(model, node, dict(zip(node.input[1:], tables, strict=True)))

    return edit


def of_entries(change: Callable[[Table], Table], place: int | None = None) -> Edit:
    """Return an edit of the tables' entries; place 0 is the coarse digit's, 1 the fine digit's."""

    def edit(model: ModelProto) -> None:
        held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node, _ in _ropes(model):
            names = [name for i, name in enumerate(node.input[1:]) if place in (None, i)]
            _give(model, node, {name: change(held[name].copy()) for name in names})

    return edit


def angles_in_float32(model: ModelProto) -> None:
    """Make angles as a float32 product of position and frequency."""
    opsets = ", ".join(f'"{e.domain}" : {e.version}' for e in model.opset_import)
    nodes = {id(node): (node, dim) for node, dim in _ropes(model)}
    made: list[NodeProto] = []
    for node in model.graph.node:
        if id(node) not in nodes:
            made.append(node)
            continue
        dim = nodes[id(node)][1]
        function = onnx.parser.parse_function(
            f'<domain: "mutant", opset_import: [{opsets}]>\nedit (x) => (wrong) {{ {_ANGLES} }}'
        )
        names = {name: f"{node.name}_{name}" for one in function.node for name in one.output}
        names |= {"x": node.input[0], "wrong": node.output[0]}
        names["frequencies"] = f"{node.name}_frequencies"
        values = _frequencies(dim).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, names["frequencies"]))
        for one in function.node:
            one.input[:] = [names.get(name, name) for name in one.input]
            one.output[:] = [names.get(name, name) for name in one.output]
            made.append(one)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in made]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def rounded(dtype: str) -> Callable[[Table], Table]:
    """Return the rounding of a table to a narrower type."""
    narrow = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    return lambda table: table.astype(narrow).astype(np.float32)


def without_remainders(table: Table) -> Table:
    """Return a table whose entries lack what their float32 leading part leaves."""
    table[..., 2:] = 0.0
    return table


def a_row_late(table: Table) -> Table:
    """Return a table whose rows begin one too late."""
    return np.concatenate([table[:1], table[:-1]])


def _ropes(model: ModelProto) -> list[tuple[NodeProto, int]]:
    """Return the nodes that look positions up, each with its share of the head size."""
    nodes = [node for node in model.graph.node if node.op_type == "RopeTable"]
    return list(zip(nodes, KINDS["ids"].axes_dim, strict=True))


def _frequencies(dim: int) -> NDArray[np.float64]:
    return np.asarray(_THETA ** -(np.arange(0, dim, 2) / dim), dtype=np.float64)


def _give(model: ModelProto, node: NodeProto, tables: dict[str, Table]) -> None:
    """Give a node tables of its own, whoever else reads the former ones."""
    for index, name in enumerate(node.input):
        if name in tables:
            node.input[index] = f"{node.name}_{name}"
            made = numpy_helper.from_array(tables[name], node.input[index])
            model.graph.initializer.append(made)
