"""Attention over a cache by the positions that tokens have in their own texts, for any decoder.

A kind of attention (causal, a window, chunks) is a function of a query's index and a key's; it is
given positions here in place of slots.  So a text with padding, before it, behind it or inside,
sees what it would see alone, in a sliding window too; and the mask is made once for all layers of a
kind.

Source: transformers 5, ``masking_utils.py`` (``AttentionMaskInterface``) and
``integrations/sdpa_attention.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from ropeexport.errors import UsageError

_NAME = "ropeexport_cached"  # of the attention below, in transformers' registries
_EAGER, _SDPA = "eager", "sdpa"  # a model's own, written out (softcaps, sinks) or torch's


@dataclass(frozen=True)
class Slots:
    """Which slots of a cache hold a token, and its position in its own sequence."""

    real: Tensor  # (batch, slots): none of padding
    keys: Tensor  # (batch, slots): the position of what a slot holds
    queries: Tensor  # (batch, length): that of the new tokens
    own: Tensor  # (length, slots): a new token's own slot
    kinds: list[Callable[..., Tensor]] = field(default_factory=list)  # of attention that was asked

    @classmethod
    def of(cls, mask: Tensor, length: Any, slots: Any) -> Slots:
        """Return them of a mask over tokens that are held and ``length`` new ones."""
        total = mask.shape[1]
        real, keys = mask != 0, mask.cumsum(-1) - 1
        rows = torch.arange(length, device=mask.device) + (total - length)
        queries = keys.index_select(1, rows)
        places = torch.arange(slots, device=mask.device)
        if slots is not total:  # by indices: torch would want a padding's size to be proven
            inside = places.clamp(max=total - 1)
            real = real.index_select(1, inside) & (places < total)
            keys = keys.index_select(1, inside)
        return cls(real, keys, queries, rows[:, None] == places[None])


_SLOTS: ContextVar[Slots | None] = ContextVar("slots", default=None)


def _mask(
    batch_size: int, mask_function: Callable[..., Tensor], device: Any = None, **_: Any
) -> Tensor:
    """Return what each query sees, (batch, 1, length, slots): a kind of attention by positions.

    A query of padding sees itself, so that none sees nothing at all: what attention makes of that
    is NaN in some runtimes.
    """
    slots = _SLOTS.get()
    assert slots is not None
    slots.kinds.append(mask_function)
    rows = torch.arange(batch_size, device=device)[:, None, None, None]
    head = torch.zeros((1, 1, 1, 1), dtype=torch.int64, device=device)
    queries, keys = slots.queries[:, None, :, None], slots.keys[:, None, None, :]
    seen = mask_function(rows, head, queries, keys) & slots.real[:, None, None, :]
    return seen | slots.own[None, None]


def _added_mask(dtype: torch.dtype = torch.float32, **given: Any) -> Tensor:
    """Return the mask as it is added to scores, for attention that a model writes out itself."""
    seen = _mask(**given)
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, zero, torch.finfo(dtype).min)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' ``sdpa`` does, each group of heads to its one key and value."""
    if any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "s_aux")):
        raise UsageError(
            f"{type(module).__name__}: expected attention without softcap or sinks", code="RX118"
        )
    is_grouped = query.shape[1] != key.shape[1]
    out = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=is_grouped
    )
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def attention_by_position(decoder: Any, slots: Slots) -> Iterator[None]:
    """Have attention inside a decoder masked by positions for a while.

    A model that asks transformers for its attention gets the one above; one that writes it out, or
    calls torch's by itself, keeps it and gets the mask.
    """
    found: list[Any] = [getattr(part, "config", None) for part in (decoder, *decoder.modules())]
    configs = {id(x): x for x in found if hasattr(x, "_attn_implementation_internal")}
    former = {key: config._attn_implementation_internal for key, config in configs.items()}
    name = _NAME if getattr(decoder, "_supports_attention_backend", False) else _SDPA
    token = _SLOTS.set(slots)
    try:
        for key, config in configs.items():
            if former[key] != _EAGER:
                config._attn_implementation_internal = name
        yield
    finally:
        _SLOTS.reset(token)
        for key, implementation in former.items():
            configs[key]._attn_implementation_internal = implementation


def _by_position_within(name: str, mask: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return transformers' mask of an implementation, but within :func:`attention_by_position`."""

    def chosen(*args: Any, **given: Any) -> Any:
        if _SLOTS.get() is not None:
            return mask(**given)
        return AttentionMaskInterface._global_mapping[name](*args, **given)

    return chosen


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
ALL_MASK_ATTENTION_FUNCTIONS[_SDPA] = _by_position_within(_SDPA, _mask)
ALL_MASK_ATTENTION_FUNCTIONS[_EAGER] = _by_position_within(_EAGER, _added_mask)
