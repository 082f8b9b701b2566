"""The rotary applications of a graph: found, proven, and paired; nothing is changed here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ropeexport.dtypes import EXPORTED
from ropeexport.fusion.evaluation import Trial, UnevaluableError, evaluate
from ropeexport.fusion.layout import Layout, layout_of
from ropeexport.fusion.movement import Movement
from ropeexport.fusion.probe import NotRotaryError, Rotary, deep_values, probe
from ropeexport.fusion.regions import Regions
from ropeexport.fusion.twins import Twins
from ropeexport.manifest import Refusal
from ropeexport.operators import is_standard
from ropeexport.ops.forms import Tables, tables_for

_FLOATS = tuple(kind.ir for kind in EXPORTED.values())


@dataclass(frozen=True)
class Application:
    """One rotated tensor: from ``x`` to ``root``, casts to float32 and back left out of it.

    With a ``rotary_size`` the first so many elements of the last axis are rotated, the rest passes.
    """

    rotary: Rotary
    layout: Layout
    x: ir.Value
    root: ir.Value
    rotary_size: int | None = None


def find(
    graph: ir.Graph, trial: Trial, movement: Movement, twins: Twins
) -> tuple[list[Application], list[Refusal]]:
    """Return the applications in the graph's order, and what was refused."""
    regions = Regions(graph, movement)
    found: list[Application] = []
    refused: list[Refusal] = []
    done: set[ir.Node] = set()
    for seed in regions.seeds:
        products = regions.products(seed.outputs[0])
        if products & done:
            continue
        application, reason = _at(seed, regions, trial, movement)
        if application is not None:
            found.append(_with_shared_tables(application, twins))
            done |= regions.products(application.rotary.region.root)
        elif reason is not None:
            refused.append(Refusal(node=str(seed.name or seed.outputs[0].name), reason=reason))
            done |= products
    return found, refused


def _with_shared_tables(application: Application, twins: Twins) -> Application:
    rotary = application.rotary
    entries = tuple(replace(e, table=twins.first_of(e.table)) for e in rotary.entries)
    return replace(application, rotary=replace(rotary, entries=entries))


def _at(
    seed: ir.Node, regions: Regions, trial: Trial, movement: Movement
) -> tuple[Application | None, str | None]:
    """Try the roots of a seed; of the reasons to refuse, the last is that of the widest region."""
    reason = None
    for root in regions.roots(seed):
        for region in regions.around(root):
            try:
                rotary = probe(region, trial, movement)
                if rotary is not None:
                    return _application(rotary, trial, movement), None
            except NotRotaryError as error:
                reason = str(error)
            except UnevaluableError:
                continue  # not a reason: nothing says that it is a rope
    return None, reason


def _application(rotary: Rotary, trial: Trial, movement: Movement) -> Application:
    region = rotary.region
    for value in (region.x, region.root):
        if value.dtype not in _FLOATS:
            raise NotRotaryError(f"{value.name} is {value.dtype}, for which there is no op")
    tables = {e.table for e in rotary.entries}
    given = deep_values(tables, trial, movement)
    shapes = [e.of(evaluate(e.table, given, trial, {})).shape for e in rotary.entries]
    layout = layout_of(trial.shape(region.x), shapes)
    x, root = _without_casts(region.x, region.root)
    application = Application(rotary, layout, x, root)
    in_part = True in tables_of(application).contracts
    return _with_rest(application, trial) if in_part else application


def tables_of(application: Application) -> Tables:
    """Return which tables an application's op takes."""
    return tables_for(rotations=application.rotary.is_rotation, by_head=application.layout.per_head)


def _without_casts(x: ir.Value, root: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Widen to the casts around a rotation in float32: the op has them inside."""
    before, after = x.producer(), root.consumers()
    narrow = x
    if before is not None and is_standard(before, "Cast") and x.dtype == root.dtype:
        narrow = before.inputs[0] or x
    if narrow.dtype not in _FLOATS or root.is_graph_output():
        return x, root
    casts_back = [
        is_standard(node, "Cast") and node.outputs[0].dtype == narrow.dtype for node in after
    ]
    return (narrow, after[0].outputs[0]) if casts_back == [True] else (x, root)


def _with_rest(application: Application, trial: Trial) -> Application:
    """Widen to the whole head where its first part is rotated and the rest is appended."""
    x, root = application.x, application.root
    cut, joint = x.producer(), root.consumers()
    if cut is None or not is_standard(cut, "Slice", "Split") or root.is_graph_output():
        return application
    whole = cut.inputs[0]
    if whole is None or len(joint) != 1 or not _appends(joint[0], root):
        return application
    rest, size = joint[0].inputs[1], trial.shape(x)[-1]
    assert rest is not None  # a Concat has no empty inputs
    try:
        values = np.random.default_rng(3).standard_normal(trial.shape(whole))
        part, passed = (evaluate(value, {whole: values}, trial, {}) for value in (x, rest))
    except UnevaluableError:
        return application
    first, others = values[..., :size], values[..., size:]
    if not (np.array_equal(part, first) and np.array_equal(passed, others)):
        return application
    return replace(application, x=whole, root=joint[0].outputs[0], rotary_size=size)


def _appends(node: ir.Node, first: ir.Value) -> bool:
    """Say whether a node joins a value and another, in this order, along the last axis."""
    if not is_standard(node, "Concat") or len(node.inputs) != 2 or node.inputs[0] is not first:
        return False
    axis, shape = node.attributes["axis"].as_int(), first.shape
    return axis == -1 or (shape is not None and axis == len(shape) - 1)
