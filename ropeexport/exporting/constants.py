"""Constants that forward computes, with the values that eager computes.

What follows from no input (frequencies, ``exp(-log(10000) * arange(128) / 128)``) is folded into
the file.  An exponential of NumPy's and one of torch's differ in the last bit; a thousand steps
later (a timestep of a diffusion model) that is a thousand times the angle's error.  So torch
computes them, and the folding finds them done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, fx
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram

_MOST_ELEMENTS = 1 << 18  # as folding makes of them, see simplify
# operators that libraries round differently
_ROUNDED = {
    getattr(torch.ops.aten, name)
    for name in ("cos", "erfinv", "exp", "exp2", "expm1", "log", "log10", "log1p", "log2", "pow",
                 "rsqrt", "sigmoid", "sin", "tan", "tanh")
}  # fmt: skip


def put_eager_constants(model: ir.Model, program: ExportedProgram) -> int:
    """Put eager's values in the place of what computes them, in a model; return how many.

    Parameters
    ----------
    model : ir.Model
        Lowered from the program: what both compute has one name.
    program : ExportedProgram
        After decomposition.
    """
    graph = model.graph
    computed = {str(x.name): x for node in graph for x in node.outputs}
    count = 0
    for name, tensor in _constants(program):
        old = computed.get(name)
        if old is None or old in graph.outputs or old.shape != ir.Shape(tensor.shape):
            continue
        constant = TorchTensor(tensor.detach().cpu().contiguous(), name)
        if constant.dtype != old.dtype:
            continue
        old.name = f"{name}_folded"
        value = ir.Value(name=name, type=old.type, shape=old.shape, const_value=constant)
        graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(old, value)
        count += 1
    return count


def _constants(program: ExportedProgram) -> Iterator[tuple[str, Tensor]]:
    """Yield the last of the constants on each way, where an operator of those is on it."""
    values: dict[fx.Node, Any] = dict(_lifted(program))
    rounded: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node not in values and _is_computable(node, values):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
            is_rounded = getattr(node.target, "overloadpacket", None) in _ROUNDED
            if is_rounded or rounded & set(node.all_input_nodes):
                rounded.add(node)
    for node in rounded:
        value = values[node]
        is_last = any(user not in values for user in node.users)
        if is_last and isinstance(value, Tensor) and value.is_floating_point():
            yield node.name, value


def _lifted(program: ExportedProgram) -> Iterator[tuple[fx.Node, Tensor]]:
    """Yield the tensors that forward writes down."""
    places = program.graph_signature.inputs_to_lifted_tensor_constants
    for node in program.graph.nodes:
        value = program.constants.get(places.get(node.name, ""))
        if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
            yield node, value


def _is_computable(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Say whether a node is an operator of torch's own, of known values, and small."""
    target, made = node.target, node.meta.get("val")
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    if target.namespace != "aten" or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    if not isinstance(made, Tensor) or not all(isinstance(size, int) for size in made.shape):
        return False
    return made.numel() <= _MOST_ELEMENTS and all(x in values for x in node.all_input_nodes)
