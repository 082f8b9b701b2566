"""Long chains of nodes, wherever a graph is followed: longer than Python's stack is deep."""

from __future__ import annotations

import ast
import sys
from itertools import pairwise

import pytest
from fusion.graphs import FREQUENCIES, ROPE, X, assert_same, graph, has_exact_angles, ops
from onnxscript.optimizer import FOLDED_FROM_KEY

from ropeexport.exporting.simplify import simplify
from ropeexport.fusion.fuse import fuse
from ropeexport.fusion.movement import in_order
from ropeexport.lint.graph_rules import after, before

LONG = 2 * sys.getrecursionlimit()
POSITIONS = f"{X}, int64[length] pos"
TABLES = """
  column = Unsqueeze({}, one)
  angle = Mul(column, frequencies)
  angles = Concat<axis = -1>(angle, angle)
  cos = Cos({})
  sin = Sin({})
"""
VALUES = f"{FREQUENCIES}, float[4] fast = {{2.0, 0.1, 0.01, 0.001}}, float eighth = {{0.125}}"


def chain(op: str, name: str, until: str) -> str:
    """Return nodes that make ``until`` of ``name``, one after the other."""
    names = [name, *(f"{until}_{number}" for number in range(LONG)), until]
    pairs = pairwise(names)
    return "\n".join(f"{new} = {op}({old})" for old, new in pairs)


WHOLE = "p = Cast<to = 1>(pos)\n"
# a chain, and what the tables are made of: positions, and angles
PLACES = {
    "positions that stay whole": (
        "q = Cast<to = 1>(pos) r = Mul(q, eighth)\n" + chain("Identity", "r", "p"), "p", "angles"
    ),
    "positions in float64": (
        "d = Cast<to = 11>(pos)\n" + chain("Identity", "d", "e") + "\np = Cast<to = 1>(e)",
        "p", "angles",
    ),
    "angles that are moved": (WHOLE, "p", "moved"),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_exact_angles_at_the_end_of_a_chain(place: str) -> None:
    nodes, positions, angles = PLACES[place]
    tables = TABLES.format(positions, angles, angles)
    if angles == "moved":
        tables = tables.replace("  cos =", chain("Identity", "angles", "moved") + "\n  cos =")
    made = fuse(graph(nodes + tables + ROPE, POSITIONS, values=VALUES))
    assert ops(made) == ["ApplyRopeCosSinHalfSingle"]
    assert has_exact_angles(made)


def test_a_chain_of_sizes_and_data_that_is_moved_in_two_ways() -> None:
    """The sizes are an input of what moves data, and each of two such chains is looked at."""
    sizes = "shape = Shape(x)\n" + chain("Neg", "shape", "size") + "\ntall = Neg(size)\n"
    nodes = sizes + "moved = Reshape(x, tall)\n" + ROPE.replace("(x,", "(moved,")
    made = fuse(graph(nodes))
    assert ops(made) == ["ApplyRopeHalfSingle"]
    assert_same(made)


def test_two_chains_that_are_the_same() -> None:
    nodes = (
        chain("Identity", "x", "one_way") + "\n" + chain("Identity", "x", "other_way") + "\n"
        + ROPE.replace("(x, zero", "(one_way, zero").replace("(x, half", "(other_way, half")
    )  # fmt: skip
    made = fuse(graph(nodes))
    assert ops(made) == ["ApplyRopeHalfSingle"]


def test_rules_look_through_a_chain() -> None:
    model = graph(
        "first = Sin(x)\n" + chain("Identity", "first", "last_one") + "\ny = Cos(last_one)"
    )
    nodes = list(model.graph)
    assert after(nodes[0].outputs[0]) == [nodes[-1]]
    assert before(nodes[-1].inputs[0]) is nodes[0]


def test_what_is_needed_comes_first_in_whatever_order_it_is_named() -> None:
    needs = {"a": "bc", "b": "d", "c": "bd", "d": ""}
    assert list(in_order("a", needs.__getitem__)) == ["d", "b", "c", "a"]
    swapped = {name: of[::-1] for name, of in needs.items()}
    assert list(in_order("a", swapped.__getitem__)) == ["d", "b", "c", "a"]


def test_what_is_folded_does_not_name_all_that_it_was_folded_from() -> None:
    """onnxscript would sort and print the whole chain before each node of it."""
    model = graph(chain("Neg", "half", "folded") + "\nat = Add(zero, folded)\ny = Expand(x, at)")
    simplify(model, weights=())
    named = {
        value.name: ast.literal_eval(value.metadata_props.get(FOLDED_FROM_KEY, "[]"))
        for value in model.graph.initializers.values()
    }
    assert max(map(len, named.values())) == 2, named
    assert len(model.graph) == 1
