"""How far positions go: the largest that a model's tables of angles hold, asked of its inputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ropeexport.fusion.evaluation import Trial, UnevaluableError, evaluate
from ropeexport.onnx_ops import names
from ropeexport.onnx_ops.rope_table import limit_of


def largest_position(model: ir.Model) -> int | None:
    """Return the largest number that every position input may have; None where no table is.

    It is the tables' own limit, less what the model adds to its positions: the graph is asked what
    it makes of a number, and the largest that stays within the tables is found by halving.
    """
    tables = [node for node in model.graph if _is_table(node)]
    if not tables:
        return None
    low, high = 0, min(_limit(node) for node in tables)
    if _holds(model, tables, high) or not _holds(model, tables, low):
        return high  # what is beyond at any position has another cause than the input
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _holds(model, tables, middle) else (low, middle)
    return low


def _is_table(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == (names.DOMAIN, names.ROPE_TABLE)


def _limit(node: ir.Node) -> int:
    coarse = node.inputs[1]
    assert coarse is not None
    assert coarse.shape is not None  # a table is a constant
    rows = coarse.shape[0]
    assert isinstance(rows, int)
    return limit_of(rows)


def _holds(model: ir.Model, tables: list[ir.Node], position: int) -> bool:
    """Say whether each table holds what is made of one number in every input."""
    trial = Trial(model.graph, model.opset_imports[""])
    given = {
        value: np.full(trial.shape(value), position, dtype=_numpy_type(value))
        for value in model.graph.inputs
        if value.shape is not None and value.dtype is not None
    }
    for node in tables:
        value = node.inputs[0]
        assert value is not None
        try:
            made = evaluate(value, given, trial, {})
        except UnevaluableError:
            continue  # it follows from more than the inputs
        if np.abs(made).max(initial=0) > _limit(node):
            return False
    return True


def _numpy_type(value: ir.Value) -> np.dtype:
    assert value.dtype is not None
    return np.dtype(np.float64) if value.dtype.is_floating_point() else value.dtype.numpy()
