"""Rewrite complex numbers as pairs of real ones before ONNX, which has no operators for them.

Original Llama, Lumina and Qwen-Image write RoPE as a complex product.  The pass goes over an
exported program once: a complex value becomes two nodes, its real and its imaginary part.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ropeexport.errors import ExportError

_aten = torch.ops.aten
_REAL_TYPES = {torch.complex64: torch.float32, torch.complex128: torch.float64}

# operators that do to a complex number what they do to each of its parts
_BY_PART = {
    _aten.alias, _aten.cat, _aten.chunk, _aten.clone, _aten.contiguous, _aten.detach,
    _aten.detach_, _aten.expand, _aten.flatten, _aten.gather, _aten.index, _aten.index_select,
    _aten.lift_fresh_copy, _aten.mean, _aten.neg, _aten.permute, _aten.repeat, _aten.reshape,
    _aten.select, _aten.slice, _aten.split, _aten.split_with_sizes, _aten.squeeze, _aten.stack,
    _aten.sum, _aten.to, _aten._to_copy, _aten.transpose, _aten.unbind, _aten.unflatten,
    _aten.unsqueeze, _aten.view, _aten._unsafe_view, operator.getitem,
}  # fmt: skip


class Parts(NamedTuple):
    """Nodes of the real and of the imaginary part, or two lists of nodes."""

    real: Any
    imag: Any


def without_complex(program: ExportedProgram) -> ExportedProgram:
    """Return the program, changed in place to compute the same in real numbers.

    Raises
    ------
    ExportError
        For a complex input or output, and for an operator without a rule, by name.
    """
    if any(_is_complex(node) for node in program.graph.nodes):
        _Rewriter(program).run()
    return program


def _is_complex(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(x, Tensor) and x.is_complex() for x in values)


class _Rewriter:
    """One pass over a graph; ``parts`` grows with every complex node that it meets."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.graph = program.graph
        self.parts: dict[fx.Node, Parts] = {}
        self.replaced: list[fx.Node] = []

    def run(self) -> None:
        """Rewrite every node that is complex or reads what was."""
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and _is_complex(node):
                self._constant(node)
            elif node.op == "output" and any(x in self.parts for x in node.all_input_nodes):
                raise ExportError("a complex output: return torch.view_as_real of it")
            elif getattr(node.target, "overloadpacket", None) is _aten._assert_tensor_metadata:
                self.replaced.append(node)  # it asserts what the pass is about to change
            elif _is_complex(node) or any(x in self.parts for x in node.all_input_nodes):
                self._rewrite(node)
        for node in reversed(self.replaced):
            self.graph.erase_node(node)
        self.program.graph_module.recompile()

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Insert a node and compute what it yields from what its inputs yield."""
        node: fx.Node = self.graph.call_function(target, args, kwargs)
        values = fx.map_arg((args, kwargs), lambda x: x.meta["val"])
        node.meta["val"] = target(*values[0], **values[1])
        return node

    def _rewrite(self, node: fx.Node) -> None:
        with self.graph.inserting_before(node):
            made = self._rule(node)(self, *node.args, **node.kwargs)
        if isinstance(made, Parts):
            self.parts[node] = made
        else:
            node.replace_all_uses_with(made)
        self.replaced.append(node)

    def _rule(self, node: fx.Node) -> Callable[..., Any]:
        packet = getattr(node.target, "overloadpacket", node.target)
        if packet in _BY_PART:
            return lambda _, *args, **kwargs: self._by_part(node.target, args, kwargs)
        if packet not in _RULES:
            raise ExportError(
                f"{node.target}: no rule to write it without complex numbers, for which ONNX has "
                "no operators; use real numbers there"
            )
        return _RULES[packet]

    def _by_part(self, target: Any, args: Any, kwargs: Any) -> Parts:
        def one(index: int) -> Any:
            chosen = fx.map_arg((args, kwargs), lambda x: self.parts.get(x, (x, x))[index])
            real = fx.node.map_aggregate(chosen, _real_type)
            return self.call(target, *real[0], **real[1])

        return Parts(one(0), one(1))

    def _constant(self, node: fx.Node) -> None:
        """Store a complex buffer or constant with a last axis of two real numbers."""
        specs = self.program.graph_signature.input_specs
        spec = next(s for s in specs if s.arg.name == node.name)
        if spec.kind is InputKind.USER_INPUT or spec.target is None:
            raise ExportError(f"{node.name}: a complex input: give it as real numbers")
        for store in (self.program.state_dict, self.program.constants):
            value = store.get(spec.target)
            if isinstance(value, Tensor) and value.is_complex():
                store[spec.target] = torch.view_as_real(value.resolve_conj()).clone()
        node.meta["val"] = torch.view_as_real(node.meta["val"])
        following = next(n for n in self.graph.nodes if n.op != "placeholder")
        with self.graph.inserting_before(following):
            self.parts[node] = _view_as_complex(self, node)


def _real_type(value: Any) -> Any:
    return _REAL_TYPES.get(value, value) if isinstance(value, torch.dtype) else value


def _view_as_complex(to: _Rewriter, x: fx.Node) -> Parts:
    return Parts(*(to.call(_aten.select.int, x, -1, part) for part in (0, 1)))


def _view_as_real(to: _Rewriter, x: fx.Node) -> fx.Node:
    return to.call(_aten.stack.default, list(to.parts[x]), -1)


def _polar(to: _Rewriter, size: fx.Node, angle: fx.Node) -> Parts:
    waves = (to.call(wave, angle) for wave in (_aten.cos.default, _aten.sin.default))
    return Parts(*(to.call(_aten.mul.Tensor, size, wave) for wave in waves))


def _multiply(to: _Rewriter, a: Any, b: Any) -> Parts:
    if a not in to.parts or b not in to.parts:  # a real factor
        (real, imag), factor = (to.parts[a], b) if a in to.parts else (to.parts[b], a)
        return Parts(*(to.call(_aten.mul.Tensor, part, factor) for part in (real, imag)))
    (ar, ai), (br, bi) = to.parts[a], to.parts[b]
    rr, ii, ri, ir = (
        to.call(_aten.mul.Tensor, *factors) for factors in ((ar, br), (ai, bi), (ar, bi), (ai, br))
    )
    return Parts(to.call(_aten.sub.Tensor, rr, ii), to.call(_aten.add.Tensor, ri, ir))


def _conjugate(to: _Rewriter, x: fx.Node) -> Parts:
    real, imag = to.parts[x]
    return Parts(real, to.call(_aten.neg.default, imag))


_RULES: dict[Any, Callable[..., Any]] = {
    _aten.view_as_complex: _view_as_complex,
    _aten.view_as_real: _view_as_real,
    _aten.polar: _polar,
    _aten.complex: lambda to, real, imag: Parts(real, imag),
    _aten.mul: _multiply,
    _aten.conj: _conjugate,
    _aten._conj: _conjugate,
    _aten.conj_physical: _conjugate,
    _aten.real: lambda to, x: to.parts[x].real,
    _aten.imag: lambda to, x: to.parts[x].imag,
}
