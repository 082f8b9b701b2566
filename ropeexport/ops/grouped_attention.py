"""Attention over a cache as onnxruntime computes it best: ``com.microsoft::GroupQueryAttention``.

The operator puts new keys and values into the cache and attends to it, without a copy where past
and present are one memory, and only to what is held, whatever the cache has room for.  Its kernel
refuses one thing: several texts at once that each get several tokens behind others.  So a graph has
both, the operator and what the file had, in the branches of an ``If``; and whoever is to have the
standard's operators is given the second one back.

Source: onnxruntime, docs/ContribOperators.md, ``com.microsoft.GroupQueryAttention``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ropeexport.ops.names import GROUPED_ATTENTION

DOMAIN, VERSION = "com.microsoft", 1
WIDTHS = 8  # a head's width has to be a multiple of it
TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)  # of its kernel for CPUs
SWAPPED = (0, 2, 1, 3)  # heads and tokens change places

_INT32, _INT64 = ir.DataType.INT32, ir.DataType.INT64


class Nodes(list[ir.Node]):
    """Nodes in the order in which they are made, to be put into a graph together.

    Parameters
    ----------
    prefix : str
        Of the names of what they make, so that no name is in a file twice.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def add(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        outputs: int = 1,
        **given: Any,
    ) -> ir.Value:
        """Make a node of an operator, and return its first result."""
        node = ir.node(op_type, inputs, given, domain=domain, num_outputs=outputs)
        node.name = f"{self._prefix}.{op_type}_{len(self)}"
        for place, value in enumerate(node.outputs):
            value.name = f"{node.name}.{place}"
        self.append(node)
        return node.outputs[0]

    def constant(self, numbers: Any, dtype: ir.DataType = _INT64) -> ir.Value:
        """Make a constant."""
        return self.add("Constant", value=ir.tensor(np.array(numbers, dtype.numpy())))

    def rows(self, x: ir.Value) -> ir.Value:
        """Return (B, H, L, D) as (B, L, H * D)."""
        turned = self.add("Transpose", x, perm=SWAPPED)
        turned.type = x.type
        return self.flat(turned)

    def flat(self, x: ir.Value) -> ir.Value:
        """Return (B, L, H, D) as (B, L, H * D)."""
        made = self.add("Reshape", x, self.constant([0, 0, -1]))
        made.type = x.type
        return made


@dataclass(frozen=True)
class Steps:
    """What the attentions of one mask and one place of writing have in common."""

    seen: ir.Value  # 0 where a token is seen, else -inf: (B or 1, H or 1, L, total)
    last: ir.Value  # (B,): the index of the last token that is held
    total: ir.Value  # how many tokens are held
    is_taken: ir.Value  # whether the kernel takes these sizes


def steps(nodes: Nodes, x: ir.Value, mask: ir.Value, write: ir.Value | None) -> Steps:
    """Make what the attentions of one mask have in common.

    Parameters
    ----------
    nodes : Nodes
        Takes what is made.
    x : Value
        Data of the attention's type, (B, L, anything).
    mask : Value
        (B or 1, H or 1, L, slots): true where a token is seen.
    write : Value, optional
        (B,): where the new tokens are written; else they are the last of the slots.
    """
    batch = nodes.add("Shape", x, start=0, end=1)
    length = nodes.add("Shape", x, start=1, end=2)
    if write is None:
        total = nodes.add("Shape", mask, start=3, end=4)
        ends = nodes.add("Expand", total, batch)
        held = mask
    else:
        ends = nodes.add("Add", write, length)
        total = nodes.add("ReduceMax", ends, keepdims=1)
        held = nodes.add("Slice", mask, nodes.constant([0]), total, nodes.constant([3]))
    one = nodes.constant([1])
    assert x.dtype is not None  # asked before
    zero, hidden = (nodes.constant(n, x.dtype) for n in (0.0, -np.inf))
    singles = nodes.add("Or", nodes.add("Equal", batch, one), nodes.add("Equal", length, one))
    taken = nodes.add("Or", singles, nodes.add("Equal", total, length))
    return Steps(
        seen=nodes.add("Where", held, zero, hidden),
        last=nodes.add("Cast", nodes.add("Sub", ends, one), to=_INT32),
        total=nodes.add("Squeeze", nodes.add("Cast", total, to=_INT32)),
        is_taken=nodes.add("Squeeze", taken),
    )


def choose(
    name: str,
    taken: ir.Value,
    kernel: tuple[Sequence[ir.Node], Sequence[ir.Value]],
    own: tuple[Sequence[ir.Node], Sequence[ir.Value]],
) -> None:
    """Put a choice between the kernel and a graph's own nodes in the place of those.

    Parameters
    ----------
    name : str
        Of the choice.
    taken : Value
        Whether the kernel takes the sizes.
    kernel, own : tuple
        Nodes and their results, of the same meaning; ``own`` are of one graph, in its order, and
        the choice stands where the last of them stood.
    """
    nodes, results = own
    made = ir.Node("", "If", [taken], num_outputs=len(results), name=name)
    graph = nodes[-1].graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(nodes[-1], made)
    for mine, kernels, now in zip(results, kernel[1], made.outputs, strict=True):
        now.name, now.type, now.shape = mine.name, mine.type, mine.shape
        kernels.type, kernels.shape = mine.type, mine.shape
        inner = [use for use in mine.uses() if use.node in nodes]
        mine.replace_all_uses_with(now, replace_graph_outputs=True)
        for node, place in inner:
            node.replace_input_with(place, mine)
        mine.name = f"{mine.name}.own"
    graph.remove(nodes)
    for branch, (inside, outputs) in (("then_branch", kernel), ("else_branch", own)):
        body = ir.Graph([], outputs, nodes=inside, name=f"{name}.{branch}")
        made.attributes[branch] = ir.AttrGraph(branch, body)


def is_choice(node: ir.Node) -> bool:
    """Say whether a node is a choice of :func:`choose`."""
    branch = node.attributes.get("then_branch") if node.op_type == "If" else None
    return branch is not None and any(map(is_kernel, branch.as_graph()))


def is_kernel(node: ir.Node) -> bool:
    """Say whether a node is onnxruntime's operator."""
    return (node.domain, node.op_type) == (DOMAIN, GROUPED_ATTENTION)


def make_standard(node: ir.Node) -> None:
    """Put what the file had in the place of a choice, in place."""
    graph, own = node.graph, node.attributes["else_branch"].as_graph()
    assert isinstance(graph, ir.Graph)
    results, nodes = list(own.outputs), list(own)
    own.outputs.clear()
    own.remove(nodes)
    graph.insert_before(node, nodes)
    for now, former in zip(node.outputs, results, strict=True):
        name, now.name = now.name, None
        now.replace_all_uses_with(former, replace_graph_outputs=True)
        former.name = name
    graph.remove(node, safe=True)
    for other in node.attributes["then_branch"].as_graph():  # it reads nothing of the graph's now
        for place in range(len(other.inputs)):
            other.replace_input_with(place, None)
