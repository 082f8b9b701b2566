"""The torch side of ``ropeexport::NormRope``: the op ``ropeexport::norm_rope`` and its checks.

As in :mod:`ropeexport.ops.apply_rope_torch`, checks of rank, type and device hold while a module is
traced too, and checks that compare sizes run on real data alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.overrides import handle_torch_function, has_torch_function

from ropeexport.ops.apply_rope_torch import check_sizes, check_traceable, has_tangent
from ropeexport.reference import rms_norm, rotate, rotate_backward_data, rotate_backward_pe

Layout = Literal["BLHD", "BHLD"]
_PERMS = {"BHLD": (0, 1, 2, 3), "BLHD": (0, 2, 1, 3)}  # each is its own inverse

_LIBRARY: Any = torch.library.Library("ropeexport", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "norm_rope(Tensor xq, Tensor xk, Tensor q_scale, Tensor k_scale, Tensor pe, float eps, "
    "int[] perm) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
norm_rope_op = torch.ops.ropeexport.norm_rope.default


def plain(
    xq: Tensor,
    xk: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    pe: Tensor,
    eps: float,
    perm: list[int],
) -> tuple[Tensor, Tensor]:
    """Norm and rotate in torch's own operators, as a module without the op does."""
    q, k = (_normed(x, s, eps, perm) for x, s in ((xq, q_scale), (xk, k_scale)))
    return rotate(q, pe), rotate(k, pe)


def _normed(x: Tensor, scale: Tensor, eps: float, perm: list[int]) -> Tensor:
    return rms_norm(x, scale, eps).permute(perm)


@_disable_dynamo
def _norm_and_rotate(
    xq: Tensor,
    xk: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    pe: Tensor,
    eps: float,
    perm: list[int],
) -> tuple[Tensor, Tensor]:
    _check_sizes(xq, xk, q_scale, k_scale, pe, perm)
    q, k = plain(xq, xk, q_scale, k_scale, pe, eps, perm)
    return q.contiguous(), k.contiguous()


def _fake(
    xq: Tensor,
    xk: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    pe: Tensor,
    eps: float,
    perm: list[int],
) -> tuple[Tensor, Tensor]:
    q, k = xq.permute(perm), xk.permute(perm)
    return q.new_empty(q.shape), k.new_empty(k.shape)


@_disable_dynamo
def _differentiable(
    xq: Tensor,
    xk: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    pe: Tensor,
    eps: float,
    perm: list[int],
) -> tuple[Tensor, Tensor]:
    """Norm and rotate with derivatives, see ``apply_rope``'s."""
    inputs = (xq, xk, q_scale, k_scale, pe)
    if torch._C._are_functorch_transforms_active() or any(map(has_tangent, inputs)):
        return _norm_and_rotate(*inputs, eps, perm)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        made: tuple[Tensor, Tensor] = _NormAndRotation.apply(*inputs, eps, perm)  # type: ignore[no-untyped-call]
        return made
    return _without_derivatives(*inputs, eps, perm)


def _without_derivatives(*given: Any) -> tuple[Tensor, Tensor]:
    with torch._C._AutoDispatchBelowAutograd():
        made: tuple[Tensor, Tensor] = norm_rope_op(*given)
    return made


class _NormAndRotation(torch.autograd.Function):
    """The gradients of the op: it saves what it was given, and nothing that it made of it."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        *inputs, ctx.eps, ctx.perm = given
        ctx.save_for_backward(*inputs)
        return _without_derivatives(*given)

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
        xq, xk, q_scale, k_scale, pe = ctx.saved_tensors
        of_q, of_q_scale = _backward_norm(grad_q, xq, q_scale, pe, ctx.eps, ctx.perm)
        of_k, of_k_scale = _backward_norm(grad_k, xk, k_scale, pe, ctx.eps, ctx.perm)
        of_pe = None
        if ctx.needs_input_grad[4]:
            q, k = (_normed(x, s, ctx.eps, ctx.perm) for x, s in ((xq, q_scale), (xk, k_scale)))
            of_pe = rotate_backward_pe(grad_q, q, pe) + rotate_backward_pe(grad_k, k, pe)
        return of_q, of_k, of_q_scale, of_k_scale, of_pe, None, None


def _backward_norm(
    grad: Tensor, x: Tensor, scale: Tensor, pe: Tensor, eps: float, perm: list[int]
) -> tuple[Tensor, Tensor]:
    """Return the gradients of one tensor and of its scale, computed in float32 or float64."""
    at_norm = rotate_backward_data(grad, pe).permute(perm)
    wide = torch.float64 if torch.float64 in (x.dtype, scale.dtype) else torch.float32
    g, x_wide = at_norm.to(wide), x.to(wide)
    axes = tuple(range(-scale.ndim, 0))
    inverse = torch.rsqrt(x_wide.square().mean(dim=axes, keepdim=True) + eps)
    normed = x_wide * inverse
    of_normed = g * scale
    of_x = inverse * (of_normed - normed * (of_normed * normed).mean(dim=axes, keepdim=True))
    return of_x.to(x.dtype), (g * normed).sum_to_size(scale.shape).to(scale.dtype)


_LIBRARY.impl("norm_rope", _norm_and_rotate, "CompositeExplicitAutograd")
_LIBRARY.impl("norm_rope", _differentiable, "Autograd")
_LIBRARY.impl("norm_rope", _norm_and_rotate, "FuncTorchBatched")
torch.library.register_fake(norm_rope_op, _fake, lib=_LIBRARY)


def norm_rope(
    xq: Tensor,
    xk: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    freqs_cis: Tensor,
    *,
    eps: float = 1e-6,
    layout: Layout = "BLHD",
) -> tuple[Tensor, Tensor]:
    """Divide queries and keys by their root mean square, scale and rotate them, in one op.

    Parameters
    ----------
    xq, xk : Tensor
        As they leave the projection, (B, L, H, D), or (B, H, L, D) with ``layout="BHLD"``; float32,
        float16, bfloat16 or float64; the numbers of heads may differ.
    q_scale, k_scale : Tensor
        (D,): each head is normed by itself; (H, D), in the layout BLHD alone: all heads of a token
        together, as Wan does.  Of the data's type: what is normed is rounded to that and then
        scaled, as FLUX and Llama do; float32 for half data: it is scaled in float32 and rounded
        once, as Gemma and ``torch.nn.RMSNorm`` do.
    freqs_cis : Tensor
        General 2x2 matrices, as :func:`ropeexport.apply_rope` takes them.
    eps : float
        What is added to the mean of the squares.
    layout : str
        ``"BLHD"`` or ``"BHLD"``, that of ``xq`` and ``xk``.

    Returns
    -------
    tuple[Tensor, Tensor]
        (B, H, L, D), contiguous, each in its own type.

    Raises
    ------
    TypeError, ValueError
        With the argument's name, what was expected and what was given.

    Notes
    -----
    Gradients hold for every tensor, and so do forward mode and ``torch.func``.

    Source: black-forest-labs/flux ``src/flux/modules/layers.py`` (``QKNorm``) and
    ``src/flux/math.py``; Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).

    Examples
    --------
    >>> import torch, ropeexport
    >>> q = k = 3 * torch.ones(1, 8, 2, 16)  # as a projection gives it
    >>> scale = torch.ones(16)
    >>> pe = ropeexport.rope(torch.arange(8)[None], dim=16, theta=10_000)
    >>> rotated, _ = ropeexport.norm_rope(q, k, scale, scale, pe)
    >>> rotated.shape
    torch.Size([1, 2, 8, 16])
    >>> torch.allclose(rotated.square().mean(-1), torch.ones(()))  # a rotation keeps the length
    True
    """
    given = (xq, xk, q_scale, k_scale, freqs_cis)
    if has_torch_function(given):
        kept: tuple[Tensor, Tensor] = handle_torch_function(
            norm_rope, given, *given, eps=eps, layout=layout
        )
        return kept
    if layout not in _PERMS:
        raise ValueError(f"layout: expected 'BLHD' or 'BHLD', got {layout!r}")
    _check_traceable(xq, xk, q_scale, k_scale, freqs_cis, eps, layout)
    pe = freqs_cis.unsqueeze(1) if freqs_cis.ndim == 5 else freqs_cis
    made: tuple[Tensor, Tensor] = norm_rope_op(
        xq, xk, q_scale, k_scale, pe, float(eps), list(_PERMS[layout])
    )
    return made


def _check_traceable(
    xq: Tensor,
    xk: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    pe: Tensor,
    eps: float,
    layout: Layout,
) -> None:
    """Raise for a wrong rank, type or device: what a trace may check without freezing a size."""
    check_traceable(xq, xk, pe, layout)
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps: expected a number from 0 on, got {eps}")
    for name, scale, x in (("q_scale", q_scale, xq), ("k_scale", k_scale, xk)):
        if not isinstance(scale, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(scale).__name__}")
        if scale.dtype not in (x.dtype, torch.float32):
            raise TypeError(f"{name}: expected {x.dtype} or torch.float32, got {scale.dtype}")
        if scale.device != x.device:
            raise ValueError(f"{name}: expected device {x.device} as xq has, got {scale.device}")
        ranks = (1, 2) if layout == "BLHD" else (1,)
        if scale.ndim not in ranks or scale.ndim != q_scale.ndim:
            shapes = " or (H, D)" if layout == "BLHD" else ""
            same = " of as many axes as q_scale" if scale is k_scale else ""
            raise ValueError(f"{name}: expected shape (D,){shapes}{same}, got {tuple(scale.shape)}")


def _check_sizes(
    xq: Tensor, xk: Tensor, q_scale: Tensor, k_scale: Tensor, pe: Tensor, perm: list[int]
) -> None:
    """Raise unless all fit ``xq`` on real data."""
    check_sizes(xq.permute(perm), xk.permute(perm), pe)
    for name, scale, x in (("q_scale", q_scale, xq), ("k_scale", k_scale, xk)):
        expected = tuple(x.shape[-scale.ndim :])
        if tuple(scale.shape) != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {tuple(scale.shape)}")


def translation(node: Callable[..., Any], _: int) -> Callable[..., Any]:
    """Return what the exporter calls for ``ropeexport::norm_rope``."""
    import onnx_ir as ir
    import onnxscript

    def made(xq: Any, xk: Any, q_scale: Any, k_scale: Any, pe: Any, eps: float, perm: Any) -> Any:
        is_narrow = pe.dtype is not None and pe.dtype != ir.DataType.FLOAT
        wide = onnxscript.opset23.Cast(pe, to=ir.DataType.FLOAT) if is_narrow else pe
        order = [int(axis) for axis in perm]
        axis = -len(q_scale.shape)
        return node(xq, xk, wide, q_scale, k_scale, epsilon=eps, axis=axis, perm=order)

    return made
