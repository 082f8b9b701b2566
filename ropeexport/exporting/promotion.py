"""Write out the types that eager computes in, where torch's ONNX exporter leaves them implicit.

Eager promotes mixed types in every operator that takes several tensors; ONNX in none.  The exporter
inserts the casts of elementwise operators by a table of names.  What is not in it (an operator's
other name, a power, a join of many tensors, einsum, a norm with wider scales) would be an invalid
file, or one of another type.  An einsum that sums over nothing is a product, and is written as one:
rotary angles are such (``"...n,d->...nd"``), and are recognised as products.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

_aten = torch.ops.aten

# further names of operators that torch.onnx promotes by their first one
_OTHER_NAMES = {
    _aten.concat: _aten.cat, _aten.concatenate: _aten.cat, _aten.divide: _aten.div,
    _aten.greater: _aten.gt, _aten.greater_equal: _aten.ge, _aten.less: _aten.lt,
    _aten.less_equal: _aten.le, _aten.multiply: _aten.mul, _aten.not_equal: _aten.ne,
    _aten.subtract: _aten.sub,
}  # fmt: skip

# operators that compute in the type of their result, or write into what has it
_IN_THE_RESULTS_TYPE = {
    _aten.column_stack, _aten.cumprod, _aten.cumsum, _aten.dstack, _aten.einsum, _aten.hstack,
    _aten.index_fill, _aten.index_fill_, _aten.index_put, _aten.index_put_, _aten.ldexp,
    _aten.log_softmax, _aten.mean, _aten.nansum, _aten.pow, _aten.prod, _aten.row_stack, _aten.rsub,
    _aten.select_scatter, _aten.slice_scatter, _aten.softmax, _aten.stack, _aten.sum, _aten.vstack,
}  # fmt: skip
_PLACES = {"index", "indices"}  # arguments that say where, not what

# operators that compute in the widest type of their tensors, and return the first one's
_IN_THE_WIDEST_TYPE = {
    _aten.group_norm, _aten.instance_norm, _aten.layer_norm, _aten.rms_norm,
}  # fmt: skip

_ORIGIN = ("stack_trace", "nn_module_stack", "torch_fn")  # where in the module a node comes from


def with_explicit_types(program: ExportedProgram) -> ExportedProgram:
    """Return the program, changed in place, with a cast wherever eager promotes by itself."""
    with program.graph_module._set_replace_hook(program.graph_signature.get_replace_hook()):
        for module in program.graph_module.modules():  # a region under autocast is one of its own
            if isinstance(module, fx.GraphModule):
                for node in list(module.graph.nodes):
                    _rewrite(node)
                module.recompile()
    return program


def _rewrite(node: fx.Node) -> None:
    target: Any = node.target
    packet = getattr(target, "overloadpacket", None)
    if packet in _OTHER_NAMES:
        node.target = getattr(_OTHER_NAMES[packet], target._overloadname)
    elif packet in _IN_THE_RESULTS_TYPE:
        _cast_arguments(node, node.meta["val"].dtype)
    elif packet in _IN_THE_WIDEST_TYPE:
        types = [x.meta["val"].dtype for x in node.all_input_nodes if _is_tensor(x)]
        _compute_in(reduce(torch.promote_types, types), node)
    product = _product(node) if packet is _aten.einsum else None
    if product is not None:
        node.replace_all_uses_with(product)
        node.graph.erase_node(node)


def _cast_arguments(node: fx.Node, dtype: torch.dtype) -> None:
    def cast(x: fx.Node) -> fx.Node:
        is_other = _is_tensor(x) and x.meta["val"].dtype is not dtype
        return _add_node(node, _aten.to.dtype, x, dtype) if is_other else x

    target: Any = node.target
    named = zip(target._schema.arguments, node.args, strict=False)  # what is left out has a default
    node.args = tuple(x if a.name in _PLACES else fx.map_arg(x, cast) for a, x in named)


def _compute_in(dtype: torch.dtype, node: fx.Node) -> None:
    """Let a node compute in another type, and cast what comes out to the type that it has."""
    value = node.meta["val"]
    _cast_arguments(node, dtype)
    if dtype is value.dtype:
        return
    node.meta = node.meta | {"val": value.to(dtype)}  # a region's result may share the former one
    narrow = _add_node(node.next, _aten.to.dtype, node, value.dtype)
    node.replace_all_uses_with(narrow, delete_user_cb=lambda user: user is not narrow)


def _product(node: fx.Node) -> fx.Node | None:
    """Return an einsum as its factors, each with the axes of the result, multiplied."""
    arguments: Any = node.args
    equation, operands = arguments[:2]
    axes = _axes_of_product(equation, [x.meta["val"].ndim for x in operands])
    if axes is None:
        return None
    *given, wanted = axes
    factors = [_arranged(node, x, names, wanted) for x, names in zip(operands, given, strict=True)]
    return reduce(lambda a, b: _add_node(node, _aten.mul.Tensor, a, b), factors)


def _axes_of_product(equation: str, ranks: list[int]) -> list[list[str]] | None:
    """Name the axes of each operand and of the result; None for an einsum that is no product.

    That is one which sums over an axis, or takes a diagonal.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    dots = [rank - len(t.replace("...", "")) for rank, t in zip(ranks, terms, strict=True)]
    if not arrow:  # by torch: "..." first, then in order the letters that appear once
        letters = left.replace("...", "").replace(",", "")
        once = sorted(letter for letter in letters if letters.count(letter) == 1)
        right = "".join(["..."] * ("..." in left) + once)
    given = [_axes(term, count) for term, count in zip(terms, dots, strict=True)]
    wanted = _axes(right, max(dots))
    is_sum = not set().union(*given) <= set(wanted)
    has_diagonal = any(len(set(names)) < len(names) for names in given)
    return None if is_sum or has_diagonal else [*given, wanted]


def _axes(term: str, dots: int) -> list[str]:
    """Name the axes of a term; those that "..." stands for are counted from the right."""
    before, ellipsis, after = term.partition("...")
    return [*before, *(f".{i}" for i in range(dots if ellipsis else 0, 0, -1)), *after]


def _arranged(node: fx.Node, x: fx.Node, given: list[str], wanted: list[str]) -> fx.Node:
    """Bring an operand's axes into the order of the result, of size 1 where it has none."""
    order = sorted(range(len(given)), key=lambda axis: wanted.index(given[axis]))
    if order != sorted(order):
        x = _add_node(node, _aten.permute.default, x, order)
    for axis, name in enumerate(wanted):
        if name not in given:
            x = _add_node(node, _aten.unsqueeze.default, x, axis)
    return x


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _add_node(before: fx.Node, target: Any, *args: Any) -> fx.Node:
    """Insert a node, of the same line of the module's code, and compute what it yields."""
    with before.graph.inserting_before(before):
        node: fx.Node = before.graph.call_function(target, args)
    node.meta = {key: before.meta[key] for key in _ORIGIN if key in before.meta}
    node.meta["val"] = target(*fx.map_arg(args, lambda x: x.meta["val"]))
    return node
