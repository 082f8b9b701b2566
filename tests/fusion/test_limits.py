"""How far positions go: asked of the graph, whatever it makes of its inputs on the way."""

from __future__ import annotations

import pytest
from fusion.graphs import ANGLES, FREQUENCIES, ROPE, X, again, graph, has_exact_angles

from ropeexport.fusion.fuse import fuse
from ropeexport.fusion.limits import Limits, limits_of
from ropeexport.ops.rope_table import MAX_POSITION

OF_MADE = ANGLES.replace("(pos,", "(p,")
VALUES = f"{FREQUENCIES}, int64 shift = {{5}}, int64 twice = {{2}}, int64 most = {{7}}"
# what is made of positions, and the largest that an input may have then
MADE = {
    "as they are": ("p = Identity(pos)", MAX_POSITION),
    "shifted": ("p = Add(pos, shift)", MAX_POSITION - 5),
    "shifted back": ("p = Sub(pos, shift)", MAX_POSITION),
    "doubled": ("p = Mul(pos, twice)", MAX_POSITION // 2),
    "negated and doubled": ("q = Neg(pos) p = Mul(q, twice)", MAX_POSITION // 2),
    "bounded": ("p = Min(pos, most)", MAX_POSITION),
    "by the length": ("n = Shape(pos) p = Add(pos, n)", None),
    "by another's operator": ("p = other.moved(pos)", MAX_POSITION),
}


@pytest.mark.parametrize("name", MADE)
def test_the_limit_is_what_an_input_may_have(name: str) -> None:
    nodes, limit = MADE[name]
    shapes = f"{VALUES}, int64[length] p"
    fused = fuse(graph(nodes + OF_MADE + ROPE, f"{X}, int64[length] pos", values=shapes))
    assert has_exact_angles(fused)
    assert limits_of(fused.model) == Limits(MAX_POSITION, limit)


@pytest.mark.parametrize("kind", ["float", "float16", "double", "int32", "uint8"])
def test_positions_of_every_type_have_one(kind: str) -> None:
    """Though not every type can say the largest."""
    floored = "whole = Floor(pos) p = Cast<to = 1>(whole)"
    nodes = floored if kind in ("float", "float16", "double") else "p = Identity(pos)"
    inputs = f"{X}, {kind}[length] pos, bool[length] mask"
    fused = fuse(graph(nodes + OF_MADE + ROPE, inputs, values=VALUES), max_position=200_000)
    assert has_exact_angles(fused)
    assert limits_of(fused.model) == Limits(200_703, 200_703)


def test_all_tables_have_to_hold_it() -> None:
    """Each rope makes something else of the same positions."""
    nodes = "p = Identity(pos) p_2 = Mul(pos, twice)" + OF_MADE + ROPE + again(OF_MADE + ROPE, "p")
    outputs = "float[batch, 2, length, 8] y, float[batch, 2, length, 8] y_2"
    fused = fuse(graph(nodes, f"{X}, int64[length] pos", outputs, VALUES))
    assert fused.count.replaced == 2
    assert limits_of(fused.model) == Limits(MAX_POSITION, MAX_POSITION // 2)


def test_a_graph_without_tables_has_none() -> None:
    assert limits_of(fuse(graph(ROPE)).model) is None
