"""The torch custom ops that a module calls and that the exporter turns into ONNX nodes.

``ropeexport::apply_rope`` rotates q and k.  ``ropeexport::rope_table`` makes the matrices of
integer positions; as an op of its own it reaches ONNX in a form that needs no float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ropeexport.checks import check_rope_arguments, check_sizes, check_traceable
from ropeexport.reference import (
    rope_matrices,
    rotate,
    rotate_backward_data,
    rotate_backward_pe,
)


@torch.library.custom_op("ropeexport::apply_rope", mutates_args=())
def apply_rope_op(xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate q (B, Hq, L, D) and k (B, Hk, L, D) by pe (B or 1, H or 1, L, D/2, 2, 2)."""
    check_traceable(xq, xk, pe)
    check_sizes(xq, xk, pe)
    # one memory layout whatever the input's, which is what the fake kernel promises
    return rotate(xq, pe).contiguous(), rotate(xk, pe).contiguous()


@apply_rope_op.register_fake
def _apply_rope_fake(xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    return _contiguous_like(xq), _contiguous_like(xk)


def _contiguous_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _apply_rope_setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _apply_rope_backward(ctx, grad_q: Tensor, grad_k: Tensor):  # type: ignore[no-untyped-def]
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


apply_rope_op.register_autograd(_apply_rope_backward, setup_context=_apply_rope_setup)


@torch.library.custom_op("ropeexport::rope_table", mutates_args=())
def rope_table_op(pos: Tensor, dim: int, theta: float) -> Tensor:
    """Return the float32 matrices (..., L, dim/2, 2, 2) of integer positions (..., L)."""
    return rope_matrices(pos, dim, theta)


@rope_table_op.register_fake
def _rope_table_fake(pos: Tensor, dim: int, theta: float) -> Tensor:
    return pos.new_empty((*pos.shape, dim // 2, 2, 2), dtype=torch.float32)


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
    Source: black-forest-labs/flux ``src/flux/math.py``.
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
    Source: black-forest-labs/flux ``src/flux/math.py``.
    """
    check_traceable(xq, xk, freqs_cis)
    pe = freqs_cis.unsqueeze(1) if freqs_cis.ndim == 5 else freqs_cis
    rotated: tuple[Tensor, Tensor] = apply_rope_op(xq, xk, pe)
    return rotated
