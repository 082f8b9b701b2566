"""Complex numbers, for which ONNX has no operators, rewritten as pairs of real ones."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ropeexport.errors import ExportError
from ropeexport.exporting.lowering import all_nodes

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

    Original Llama, Lumina and Qwen-Image write RoPE as a complex product.  One pass over the graph
    makes two nodes of a complex value, its real and its imaginary part.

    Raises
    ------
    ExportError
        For a complex input or output, and for an operator without a rule, by name.
    """
    if any(map(_is_complex, all_nodes(program))):
        _Rewriter(program).run()
    return program


def _inline(node: fx.Node) -> None:
    """Put a region that autocast is off in, or is another device's, in its place."""
    given: Any = node.args
    device, _, is_on, _, region, *arguments = given
    if is_on and device == "cpu":
        return
    module: Any = getattr(node.graph.owning_module, region.target)
    made = dict(zip(module.graph.find_nodes(op="placeholder"), arguments, strict=True))
    with node.graph.inserting_before(node):
        for inner in module.graph.nodes:
            if inner.op not in ("placeholder", "output"):
                made[inner] = node.graph.node_copy(inner, made.__getitem__)
    results: Any = fx.map_arg(module.graph.output_node().args[0], made.__getitem__)
    for user in list(node.users):  # each takes one of the results
        place: Any = user.args[1]
        user.replace_all_uses_with(results[place])
        node.graph.erase_node(user)
    node.graph.erase_node(node)


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
            if node.target is torch.ops.higher_order.wrap_with_autocast:
                _inline(node)
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and _is_complex(node):
                self._constant(node)
            elif node.op == "output" and any(x in self.parts for x in node.all_input_nodes):
                raise ExportError("a complex output: return torch.view_as_real of it", code="RX210")
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
        with detect_fake_mode(values) or nullcontext():
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
                "no operators; use real numbers there",
                code="RX210",
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
            raise ExportError(
                f"{node.name}: a complex input: give it as real numbers", code="RX210"
            )
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


def _pad_sequence(
    to: _Rewriter, rows: Any, batch_first: bool = False, value: float = 0.0, side: str = "right"
) -> Parts:
    """Fill up with a real number, which has no imaginary part."""
    real, imag = ([to.parts[row][part] for row in rows] for part in (0, 1))
    pad = _aten.pad_sequence.default
    return Parts(
        to.call(pad, real, batch_first, value, side), to.call(pad, imag, batch_first, 0.0, side)
    )


def _waves(to: _Rewriter, bins: int, size: int, like: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Return cosine and sine of ``2 pi k t / size``, (bins, size), in the type of a node."""
    kind = {"dtype": torch.int64, "device": like.meta["val"].device}
    k, t = (to.call(_aten.arange.default, count, **kind) for count in (bins, size))
    turns = to.call(_aten.mul.Tensor, to.call(_aten.unsqueeze.default, k, 1), t)
    turns = to.call(_aten.remainder.Scalar, turns, size)  # whole numbers, so none of it is rounded
    angle = to.call(
        _aten.mul.Scalar, to.call(_aten.to.dtype, turns, torch.float64), math.tau / size
    )
    cos, sin = (
        to.call(_aten.to.dtype, to.call(wave, angle), like.meta["val"].dtype)
        for wave in (_aten.cos.default, _aten.sin.default)
    )
    return cos, sin


def _along_last(to: _Rewriter, x: fx.Node, dim: int) -> fx.Node:
    return x if dim in (-1, x.meta["val"].ndim - 1) else to.call(_aten.transpose.int, x, dim, -1)


def _norm(norm: str | None, size: int, unscaled: str) -> float:
    """Return the factor of a Fourier transform; ``unscaled`` is the norm that has none."""
    norm = norm or "backward"
    return 1.0 if norm == unscaled else size**-0.5 if norm == "ortho" else 1.0 / size


def _rfft(
    to: _Rewriter, x: fx.Node, n: int | None = None, dim: int = -1, norm: str | None = None
) -> Parts:
    """Multiply by the matrix of a real Fourier transform, of one size."""
    rows = _along_last(to, x, dim)
    rows, size = _cut(to, rows, n or rows.meta["val"].shape[-1])
    factor = _norm(norm, size, "backward")
    cos, sin = _waves(to, size // 2 + 1, size, rows)
    products = (
        to.call(_aten.matmul.default, rows, to.call(_aten.t.default, x)) for x in (cos, sin)
    )
    scaled = (
        to.call(_aten.mul.Scalar, product, scale)
        for product, scale in zip(products, (factor, -factor), strict=True)
    )
    return Parts(*(_along_last(to, part, dim) for part in scaled))


def _irfft(
    to: _Rewriter, x: fx.Node, n: int | None = None, dim: int = -1, norm: str | None = None
) -> fx.Node:
    """Multiply by the matrix of its inverse: all but the ends of half a spectrum count twice."""
    real, imag = (_along_last(to, part, dim) for part in to.parts[x])
    size = n or 2 * (real.meta["val"].shape[-1] - 1)
    (real, bins), (imag, _) = (_cut(to, part, size // 2 + 1) for part in (real, imag))
    factor = _norm(norm, size, "forward")
    cos, sin = _waves(to, bins, size, real)
    k = to.call(_aten.arange.default, bins, device=real.meta["val"].device)
    is_first, is_last = (
        to.call(_aten.eq.Scalar, to.call(_aten.mul.Scalar, k, times), value)
        for times, value in ((1, 0), (2, size))
    )
    is_end = to.call(_aten.logical_or.default, is_first, is_last)
    weights = to.call(_aten.where.Scalar, is_end, factor, 2 * factor)
    twice = to.call(_aten.to.dtype, weights, real.meta["val"].dtype)
    made = to.call(
        _aten.sub.Tensor,
        to.call(_aten.matmul.default, to.call(_aten.mul.Tensor, real, twice), cos),
        to.call(_aten.matmul.default, to.call(_aten.mul.Tensor, imag, twice), sin),
    )
    return _along_last(to, made, dim)


def _cut(to: _Rewriter, rows: fx.Node, size: int) -> tuple[fx.Node, int]:
    """Return rows of a size: of longer ones the first elements, else zeros behind."""
    has = rows.meta["val"].shape[-1]
    if type(has) is not int or type(size) is not int:
        raise ExportError(
            "a Fourier transform of a dynamic size: it is a product with a matrix, which has one "
            "size: fix that axis",
            code="RX210",
        )
    if has > size:
        rows = to.call(_aten.slice.Tensor, rows, -1, 0, size)
    elif has < size:
        lacking = to.call(_aten.zeros_like.default, to.call(_aten.slice.Tensor, rows, -1, 0, 1))
        rows = to.call(_aten.cat.default, [rows, *[lacking] * (size - has)], -1)
    return rows, size


_RULES: dict[Any, Callable[..., Any]] = {
    _aten.fft_irfft: _irfft,
    _aten.fft_rfft: _rfft,
    _aten.pad_sequence: _pad_sequence,
    _aten.view_as_complex: _view_as_complex,
    _aten.view_as_real: lambda to, x: to.call(_aten.stack.default, list(to.parts[x]), -1),
    _aten.polar: _polar,
    _aten.complex: lambda to, real, imag: Parts(real, imag),
    _aten.mul: _multiply,
    _aten.conj: _conjugate,
    _aten._conj: _conjugate,
    _aten.conj_physical: _conjugate,
    _aten.real: lambda to, x: to.parts[x].real,
    _aten.imag: lambda to, x: to.parts[x].imag,
}
