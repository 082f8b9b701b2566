"""How far positions go: the largest that a model's tables of angles hold, asked of its inputs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ropeexport.fusion.evaluation import Trial, UnevaluableError, evaluate
from ropeexport.ops import names
from ropeexport.ops.rope_table import limit_of

# the sizes of axes at which a model is asked; what it makes of a sum depends on them
_SIZES = ((2, 6, 4, 10), (3, 11, 5, 7))


@dataclass(frozen=True)
class Limits:
    """How far positions go.

    Parameters
    ----------
    tables : int
        The largest position that all tables hold, as the model makes it.
    inputs : int or None
        The largest that every position input may be given; None where no one number says it.
    """

    tables: int
    inputs: int | None


def limits_of(model: ir.Model) -> Limits | None:
    """Return how far the positions of a model go; None where it has no table of angles.

    A model may add something to its positions, so the graph is asked what it makes of a number in
    every input, and the largest that stays within the tables is found by halving.  Where it sums
    over a length (positions from a mask), no number says it.
    """
    table = (names.DOMAIN, names.ROPE_TABLE)
    tables = [node for node in model.graph if (node.domain, node.op_type) == table]
    if not tables:
        return None
    limit = min(_limit(node) for node in tables)
    found = {_largest(model, tables, sizes, limit) for sizes in _SIZES}
    return Limits(limit, found.pop() if len(found) == 1 else None)


def _largest(model: ir.Model, tables: list[ir.Node], sizes: Sequence[int], limit: int) -> int:
    trial = Trial(model.graph, model.opset_imports[""], sizes)
    if _holds(model, tables, trial, limit) or not _holds(model, tables, trial, 0):
        return limit  # what is beyond at any position has another cause than the input
    beyond = range(1, limit)
    return bisect_left(beyond, True, key=lambda n: not _holds(model, tables, trial, n))


def _limit(node: ir.Node) -> int:
    coarse = node.inputs[1]
    assert coarse is not None
    assert coarse.shape is not None  # a table is a constant
    rows = coarse.shape[0]
    assert isinstance(rows, int)
    return limit_of(rows)


def _holds(model: ir.Model, tables: list[ir.Node], trial: Trial, position: int) -> bool:
    """Say whether each table holds what is made of one number in every input."""
    given = {
        value: np.full(trial.shape(value), _nearest(position, value.dtype))
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


def _nearest(position: int, dtype: ir.DataType) -> Any:
    """Return a position as an input of a type can have it; floating data is float64 throughout."""
    if dtype.is_floating_point():
        return np.float64(position)
    if not dtype.is_integer():
        return dtype.numpy().type(position)
    return dtype.numpy().type(min(position, int(ml_dtypes.iinfo(dtype.numpy()).max)))
