"""Whether a trace holds where a module asks if there is anything, and there is nothing.

``if missing > 0: x = torch.cat([x, padding(missing)])`` is traced with something missing, and so
would hold there alone.  Where nothing is missing, Python goes the other way; but of tensors without
elements most code computes the same either way.  So the module is traced again at such sizes, and
the two programs are compared operator by operator: no number is looked at, hence no weight.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from ropeexport.exporting.fitting import points_of
from ropeexport.exporting.guards import Guard
from ropeexport.exporting.lowering import all_nodes
from ropeexport.models.example import Example
from ropeexport.weights.references import is_fake

_aten = torch.ops.aten
_higher = torch.ops.higher_order
# regions of a graph: what stands before the region says how it is run
_REGIONS = (_higher.wrap_with_autocast, _higher.wrap_with_set_grad_enabled)
# operators that return what they are given where its shape and its type are to be the same
_SAME = {
    _aten._to_copy, _aten._unsafe_view, _aten.alias, _aten.clone, _aten.contiguous, _aten.detach,
    _aten.expand, _aten.reshape, _aten.slice, _aten.to, _aten.view,
}  # fmt: skip
_SLICE = ("dim", "start", "end", "step")
Sizes = dict[str, int]  # of some axes

_IS_NUMBER = (int, float, bool, complex, type(None))


def sizes_of_nothing(
    example: Example, guards: Sequence[Guard], traced: Mapping[str, int]
) -> dict[Guard, list[Sizes]]:
    """Return the guards that fail where there is nothing, and the smallest sizes at which they do.

    Those are a module's own questions whether something is more than 0, which it is or 0, and what
    operators ask of the same: whether it is 0 or 1.
    """
    questions = [guard.asks_for for guard in guards if guard.asks_for is not None]
    found = {}
    for guard in guards:
        about = (x for x in questions if guard.asks_for == x or _is_of_operator(guard, x))
        for amount in about:
            sizes = _failing(example, guard, amount, traced)
            if sizes:
                found[guard] = sizes
    return found


def all_at_once(found: Mapping[Guard, Sequence[Sizes]], traced: Mapping[str, int]) -> list[Sizes]:
    """Return few sizes of all axes at which each of these guards fails, as it does at its own."""
    points: list[Sizes] = []
    for place in (0, 1):
        own = [(guard, sizes[place]) for guard, sizes in found.items() if len(sizes) > place]
        together = {**traced, **{axis: n for _, sizes in own for axis, n in sizes.items()}}
        apart = [{**traced, **sizes} for guard, sizes in own if guard.holds(together)]
        points += [x for x in (together, *apart) if own and x not in points]
    return points


def _is_of_operator(guard: Guard, amount: Any) -> bool:
    return not (guard.is_asked or guard.is_equation) and bool(guard.expression.has(amount))


def _failing(example: Example, guard: Guard, amount: Any, traced: Mapping[str, int]) -> list[Sizes]:
    """Return the smallest sizes at which a guard fails, of an amount of 0 and of 1; else none."""
    given = points_of(example, guard, traced)
    points = np.stack(np.broadcast_arrays(*(given[name] for name in guard.axes)), -1)

    def where(condition: Guard) -> NDArray[np.bool_]:
        return np.broadcast_to(condition.where(given), len(points))

    fails = ~where(guard)
    few = [fails & where(guard.that(sympy.Eq, amount, number)) for number in (0, 1)]
    is_less = where(guard.that(sympy.Lt, amount, 0)).any()
    if is_less or (fails & ~few[0] & ~few[1]).any():
        return []
    chosen = (points[some] for some in few if some.any())
    least = (each[np.argmin(np.prod(each, axis=1))] for each in chosen)
    return [dict(zip(guard.axes, map(int, each), strict=True)) for each in least]


def is_same(programs: Sequence[ExportedProgram]) -> bool:
    """Say whether a program computes at the sizes of others what those compute.

    Parameters
    ----------
    programs : sequence of ExportedProgram
        The first of a module, whatever its sizes are; others of the same module, each of certain
        sizes alone.
    """
    try:
        free, *stills = map(_without_changes, programs)
        comparisons = map(_Comparison, stills)
        return all(bool(each.results(free) == each.results()) for each in comparisons)
    except Exception:  # an operator that has no shape without numbers, or a condition that is false
        return False


def _without_changes(program: ExportedProgram) -> ExportedProgram:
    """Return a program in which no operator changes what it is given."""
    changes = any(_changes(node.target) for node in all_nodes(program))
    return program.run_decompositions({}) if changes else program


def _changes(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


@dataclass(frozen=True)
class _Result:
    """A tensor of no numbers, and the number that all have which are computed alike."""

    shape_of: Tensor
    number: int


class _Comparison:
    """Programs of one module at the sizes of the first: equal results have equal numbers."""

    def __init__(self, still: ExportedProgram) -> None:
        self._still = still
        self._numbers: dict[Any, int] = {}
        self._how: Any = ()
        self._mode = FakeTensorMode()

    def results(self, program: ExportedProgram | None = None) -> Any:
        """Return the numbers of all that a program returns, those of the first where it is none."""
        program = program or self._still
        with self._mode:
            found = self._run(program.graph_module, self._given(program))
        return pytree.tree_map_only(_Result, lambda x: x.number, found)

    def _given(self, program: ExportedProgram) -> list[Any]:
        """Return what a program is given: inputs of the first one's sizes, and its own weights."""
        nodes, stills = (_placeholders(each) for each in (program, self._still))
        specs = program.graph_signature.input_specs
        inputs = iter([x for x, spec in zip(
            stills, self._still.graph_signature.input_specs, strict=True
        ) if spec.kind is InputKind.USER_INPUT])  # fmt: skip
        made = []
        for place, (node, spec) in enumerate(zip(nodes, specs, strict=True)):
            is_input = spec.kind is InputKind.USER_INPUT
            x = (next(inputs) if is_input else node).meta["val"]
            if not isinstance(x, Tensor):
                made.append(x)
                continue
            what: Any = (spec.kind, place if is_input else spec.target)
            constant = program.constants.get(str(spec.target))
            if spec.kind is InputKind.CONSTANT_TENSOR and isinstance(constant, Tensor):
                what = _value_of(constant) or what
            made.append(_Result(self._empty(x), self._number(what)))
        return made

    def _empty(self, x: Tensor) -> Tensor:
        return torch.empty_strided(tuple(x.shape), x.stride(), dtype=x.dtype, device=x.device)

    def _number(self, what: Any) -> int:
        return self._numbers.setdefault(what, len(self._numbers))

    def _run(self, module: fx.GraphModule, given: Sequence[Any]) -> Any:
        known: dict[fx.Node, Any] = {}
        inputs = iter(given)
        for node in module.graph.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            if node.op == "placeholder":
                known[node] = next(inputs)
            elif node.op == "get_attr":
                known[node] = getattr(module, node.target)
            elif node.op == "output":
                return args[0]
            else:
                known[node] = self._called(node.target, args, kwargs)
        raise ValueError("a graph without an output")

    def _called(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _REGIONS:
            return self._region(args)
        if target is operator.getitem:
            return args[0][args[1]]
        if _changes(target):
            raise ValueError(f"{target} changes what it is given")
        plain, named = pytree.tree_map_only(_Result, lambda x: x.shape_of, (args, kwargs))
        found = target(*plain, **named)
        what = (str(target), self._how, _frozen(args), _frozen(kwargs))
        if isinstance(found, Tensor):
            return _Result(found, self._normal(target, found, args, what))
        if isinstance(found, _IS_NUMBER):
            return found
        each = pytree.tree_leaves(found)
        return [x if not isinstance(x, Tensor) else _Result(x, self._number((what, place)))
                for place, x in enumerate(each)]  # fmt: skip

    def _region(self, args: Sequence[Any]) -> Any:
        place = next(i for i, x in enumerate(args) if isinstance(x, fx.GraphModule))
        former, self._how = self._how, (self._how, *args[:place])
        try:
            return self._run(args[place], args[place + 1 :])
        finally:
            self._how = former

    def _normal(self, target: Any, found: Tensor, args: Sequence[Any], what: Any) -> int:
        """Return a result's number: what adds no element, and changes none, adds nothing to it."""
        if isinstance(target, torch._ops.OpOverload):
            packet = target.overloadpacket
            if not found.numel():
                return self._number((tuple(found.shape), found.dtype))
            if packet is _aten.cat:
                parts = [x for x in args[0] if x.shape_of.numel()]
                if len(parts) == 1 and parts[0].shape_of.dtype == found.dtype:
                    return int(parts[0].number)
                axis = (args[1] if len(args) > 1 else 0) % found.ndim
                return self._number((str(target), self._how, _frozen(parts), axis))
            first = args[0] if args else None
            if packet in _SAME and isinstance(first, _Result):
                x = first.shape_of
                if x.shape == found.shape and x.dtype == found.dtype:
                    return first.number
                if packet is _aten.slice:
                    given = dict(zip(_SLICE, args[1:], strict=False))
                    what = (str(target), self._how, first.number, _rows(x, **given))
        return self._number(what)


def _rows(
    x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> tuple[int, range]:
    """Return the axis of a slice, and the rows that it takes."""
    return dim % x.ndim, range(*slice(start, end, step).indices(x.shape[dim]))


def _placeholders(program: ExportedProgram) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.op == "placeholder"]


def _value_of(constant: Tensor) -> Any:
    """Return what a constant holds; None where that is nowhere."""
    if is_fake(constant) or constant.is_meta:
        return None
    x = torch.view_as_real(constant) if constant.is_complex() else constant
    data = x.detach().cpu().contiguous().view(torch.uint8) if x.numel() and x.ndim else x
    return (constant.dtype, tuple(constant.shape), data.numpy().tobytes())


def _frozen(x: Any) -> Any:
    """Return arguments as something to look up."""
    if isinstance(x, _Result):
        return ("result", x.number)
    if isinstance(x, list | tuple):
        return tuple(map(_frozen, x))
    if isinstance(x, dict):
        return tuple((key, _frozen(value)) for key, value in x.items())
    return (type(x), x)
