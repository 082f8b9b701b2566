"""The torch custom ops that a module calls and that the exporter turns into ONNX nodes.

``ropeexport::apply_rope`` rotates q and k.  ``ropeexport::rope_table`` makes the matrices of
integer positions; as an op of its own it reaches ONNX in a form that needs no float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable loads torch._dynamo at once
from torch.autograd import forward_ad

from ropeexport.checks import (
    check_integer_positions,
    check_rope_arguments,
    check_sizes,
    check_traceable,
)
from ropeexport.reference import (
    rope_matrices,
    rotate,
    rotate_backward_data,
    rotate_backward_pe,
)

# Not torch.library.custom_op: it knows gradients only, and answers forward mode with zeros.
_LIBRARY: Any = torch.library.Library("ropeexport", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "apply_rope(Tensor xq, Tensor xk, Tensor pe) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
apply_rope_op = torch.ops.ropeexport.apply_rope.default


@_disable_dynamo  # a kernel runs as written: compiled, it would round otherwise
def _rotate_both(xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate q (B, Hq, L, D) and k (B, Hk, L, D) by pe (B or 1, H or 1, L, D/2, 2, 2)."""
    check_traceable(xq, xk, pe)
    check_sizes(xq, xk, pe)
    # one memory layout whatever the input's, which is what the fake kernel promises
    return rotate(xq, pe).contiguous(), rotate(xk, pe).contiguous()


def _apply_rope_fake(xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    return _contiguous_like(xq), _contiguous_like(xk)


def _contiguous_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_disable_dynamo
def _differentiable(xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate with derivatives: of forward mode and of torch.func, those of torch's own operators.

    Gradients have a rule of their own, which keeps the op whole in a compiled graph.
    """
    inputs = (xq, xk, pe)
    if torch._C._are_functorch_transforms_active() or any(map(_has_tangent, inputs)):
        return _rotate_both(*inputs)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        rotated: tuple[Tensor, Tensor] = _Rotation.apply(*inputs)  # type: ignore[no-untyped-call]
        return rotated
    return _without_derivatives(*inputs)


def _has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _without_derivatives(xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    with torch._C._AutoDispatchBelowAutograd():
        rotated: tuple[Tensor, Tensor] = apply_rope_op(xq, xk, pe)
    return rotated


class _Rotation(torch.autograd.Function):
    """The gradients of the op: they save the data in its own type, not a float32 copy of it."""

    @staticmethod
    def forward(ctx: Any, xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(xq, xk, pe)
        return _without_derivatives(xq, xk, pe)

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
        xq, xk, pe = ctx.saved_tensors
        needs_q, needs_k, needs_pe = ctx.needs_input_grad
        grad_pe = None
        if needs_pe:
            grad_pe = rotate_backward_pe(grad_q, xq, pe) + rotate_backward_pe(grad_k, xk, pe)
        return (
            rotate_backward_data(grad_q, pe) if needs_q else None,
            rotate_backward_data(grad_k, pe) if needs_k else None,
            grad_pe,
        )


_LIBRARY.impl("apply_rope", _rotate_both, "CompositeExplicitAutograd")
_LIBRARY.impl("apply_rope", _differentiable, "Autograd")
# torch.vmap sees through to torch's own operators as well: they map any axis of any input
_LIBRARY.impl("apply_rope", _rotate_both, "FuncTorchBatched")
torch.library.register_fake(apply_rope_op, _apply_rope_fake, lib=_LIBRARY)


@torch.library.custom_op("ropeexport::rope_table", mutates_args=())
def rope_table_op(pos: Tensor, dim: int, theta: float) -> Tensor:
    """Return the float32 matrices (..., L, dim/2, 2, 2) of integer positions (..., L)."""
    check_integer_positions(pos)
    return rope_matrices(pos, dim, theta)


@rope_table_op.register_fake
def _rope_table_fake(pos: Tensor, dim: int, theta: float) -> Tensor:
    check_integer_positions(pos)
    return pos.new_empty((*pos.shape, dim // 2, 2, 2), dtype=torch.float32)


@rope_table_op.register_vmap
def _rope_table_vmap(
    _info: Any, in_dims: tuple[int, None, None], pos: Tensor, dim: int, theta: float
) -> tuple[Tensor, int]:
    return rope_table_op(pos.movedim(in_dims[0], 0), dim, theta), 0  # a mapped axis is one more


def rope(pos: Tensor, dim: int, theta: float) -> Tensor:
    """Make the rotation matrices of positions, as FLUX's ``rope`` does.

    Parameters
    ----------
    pos : Tensor
        Positions (..., L), integer or floating.  Integer positions export with exact angles.
    dim : int
        Head size, or the share of it that this axis rotates; even.
    theta : float
        Base of the frequencies ``theta ** (-2i/dim)``.

    Returns
    -------
    Tensor
        float32 (..., L, dim/2, 2, 2), each ``[[cos, -sin], [sin, cos]]``; angles in float64.

    Raises
    ------
    TypeError, ValueError
        With the argument's name, what was expected and what was given.

    Notes
    -----
    Floating positions are differentiable in every mode, integer ones have no derivative;
    ``torch.vmap`` maps both.

    Source: black-forest-labs/flux ``src/flux/math.py``.

    Examples
    --------
    >>> import torch, ropeexport
    >>> pe = ropeexport.rope(torch.arange(8), dim=16, theta=10_000)
    >>> pe.shape
    torch.Size([8, 8, 2, 2])
    >>> bool((pe[0] == torch.eye(2)).all())  # position 0 turns nothing
    True
    """
    check_rope_arguments(pos, dim, theta)
    if pos.dtype.is_floating_point:
        return rope_matrices(pos, dim, theta)
    table: Tensor = rope_table_op(pos, dim, float(theta))
    return table


def apply_rope(xq: Tensor, xk: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys, as FLUX's ``apply_rope`` does.

    Parameters
    ----------
    xq, xk : Tensor
        (B, H, L, D) in float32, float16, bfloat16 or float64; the numbers of heads may differ.
    freqs_cis : Tensor
        General 2x2 matrices, (B, L, D/2, 2, 2) or (B, 1 or H, L, D/2, 2, 2); batch 1 broadcasts,
        and a head axis of 1 does (the only one allowed where q and k differ in heads).

    Returns
    -------
    tuple[Tensor, Tensor]
        The rotated ``xq`` and ``xk``, each in its own type; rotated in float32, float64 data in
        float64.

    Raises
    ------
    TypeError, ValueError
        With the argument's name, what was expected and what was given.

    Notes
    -----
    Gradients, forward mode (``torch.func.jvp``, ``jacfwd``, dual numbers), ``torch.vmap`` and all
    that ``torch.func`` builds of them, nested or of higher order, hold for every argument; a
    tangent has its result's type.

    Source: black-forest-labs/flux ``src/flux/math.py``.

    Examples
    --------
    >>> import torch, ropeexport
    >>> q = k = torch.ones(1, 2, 8, 16)
    >>> pe = ropeexport.rope(torch.arange(8)[None], dim=16, theta=10_000)
    >>> rotated, _ = ropeexport.apply_rope(q, k, pe)
    >>> bool((rotated[:, :, 0] == q[:, :, 0]).all())  # position 0 turns nothing
    True
    >>> torch.allclose(rotated.norm(dim=-1), q.norm(dim=-1))  # and a rotation keeps the length
    True
    """
    check_traceable(xq, xk, freqs_cis)
    pe = freqs_cis.unsqueeze(1) if freqs_cis.ndim == 5 else freqs_cis
    rotated: tuple[Tensor, Tensor] = apply_rope_op(xq, xk, pe)
    return rotated
