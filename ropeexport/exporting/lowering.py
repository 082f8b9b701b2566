"""What torch's ONNX exporter is given: a program of explicit types.

Eager promotes mixed types in every operator that takes several tensors; ONNX in none.  The exporter
inserts the casts of elementwise operators by a table of names.  What is not in it (an operator's
other name, a power, a join of many tensors, einsum, a norm with wider scales) would be an invalid
file, or one of another type.  An einsum that sums over nothing is a product, and is written as one:
rotary angles are such (``"...n,d->...nd"``), and are recognised as products.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from ropeexport.exporting.squeezes import squeezed_axes

_aten = torch.ops.aten

# further names of operators that torch.onnx promotes by their first one
_OTHER_NAMES = {
    _aten.concat: _aten.cat, _aten.concatenate: _aten.cat, _aten.divide: _aten.div,
    _aten.greater: _aten.gt, _aten.greater_equal: _aten.ge, _aten.less: _aten.lt,
    _aten.less_equal: _aten.le, _aten.multiply: _aten.mul, _aten.not_equal: _aten.ne,
    _aten.subtract: _aten.sub,
}  # fmt: skip

_ORDERED_AS = {torch.bfloat16: torch.float32, torch.bool: torch.int64}

# operators that compute in the type of their result, or write into what has it
_IN_THE_RESULTS_TYPE = {
    _aten.column_stack, _aten.cumprod, _aten.cumsum, _aten.dstack, _aten.einsum, _aten.hstack,
    _aten.index_fill, _aten.index_fill_, _aten.index_put, _aten.index_put_, _aten.ldexp,
    _aten.log_softmax, _aten.mean, _aten.nansum, _aten.pow, _aten.prod, _aten.row_stack, _aten.rsub,
    _aten.select_scatter, _aten.slice_scatter, _aten.softmax, _aten.stack, _aten.sum, _aten.vstack,
}  # fmt: skip
_FEW = 16  # terms of a sum
_BY_PLACES = {_aten.index, _aten.index_put, _aten.index_put_}
_PLACES = {"index", "indices"}  # arguments that say where, not what

# operators that compute in the widest type of their tensors, and return the first one's
_IN_THE_WIDEST_TYPE = {
    _aten.group_norm, _aten.instance_norm, _aten.layer_norm, _aten.rms_norm,
}  # fmt: skip

_ORIGIN = ("stack_trace", "nn_module_stack", "torch_fn")  # where in the module a node comes from


def with_explicit_types(program: ExportedProgram) -> ExportedProgram:
    """Return the program, changed in place, with a cast wherever eager promotes by itself."""
    with program.graph_module._set_replace_hook(program.graph_signature.get_replace_hook()):
        for node in all_nodes(program):
            for source in node.all_input_nodes:  # inside no_grad, torch forgets some readers
                source.users.setdefault(node)
        for node in list(all_nodes(program)):
            _rewrite(node)
        for module in _graph_modules(program):
            module.recompile()
    return program


def _graph_modules(program: ExportedProgram) -> Iterator[fx.GraphModule]:
    """Yield the program's own and those in it: a region under autocast is one."""
    return (x for x in program.graph_module.modules() if isinstance(x, fx.GraphModule))


def all_nodes(program: ExportedProgram) -> Iterator[fx.Node]:
    """Yield the nodes of a program, those of the regions in it too."""
    return (node for module in _graph_modules(program) for node in module.graph.nodes)


def _rewrite(node: fx.Node) -> None:
    target: Any = node.target
    packet = getattr(target, "overloadpacket", None)
    if packet in _BY_PLACES:
        _widen_places(node)
    if packet in _OTHER_NAMES:
        node.target = getattr(_OTHER_NAMES[packet], target._overloadname)
    elif packet in _IN_THE_RESULTS_TYPE:
        _cast_arguments(node, node.meta["val"].dtype)
    elif packet in _IN_THE_WIDEST_TYPE:
        types = [x.meta["val"].dtype for x in node.all_input_nodes if _is_tensor(x)]
        _compute_in(reduce(torch.promote_types, types), node)
    elif packet is _aten.scaled_dot_product_attention and not node.kwargs.get("enable_gqa"):
        _give_heads(node)
    elif packet is _aten.conv3d:
        _give_bias(node)
    elif packet in (_aten.argsort, _aten.sort, _aten.topk):
        _order(node)
    elif target is operator.floordiv:
        _round_down(node)
    elif packet in _PARTS and any(_has_symbol(x) for x in node.meta["val"]):
        _slice(node)
        return
    instead = _INSTEAD[packet](node) if packet in _INSTEAD else None
    if instead is not None:
        node.replace_all_uses_with(instead)
        node.graph.erase_node(node)


def _widen_places(node: fx.Node) -> None:
    """Give an index as int64, in which ONNX has those of several axes; eager takes int32 too."""

    def widen(x: fx.Node) -> fx.Node:
        is_narrow = _is_tensor(x) and x.meta["val"].dtype is torch.int32
        return _add_node(node, _aten.to.dtype, x, torch.int64) if is_narrow else x

    x, places, *rest = node.args
    node.args = (x, fx.map_arg(places, widen), *rest)


def _round_down(node: fx.Node) -> None:
    """Let a quotient of sizes be whole, where it may be negative (``-(-n // 2)``).

    The exporter writes ONNX's division, which rounds towards zero.
    """
    number, divisor = node.args
    if not all(map(_is_never_negative, node.args)):
        rest = _add_node(node, operator.mod, number, divisor)
        node.args = (_add_node(node, operator.sub, number, rest), divisor)


def _is_never_negative(given: Any) -> bool:
    size = given.meta["val"] if isinstance(given, fx.Node) else given
    if isinstance(size, torch.SymInt):
        return bool(size.node.shape_env.bound_sympy(size.node.expr).lower >= 0)
    return bool(size >= 0)


def _give_heads(node: fx.Node) -> None:
    """Repeat one key and value for all heads (Falcon): eager broadcasts, the exporter refuses."""
    query, *rest = node.args
    heads = query.meta["val"].shape[-3]  # type: ignore[union-attr]

    def repeat(x: Any) -> Any:
        sizes = x.meta["val"].shape
        if isinstance(heads, int) and sizes[-3] == 1 != heads:
            return _add_node(
                node, _aten.expand.default, x, [*[-1] * (len(sizes) - 3), heads, -1, -1]
            )
        return x

    node.args = (query, *map(repeat, rest[:2]), *rest[2:])


def _give_bias(node: fx.Node) -> None:
    """Add zeros where a convolution of volumes has no bias, of which onnxscript writes two axes."""
    x, weight, *rest = node.args
    if node.kwargs.get("bias") is None and (not rest or rest[0] is None):
        channels = weight.meta["val"].shape[0]  # type: ignore[union-attr]
        bias = _add_node(node, _aten.new_zeros.default, weight, [channels])
        node.args = (x, weight, bias, *rest[1:])
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "bias"}


def _has_symbol(x: Tensor) -> bool:
    return any(isinstance(size, torch.SymInt) for size in x.shape)


def _slice(node: fx.Node) -> None:
    """Write parts as slices: onnxscript's optimiser fails on a split into sizes that move."""
    target: Any = node.target
    x, given, *axis = node.args
    dim: Any = axis[0] if axis else node.kwargs.get("dim", 0)
    parts = len(node.meta["val"])
    ends: list[Any] = []
    for size in _PARTS[target.overloadpacket](node, x, given, dim, parts)[:-1]:
        ends.append(_add_node(node, operator.add, ends[-1], size) if ends else size)
    for user in list(node.users):
        index: Any = user.args[1]
        start, end = [0, *ends][index], [*ends, sys.maxsize][index]
        with node.graph.inserting_before(node):
            part = node.graph.call_function(_aten.slice.Tensor, (x, dim, start, end))
        part.meta = dict(user.meta)
        user.replace_all_uses_with(part)
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _sizes_of_chunks(node: fx.Node, x: Any, chunks: Any, dim: Any, parts: int) -> list[Any]:
    length = _add_node(node, _aten.sym_size.int, x, dim)
    size = _add_node(
        node, operator.floordiv, _add_node(node, operator.add, length, chunks - 1), chunks
    )
    return [size] * parts


_PARTS: dict[Any, Callable[..., list[Any]]] = {
    _aten.chunk: _sizes_of_chunks,
    _aten.split: lambda node, x, size, dim, parts: [size] * parts,
    _aten.split_with_sizes: lambda node, x, sizes, dim, parts: sizes,
}


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
    _narrow(node, value.dtype)


def _narrow(node: fx.Node, dtype: torch.dtype) -> None:
    """Cast what a node yields for all who read it."""
    narrow = _add_node(node.next, _aten.to.dtype, node, dtype)
    node.replace_all_uses_with(narrow, delete_user_cb=lambda user: user is not narrow)


def _order(node: fx.Node) -> None:
    """Let what is ordered be of a type that ONNX orders, with each of its own's values."""
    given = node.all_input_nodes[0].meta["val"].dtype
    wide = _ORDERED_AS.get(given)
    if wide is None:
        return
    _cast_arguments(node, wide)
    if isinstance(node.meta["val"], Tensor):  # the order alone
        return
    values, indices = node.meta["val"]
    node.meta = node.meta | {"val": (values.to(wide), indices)}
    for user in list(node.users):
        if user.args[1] == 0:
            user.meta = user.meta | {"val": values.to(wide)}
            _narrow(user, values.dtype)


def _product(node: fx.Node) -> fx.Node | None:
    """Return an einsum as its factors, each with the axes of the result, multiplied."""
    arguments: Any = node.args
    equation, operands = arguments[:2]
    axes = axes_of_product(equation, [x.meta["val"].ndim for x in operands])
    if axes is None:
        return None
    *given, wanted = axes
    factors = [_arranged(node, x, names, wanted) for x, names in zip(operands, given, strict=True)]
    return reduce(lambda a, b: _add_node(node, _aten.mul.Tensor, a, b), factors)


def axes_of_product(equation: str, ranks: list[int]) -> list[list[str]] | None:
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


def _squeezed(node: fx.Node) -> fx.Node | None:
    """Return what an axis of another size than 1 was to be squeezed from: eager leaves it there."""
    source: Any = node.args[0]
    sizes, axes = source.meta["val"].shape, squeezed_axes(node)
    single = [axis for axis in axes if isinstance(sizes[axis], int) and sizes[axis] == 1]
    if len(single) == len(axes):
        return None
    made: fx.Node = _add_node(node, _aten.squeeze.dims, source, single) if single else source
    return made


def _added(node: fx.Node) -> fx.Node | None:
    """Return a sum of few whole numbers as additions: onnxruntime's has the 53 bits of a double.

    Hashes of bytes (BLT) wrap around 64 bits.
    """
    x, *given = node.args
    axes, keep = (*given, *[node.kwargs.get(n) for n in ("dim", "keepdim")[len(given) :]])[:2]
    if not isinstance(axes, list) or len(axes) != 1 or not _is_whole(x):
        return None
    shape = x.meta["val"].shape  # type: ignore[union-attr]
    count = shape[axes[0]]
    if not isinstance(count, int) or not 0 < count <= _FEW:
        return None
    terms = [_add_node(node, _aten.select.int, x, axes[0], at) for at in range(count)]
    total = reduce(lambda a, b: _add_node(node, _aten.add.Tensor, a, b), terms)
    return _add_node(node, _aten.unsqueeze.default, total, axes[0]) if keep else total


def _is_whole(x: Any) -> bool:
    """Say whether a tensor is one of int64, and no flags' numbers."""
    made = x.args[0] if x.target is _aten.to.dtype else x
    return all(_is_tensor(each) and each.meta["val"].dtype is torch.int64 for each in (x, made))


# operators of which eager has a simpler form; each to what stands in a node's place, if anything
_INSTEAD: dict[Any, Callable[[fx.Node], fx.Node | None]] = {
    _aten.einsum: _product, _aten.squeeze: _squeezed, _aten.sum: _added,
}  # fmt: skip


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _add_node(before: fx.Node, target: Any, *args: Any) -> fx.Node:
    """Insert a node, of the same line of the module's code, and compute what it yields."""
    with before.graph.inserting_before(before):
        node: fx.Node = before.graph.call_function(target, args)
    node.meta = {key: before.meta[key] for key in _ORIGIN if key in before.meta}
    node.meta["val"] = target(*fx.map_arg(args, lambda x: x.meta["val"]))
    return node
