"""The stage itself: a graph in, a graph with its rotary applications as ops and exact angles out.

Each application is proven before it is replaced, and what was rewritten is compared once more with
the graph that came in; a rewrite that departs from it is taken back, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ropeexport.fusion.angles import make_exact
from ropeexport.fusion.applications import Found, find, pair_up
from ropeexport.fusion.comparison import Outcome, compare_regions
from ropeexport.fusion.evaluation import Trial
from ropeexport.fusion.movement import Movement, Twins, merge_twins
from ropeexport.fusion.native import find_native
from ropeexport.fusion.op_inputs import Tables
from ropeexport.fusion.rewrite import Group, Region, region_of, swap_in
from ropeexport.fusion.suspects import graphs_inside, refusal
from ropeexport.fusion.unify import Joined, unify
from ropeexport.manifest import Comparison, Refusal, RopeCount
from ropeexport.onnx_files.shapes import is_unknown
from ropeexport.ops.forms import form_of
from ropeexport.ops.rope_table import MAX_POSITION

Names = tuple[str, ...]


@dataclass(frozen=True)
class Fused:
    """A model whose rotary applications are ops, what became of each, and what was compared.

    ``before`` is the model that it was made from, and ``relations`` has the axes that are others.
    """

    model: ir.Model
    before: ir.Model
    count: RopeCount
    comparison: Comparison
    relations: Mapping[str, str]


def fuse(model: ir.Model, *, max_position: int = MAX_POSITION) -> Fused:
    """Replace every proven rotary application of a model's main graph by an op, its angles exact.

    Parameters
    ----------
    model : ir.Model
        With the types and shapes of its values known, and a name for each; it stays as it is.
        Function bodies of ropeexport's ops are not attached.
    max_position : int
        The largest position that tables of angles must hold.

    Returns
    -------
    Fused
        Applications that were ops already count as found and replaced.
    """
    ropes: dict[Names, str] = {}  # what stays as it is written, and why, by its results
    waves: dict[str, str] = {}  # of them, cosines and sines
    source = model.clone()
    merge_twins(source.graph)
    joined = unify(source)
    while True:
        made = source.clone()
        count, regions = _replaced(made, ropes, joined)
        angles = make_exact(made, max_position=max_position, leave=waves)
        rewritten = angles.rewritten
        changed = [r for r in regions if r.replaces or rewritten[r.op]]
        outcomes = compare_regions(source, made, changed)
        wrong = {r: reason for r in changed if (reason := outcomes[r.name].reason)}
        if not regions:
            made = model.clone()
        if not wrong:
            joined.forget(made)
            _keep_interface(model, made)
            compared = _comparison(outcomes, waves | angles.left)
            return Fused(made, model, count, compared, joined.relations)
        for region, reason in wrong.items():
            if rewritten[region.op]:  # what was done last is taken back
                waves |= dict.fromkeys(rewritten[region.op], reason)
            else:
                ropes[tuple(name for name, _ in region.results)] = reason


def unfused(model: ir.Model) -> Fused:
    """Return a model as it is: its rotary applications are those that are ops already."""
    made = model.clone()
    ops = sum(form_of(node.domain, node.op_type) is not None for node in made.graph)
    return Fused(made, model, RopeCount(found=ops, replaced=ops), _comparison({}, {}), {})


def _keep_interface(before: ir.Model, after: ir.Model) -> None:
    """Give inputs and outputs the names and shapes that they had, in place.

    Where an op's own result has taken the place of an output, it gets that name.
    """
    named = {value.name: value for node in after.graph for value in node.outputs}
    for old, new in zip(before.graph.outputs, after.graph.outputs, strict=True):
        if new.name != old.name:
            replaced = named.get(old.name)
            if replaced is not None:  # nothing reads it
                replaced.name = f"{old.name}_replaced"
            new.name = old.name
    for sides in (
        (before.graph.inputs, after.graph.inputs),
        (before.graph.outputs, after.graph.outputs),
    ):
        for old, new in zip(*sides, strict=True):
            if old.shape is not None and not any(map(is_unknown, old.shape)):
                new.shape = old.shape


def _comparison(outcomes: Mapping[str, Outcome], left: Mapping[str, str]) -> Comparison:
    shapes = {str(shape): shape for outcome in outcomes.values() for shape in outcome.shapes}
    return Comparison(
        regions=len(outcomes),
        shapes=tuple(shapes.values()),
        max_position=max((o.largest for o in outcomes.values()), default=0),
        worst_region=max((o.worst for o in outcomes.values()), default=None),
        left=tuple(Refusal(node=name, reason=reason) for name, reason in left.items()),
    )


def _replaced(
    model: ir.Model, leave: Mapping[Names, str], joined: Joined
) -> tuple[RopeCount, list[Region]]:
    """Put ops in the place of applications, in place, but for those to leave.

    ``joined`` are the axes that stand for several, see :func:`unify`.
    """
    graph = model.graph
    regions = [region_of(node) for node in graph if form_of(node.domain, node.op_type)]
    trial, movement = Trial(graph, model.opset_imports[""]), Movement()
    twins, tables = Twins(movement), Tables(joined)
    found, native = find(graph, trial, movement, twins), find_native(graph, twins)
    refused, not_judged = [*found.refused, *native.refused], [*found.not_judged]
    for body, place in graphs_inside(graph):
        inside = _inside(body, place, find(body, trial, movement, twins), find_native(body, twins))
        refused += inside.refused
        not_judged += inside.not_judged
    for group in _groups(graph, joined, found, native):
        for made in _put(group, leave, lambda g: swap_in(g, tables, trial, movement)):
            if isinstance(made, Region):
                regions.append(made)
            else:
                refused.append(made)
    graph.sort()
    count = RopeCount(
        found=len(regions) + len(refused),
        replaced=len(regions),
        refused=tuple(refused),
        not_judged=tuple(not_judged),
    )
    return count, regions


def _put(
    group: Group, leave: Mapping[Names, str], swap: Callable[[Group], Region | str]
) -> list[Region | Refusal]:
    """Put an op in the place of a group; of two for which there is none, in that of each."""
    made = leave.get(tuple(str(a.root.name) for a in group)) or swap(group)
    if isinstance(made, Region):
        return [made]
    alone = [x for one in group for x in _put((one,), leave, swap)] if len(group) > 1 else []
    return alone if any(isinstance(x, Region) for x in alone) else [_refused(group, made)]


def _inside(body: ir.Graph, place: str, *found: Found) -> Found:
    """Return what was found in a graph inside the model's, where no op is put."""
    groups = _groups(body, Joined(), *found)
    refused = [refusal for part in found for refusal in part.refused]
    unjudged = [refusal for part in found for refusal in part.not_judged]
    return Found(
        refused=[_refused(group, f"{place}, where no op is put") for group in groups]
        + [x.changed(reason=f"{place}: {x.reason}") for x in refused],
        not_judged=[x.changed(reason=f"{place}: {x.reason}") for x in unjudged],
    )


def _groups(graph: ir.Graph, joined: Joined, *found: Found) -> list[Group]:
    return [group for part in found for group in pair_up(part.applications, graph, joined)]


def _refused(group: Group, reason: str) -> Refusal:
    producer = group[0].root.producer()
    assert producer is not None  # a root is computed
    return refusal(producer, reason)
