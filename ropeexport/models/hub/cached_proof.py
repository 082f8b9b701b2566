"""What a decoder is asked before its cache is exported: what it keeps, and that it is the same.

A model may know its tokens by other means than those that the wrapper replaces, or keep more than
keys and values.  The first is computed, the second is asked, and both are refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ropeexport.errors import UsageError, first_line
from ropeexport.models.example import evaluated, unchanged
from ropeexport.models.hub.cached import HALVES, PRESENT, CachedDecoder
from ropeexport.models.hub.masks_by_position import Slots, attention_by_position
from ropeexport.models.hub.traceable import experts_of_any_type, traceable_ropes
from ropeexport.weights.references import is_fake

# layers that keep keys and values of all tokens, or of the last ones, and nothing else
_KEPT = (DynamicLayer, DynamicSlidingWindowLayer)
# of the texts that are read to prove a wrapper: tokens, those of padding, how they are cut
_PROVEN, _PADDED, _PIECES = 9, 2, (6, 1, 2)
_SAME = 2.0**-12  # of the largest logit: float32 adds in another order
_SAME_IN_HALF = 64  # roundings of a half type

Shape = tuple[int, int]  # heads and width


def states_of(decoder: Any) -> list[tuple[Shape, ...]]:
    """Return heads and width of each layer's key and value, as a call of the model makes them.

    Raises
    ------
    UsageError
        For a model that keeps anything else from call to call, by its name.
    """
    name, config = type(decoder).__name__, getattr(decoder, "config", None)
    if not hasattr(decoder, "get_output_embeddings") or config is None:
        raise UsageError(f"cache: expected a decoder of transformers, got a {name}", code="RX118")
    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(
            f"{name}: expected a decoder alone, got an encoder with a decoder, whose cache is "
            "another one",
            code="RX118",
        )
    cache = DynamicCache(config=config)
    others = sorted({type(x).__name__ for x in cache.layers if type(x) not in _KEPT})
    if others:
        raise UsageError(
            f"{name}: expected layers that keep keys and values alone, got {', '.join(others)}: "
            "state-space models, hybrids and other kinds of state have no place in this interface",
            code="RX118",
        )
    if getattr(config, "alibi", False):
        raise UsageError(
            f"{name}: expected rotations or learned positions, got ALiBi (alibi=True)", code="RX118"
        )
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        raise UsageError(
            f"{name}: expected a forward that takes position_ids, which padding needs; export it "
            "without cache",
            code="RX118",
        )
    kinds = _probed(decoder, cache)
    if not kinds or any(map(_looks_ahead, kinds)):
        how = "that sees what comes later" if kinds else "with masks of its own"
        raise UsageError(
            f"{name}: expected attention that is causal by transformers' masks, got one {how}: "
            "export it without cache (of an encoder, is_decoder=True in its config makes it one)",
            code="RX118",
        )
    layers = [layer for layer in cache.layers if layer.is_initialized]
    if not layers or layers != cache.layers[: len(layers)]:
        raise UsageError(
            f"{name}: expected a cache whose first layers are filled, got others", code="RX118"
        )
    return [tuple((x.shape[1], x.shape[3]) for x in (y.keys, y.values)) for y in layers]


def _probed(decoder: Any, cache: DynamicCache) -> list[Callable[..., Tensor]]:
    """Fill a cache with two tokens; return the kinds of attention that were asked for."""
    weight = next(decoder.parameters())
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=weight.device)
    slots = Slots.of(torch.ones_like(tokens), 2, 2)
    positions = torch.arange(2, device=weight.device)[None]
    mode = weight.fake_mode if is_fake(weight) else nullcontext()
    with _undisturbed(decoder), attention_by_position(decoder, slots), mode:
        try:
            made = decoder(
                input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True
            )
        except Exception as error:  # of the model's own code
            raise UsageError(
                f"{type(decoder).__name__}: expected a decoder of transformers that takes tokens "
                f"and a cache: {type(error).__name__}: {first_line(error)}",
                code="RX118",
            ) from error
    if getattr(made, "logits", None) is None:
        raise UsageError(
            f"{type(decoder).__name__}: expected a model with logits, as AutoModelForCausalLM "
            "makes it, got none",
            code="RX118",
        )
    return slots.kinds


def _looks_ahead(kind: Callable[..., Tensor]) -> bool:
    """Say whether a kind of attention lets a token see the next one."""
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.int64)
    seen = kind(zero, zero, zero, zero + 1)
    return not is_fake(seen) and bool(seen.any())


@contextmanager
def _undisturbed(decoder: Any) -> Iterator[None]:
    """Have a decoder in evaluation mode for calls that leave nothing in it."""
    computed = (traceable_ropes(decoder), experts_of_any_type(decoder))
    with torch.no_grad(), unchanged(decoder), evaluated(decoder), computed[0], computed[1]:
        yield


def check_alone(decoder: Any, wrapper: CachedDecoder, shapes: Sequence[Sequence[Shape]]) -> None:
    """Raise unless rows of a padded batch, read in pieces, are what each is alone.

    By the decoder's own masks and positions, where weights have values: what a model does by other
    means than those that the wrapper replaces shows here.  In half types experts may change places.
    """
    weight = next(decoder.parameters())
    is_half = decoder.dtype is not torch.float32
    if is_fake(weight) or (is_half and any("expert" in n for n, _ in decoder.named_modules())):
        return
    same = _SAME if not is_half else _SAME_IN_HALF * torch.finfo(decoder.dtype).eps
    device, most = weight.device, decoder.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(1, 2 * _PROVEN + 1, device=device).view(2, -1) % most
    with _undisturbed(decoder):
        for padding in (slice(0, _PADDED), slice(_PIECES[0] - _PADDED, _PIECES[0])):
            mask = torch.ones_like(tokens)
            mask[1, padding] = 0
            logits = _in_pieces(wrapper, shapes, tokens, mask)
            for row, real in enumerate(mask.bool()):
                expected = decoder(input_ids=tokens[row, real][None], use_cache=False).logits[0]
                difference = (logits[row, real] - expected).abs().max()
                if not difference <= same * expected.abs().max():
                    raise UsageError(
                        f"{type(decoder).__name__}: with its cache it gives other logits than "
                        f"alone ({float(difference):.2g} apart of {float(expected.abs().max()):.2g}"
                        "), so it sees its tokens by means that a cache of this form has not: "
                        "export it without cache",
                        code="RX118",
                    )


def _in_pieces(
    wrapper: CachedDecoder, shapes: Sequence[Sequence[Shape]], tokens: Tensor, mask: Tensor
) -> Tensor:
    """Return the logits of texts that are read piece by piece."""
    slots = _PROVEN + 1 if wrapper.form == "fixed" else 0
    weight = next(wrapper.parameters())
    states = [
        {name: weight.new_zeros(2, heads, slots, width)
         for name, (heads, width) in zip(HALVES, pair, strict=True)}
        for pair in shapes
    ]  # fmt: skip
    positions, logits = (mask.cumsum(1) - 1).clamp(min=0), []
    for start, end in pairwise(accumulate(_PIECES, initial=0)):
        piece = slice(start, end)
        made = wrapper(tokens[:, piece], mask[:, :end], positions[:, piece], states)
        states = made[PRESENT]
        logits.append(made["logits"])
    return torch.cat(logits, 1)
