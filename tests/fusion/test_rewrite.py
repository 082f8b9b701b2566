"""The proof before an op is put in: whatever was recognised wrongly, the graph stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from fusion.graphs import ROPE, Y, again, graph, ops
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ropeexport.exporting.passes import attach_functions
from ropeexport.fusion.applications import Application, Layout, find
from ropeexport.fusion.evaluation import Trial
from ropeexport.fusion.fuse import Fused, fuse
from ropeexport.fusion.movement import Movement, Twins
from ropeexport.fusion.op_inputs import Tables
from ropeexport.fusion.regions import Selection
from ropeexport.fusion.rewrite import Region, swap_in


def swapped(model: ir.Model, *changes: Callable[[Application], Application]) -> Region | str:
    """Find the application of a graph, change what was found, and put the op in its place."""
    movement, trial = Movement(), Trial(model.graph, 23)
    found = find(model.graph, trial, movement, Twins(movement))
    (application,) = found.applications
    assert (found.refused, found.not_judged) == ([], [])
    for change in changes:
        application = change(application)
    return swap_in((application,), Tables(), trial, movement)


def test_what_was_recognised_rightly_is_put_in() -> None:
    model = graph(ROPE)
    region = swapped(model)
    assert isinstance(region, Region)
    assert (region.name, region.replaces) == ("y", True)
    assert region.op in list(model.graph)
    assert model.graph.outputs[0].producer() is region.op


def with_pairing(application: Application) -> Application:
    return replace(application, rotary=replace(application.rotary, pairing="interleaved"))


def with_rotations(application: Application) -> Application:
    return replace(application, rotary=replace(application.rotary, is_rotation=True))


def with_entry(place: int, **changes: object) -> Callable[[Application], Application]:
    def change(application: Application) -> Application:
        entries = list(application.rotary.entries)
        entries[place] = replace(entries[place], **changes)
        return replace(application, rotary=replace(application.rotary, entries=tuple(entries)))

    return change


def exchanged(application: Application) -> Application:
    entries = application.rotary.entries[::-1]
    return replace(application, rotary=replace(application.rotary, entries=entries))


SECOND = Selection("slice", 4, 8)
WRONG = {
    "the pairing": with_pairing,
    "tables that are no rotations": with_rotations,
    "the order of the entries": exchanged,
    "the sign of a sine": with_entry(1, factor=1.0),
    "the sign of a cosine": with_entry(3, factor=-1.0),
    "a factor": with_entry(2, factor=1.0 + 2.0**-20),
    "the half of a table": with_entry(0, selection=SECOND),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_op_that_would_differ_is_not_put_in(name: str) -> None:
    model = graph(ROPE)
    before = ir.to_proto(model).SerializeToString()
    reason = swapped(model, WRONG[name])
    assert isinstance(reason, str)
    assert reason.startswith("the op would differ by ")
    assert ir.to_proto(model).SerializeToString() == before


def test_an_op_of_another_shape_is_not_put_in() -> None:
    nodes = "x = Slice(whole, zero, two, one)" + ROPE
    inputs = "float[batch, 4, length, 8] whole, float[length, 8] cos, float[length, 8] sin"
    model = graph(nodes, inputs)
    before = ir.to_proto(model).SerializeToString()
    reason = swapped(model, lambda found: replace(found, x=model.graph.inputs[0]))
    assert reason == "the op would give shape (2, 4, 6, 8), the graph gives (2, 2, 6, 8)"
    assert ir.to_proto(model).SerializeToString() == before


def test_an_op_that_cannot_be_evaluated_is_not_put_in() -> None:
    model = graph(ROPE)
    before = ir.to_proto(model).SerializeToString()
    blhd = Layout(4, (0, 2, 1, 3), (), (2,))
    reason = swapped(model, lambda found: replace(found, layout=blhd))
    assert isinstance(reason, str)
    assert reason.startswith("cannot be compared with the op: ")
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("steps", ["", " moved = Relu(y)"])
def test_what_was_rotated_may_be_rotated_again(steps: str) -> None:
    again_on = "moved" if steps else "y"
    second = again(ROPE).replace("(x,", f"({again_on},")
    fused = fuse(graph(ROPE + steps + second, outputs=f"{Y}, {Y}_2"))
    assert (fused.count.found, fused.count.replaced) == (2, 2)
    RemoveUnusedNodesPass()(fused.model)
    assert ops(fused) == 2 * ["ApplyRopeHalfSingle"]
    assert_same_numbers(fused)


def assert_same_numbers(fused: Fused) -> None:
    """Hold what was fused to what it was, by onnx's reference."""
    made, rng = fused.model.clone(), np.random.default_rng(6)
    attach_functions(made)
    shapes = {"x": (2, 2, 5, 8), "cos": (5, 8), "sin": (5, 8)}
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    sides = [ReferenceEvaluator(ir.to_proto(m)).run(None, feed) for m in (made, fused.before)]
    for ours, theirs in zip(*sides, strict=True):
        assert np.abs(ours - theirs).max() <= 8 * 2.0**-23 * np.abs(theirs).max()
