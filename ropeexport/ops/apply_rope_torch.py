"""The torch side of ``ropeexport::ApplyRope``: the op ``ropeexport::apply_rope`` and its checks.

Checks of rank, type and device hold while a module is traced too.  Checks that compare sizes run
only on real data: inside a trace they would freeze a dynamic batch or length into the file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable loads torch._dynamo at once
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function

from ropeexport.dtypes import DOUBLE, EXPORTED
from ropeexport.reference import rotate, rotate_backward_data, rotate_backward_pe

_TYPES = tuple(kind.torch for kind in (*EXPORTED.values(), DOUBLE))
_TYPE_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in _TYPES)

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
    like = partial(torch.empty_like, memory_format=torch.contiguous_format)
    return like(xq), like(xk)


@_disable_dynamo
def _differentiable(xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate with derivatives: of forward mode and of torch.func, those of torch's own operators.

    Gradients have a rule of their own, which keeps the op whole in a compiled graph.
    """
    inputs = (xq, xk, pe)
    if torch._C._are_functorch_transforms_active() or any(map(has_tangent, inputs)):
        return _rotate_both(*inputs)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        rotated: tuple[Tensor, Tensor] = _Rotation.apply(*inputs)  # type: ignore[no-untyped-call]
        return rotated
    return _without_derivatives(*inputs)


def has_tangent(x: Tensor) -> bool:
    """Say whether a tensor carries a derivative of forward mode."""
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
    given = (xq, xk, freqs_cis)
    if has_torch_function(given):  # torch.fx's own trace, say, which keeps the call as it is
        kept: tuple[Tensor, Tensor] = handle_torch_function(apply_rope, given, *given)
        return kept
    check_traceable(xq, xk, freqs_cis)
    pe = freqs_cis.unsqueeze(1) if freqs_cis.ndim == 5 else freqs_cis
    rotated: tuple[Tensor, Tensor] = apply_rope_op(xq, xk, pe)
    return rotated


def check_traceable(xq: Tensor, xk: Tensor, pe: Tensor, layout: str = "BHLD") -> None:
    """Raise for a wrong rank, type or device: what a trace may check without freezing a size."""
    for name, x in (("xq", xq), ("xk", xk), ("freqs_cis", pe)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
        if x.dtype not in _TYPES:
            raise TypeError(f"{name}: expected floating data of {_TYPE_NAMES}, got {x.dtype}")
        if x.device != xq.device:
            raise ValueError(f"{name}: expected device {xq.device} as xq has, got {x.device}")
    for name, x in (("xq", xq), ("xk", xk)):
        if x.ndim != 4:
            axes = ", ".join(layout)
            raise ValueError(f"{name}: expected shape ({axes}), got {tuple(x.shape)}")
    if pe.ndim not in (5, 6):
        raise ValueError(
            "freqs_cis: expected shape (B, L, D/2, 2, 2) or (B, 1 or H, L, D/2, 2, 2), "
            f"got {tuple(pe.shape)}"
        )


def check_sizes(xq: Tensor, xk: Tensor, pe: Tensor) -> None:
    """Raise unless ``xk`` and the six-dimensional ``pe`` fit ``xq`` (B, H, L, D) on real data."""
    batch, heads, length, head_size = xq.shape
    if head_size == 0 or head_size % 2:
        raise ValueError(f"xq: expected an even head size D, got shape {tuple(xq.shape)}")
    if (xk.shape[0], *xk.shape[2:]) != (batch, length, head_size):
        raise ValueError(
            f"xk: expected shape ({batch}, H, {length}, {head_size}) as xq has, "
            f"got {tuple(xk.shape)}"
        )
    if tuple(pe.shape[2:]) != (length, head_size // 2, 2, 2):
        raise ValueError(
            f"freqs_cis: expected shape (B, 1 or H, {length}, {head_size // 2}, 2, 2) "
            f"or the same without the head axis, got {tuple(pe.shape)}"
        )
    if pe.shape[0] not in (1, batch):
        raise ValueError(f"freqs_cis: expected batch 1 or {batch}, got {tuple(pe.shape)}")
    if pe.shape[1] != 1 and not pe.shape[1] == heads == xk.shape[1]:
        allowed = f"1 or {heads}" if heads == xk.shape[1] else "1 (q and k differ in heads)"
        raise ValueError(f"freqs_cis: expected a head axis of {allowed}, got {tuple(pe.shape)}")


def plain(xq: Tensor, xk: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate in torch's own operators, as a module without the op does."""
    return rotate(xq, pe), rotate(xk, pe)


def translation(node: Callable[..., Any], _: int) -> Callable[..., Any]:
    """Return what the exporter calls for ``ropeexport::apply_rope``."""
    import onnx_ir as ir
    import onnxscript

    def apply_rope(xq: Any, xk: Any, pe: Any) -> Any:
        is_narrow = pe.dtype is not None and pe.dtype != ir.DataType.FLOAT
        wide = onnxscript.opset23.Cast(pe, to=ir.DataType.FLOAT) if is_narrow else pe
        return node(xq, xk, wide)

    return apply_rope
