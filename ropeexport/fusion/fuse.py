"""The stage itself: a graph in, the same graph with its rotary applications as ops, a count."""

from __future__ import annotations

import onnx_ir as ir

from ropeexport.fusion.applications import Application, find
from ropeexport.fusion.evaluation import Trial
from ropeexport.fusion.movement import Movement
from ropeexport.fusion.native import find_native
from ropeexport.fusion.pairs import pair_up
from ropeexport.fusion.rewrite import swap_in
from ropeexport.fusion.tables import Tables
from ropeexport.fusion.twins import Twins
from ropeexport.manifest import Refusal, RopeCount
from ropeexport.onnx_ops.forms import form_of


def fuse(model: ir.Model) -> RopeCount:
    """Replace every proven rotary application of a model's main graph by an op, in place.

    Parameters
    ----------
    model : ir.Model
        With the types and shapes of its values known; its function bodies are not attached here.

    Returns
    -------
    RopeCount
        Applications that were ops already count as found and replaced.
    """
    graph = model.graph
    already = sum(form_of(node.domain, node.op_type) is not None for node in graph)
    trial, movement = Trial(graph, model.opset_imports[""]), Movement()
    twins, tables = Twins(movement), Tables()
    found, refused = find(graph, trial, movement, twins)
    native, without_op = find_native(graph, twins)
    refused += without_op
    groups = [*pair_up(found, graph), *pair_up(native, graph)]
    replaced = 0
    for group in groups:
        reason = swap_in(group, tables, trial, movement)
        replaced += reason is None
        if reason is not None:
            refused.append(Refusal(node=_name(group[0]), reason=reason))
    if replaced:
        graph.sort()
    return RopeCount(
        found=already + replaced + len(refused),
        replaced=already + replaced,
        refused=tuple(refused),
    )


def _name(application: Application) -> str:
    node = application.root.producer()
    return str((node.name if node is not None else None) or application.root.name)
