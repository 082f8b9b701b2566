"""The built-in models of the command line, each an :class:`Example` made from a few options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ropeexport.dtypes import EXPORTED
from ropeexport.errors import UsageError
from ropeexport.given import check_memory, whole
from ropeexport.manifest import Axis
from ropeexport.models.example import Example
from ropeexport.modules import FluxAttention, FluxSelfAttention, FluxSelfAttentionIds

DTYPES = {short: kind.torch for short, kind in EXPORTED.items()}

# Sizes to trace with: all axes are symbolic, so small ones do, and unequal ones cannot be confused
_TRACE_BATCH = 2
_TRACE_LENGTH = 6
_WEIGHT_SEED = 0
_WEIGHT_SCALE = 0.02  # of what a class leaves at zero, as most classes draw their weights


_MOST = 1 << 24
_WIDEST = 1 << 15  # heads times their size: weights have its square


@dataclass(frozen=True)
class BuiltinOptions:
    """Sizes and type of a built-in model; batch and length are the sizes it is tuned for."""

    batch: int = 1
    heads: int = 24
    head_dim: int = 128
    length: int = 1024
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "head_dim", "length"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1, _MOST))
        if self.width > _WIDEST:
            raise UsageError(
                f"heads: expected at most {_WIDEST:,} for all heads together, got {self.width:,}",
                code="RX110",
            )
        if self.head_dim % 2:
            raise UsageError(
                f"head_dim: expected an even number, got {self.head_dim}", code="RX110"
            )
        if self.dtype not in DTYPES:
            raise UsageError(
                f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}", code="RX110"
            )
        # the weights of queries, keys, values and output, and what is traced with
        elements = self.width * (4 * self.width + 3 * _TRACE_BATCH * _TRACE_LENGTH)
        check_memory("heads, head_dim", elements)

    @property
    def width(self) -> int:
        """Heads times head size."""
        return self.heads * self.head_dim

    @property
    def torch_dtype(self) -> torch.dtype:
        """The data's type."""
        return DTYPES[self.dtype]


def flux_axes(head_dim: int) -> tuple[int, int, int]:
    """Split a head size over FLUX's three position axes as 16, 56, 56 of 128, each even."""
    first = max(2, head_dim // 8 // 2 * 2) if head_dim >= 6 else 0
    second = (head_dim - first) // 2 // 2 * 2
    return first, second, head_dim - first - second


def flux_attention(options: BuiltinOptions) -> Example:
    """FLUX's ``attention``: q, k, v (B, H, L, D) and pe to (B, L, H*D)."""
    shape = (_TRACE_BATCH, options.heads, _TRACE_LENGTH, options.head_dim)
    q, k, v = (torch.zeros(shape, dtype=options.torch_dtype) for _ in range(3))
    data_axes = {0: "batch", 2: "length"}
    return Example(
        module=FluxAttention().eval(),
        inputs={"q": q, "k": k, "v": v, "pe": _trace_pe(options)},
        dynamic_axes={"q": data_axes, "k": data_axes, "v": data_axes, "pe": _PE_AXES},
        axes=_data_axes(options) | _pe_axes(options),
        outputs=("out",),
    )


def flux_self_attention(options: BuiltinOptions) -> Example:
    """FLUX's self-attention: x (B, L, H*D) and pe to (B, L, H*D)."""
    module = seeded(lambda: FluxSelfAttention(options.width, options.heads))
    return Example(
        module=module.to(options.torch_dtype).eval(),
        inputs={"x": _trace_x(options), "pe": _trace_pe(options)},
        dynamic_axes={"x": {0: "batch", 1: "length"}, "pe": _PE_AXES},
        axes=_data_axes(options) | _pe_axes(options),
        outputs=("out",),
    )


def flux_self_attention_ids(options: BuiltinOptions) -> Example:
    """FLUX's self-attention from integer ids: x (B, L, H*D) and ids (B, L, 3) to (B, L, H*D)."""
    axes_dim = flux_axes(options.head_dim)
    if min(axes_dim) < 2:
        raise UsageError(
            f"head_dim: expected at least 6 for three axes, got {options.head_dim}", code="RX110"
        )
    ids = torch.zeros(_TRACE_BATCH, _TRACE_LENGTH, 3, dtype=torch.int64)
    axes = {0: "batch", 1: "length"}
    module = seeded(lambda: FluxSelfAttentionIds(options.width, options.heads, axes_dim))
    return Example(
        module=module.to(options.torch_dtype).eval(),
        inputs={"x": _trace_x(options), "ids": ids},
        dynamic_axes={"x": axes, "ids": axes},
        axes=_data_axes(options),
        outputs=("out",),
    )


BUILTINS: dict[str, Callable[[BuiltinOptions], Example]] = {
    "flux-attention": flux_attention,
    "flux-self-attention": flux_self_attention,
    "flux-self-attention-ids": flux_self_attention_ids,
}

_PE_AXES = {0: "pe_batch", 1: "pe_heads", 2: "length"}


def _trace_x(options: BuiltinOptions) -> torch.Tensor:
    return torch.zeros(_TRACE_BATCH, _TRACE_LENGTH, options.width, dtype=options.torch_dtype)


def _trace_pe(options: BuiltinOptions) -> torch.Tensor:
    return torch.zeros(
        _TRACE_BATCH, max(2, options.heads), _TRACE_LENGTH, options.head_dim // 2, 2, 2
    )


def _data_axes(options: BuiltinOptions) -> dict[str, Axis]:
    return {
        "batch": Axis(min=1, opt=options.batch, max=2 * options.batch),
        "length": Axis(min=1, opt=options.length, max=2 * options.length),
    }


def _pe_axes(options: BuiltinOptions) -> dict[str, Axis]:
    return {
        "pe_batch": Axis(min=1, opt=1, max=2 * options.batch, broadcasts_to="batch"),
        "pe_heads": Axis(min=1, opt=1, max=options.heads, broadcasts_to=options.heads),
    }


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a module with the same weights every time, without touching the caller's generator.

    Matrices and padding tokens that their class leaves at zero become random too: of zeros every
    score is the same, so which expert is chosen, or what a last layer returns, says nothing.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_WEIGHT_SEED)
        module = make()
        for part in module.modules():
            if isinstance(part, nn.Embedding) and part.padding_idx is not None:
                part.weight[part.padding_idx].normal_(std=_WEIGHT_SCALE)
        for weight in module.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=_WEIGHT_SCALE)
        return module
