"""A decoder of transformers with its cache, ready to be traced."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from ropeexport.errors import UsageError
from ropeexport.given import whole
from ropeexport.manifest import Axis, CacheForm, CacheRecord
from ropeexport.models.axes import longest_of
from ropeexport.models.example import Example
from ropeexport.models.hub.cached import HALVES, PAST, PRESENT, CachedDecoder
from ropeexport.models.hub.cached_proof import check_alone, states_of

# sizes to trace with: no two alike
_BATCH, _HELD, _NEW = 2, 5, 3
_BEST_PAST, _BEST_LENGTH = 512, 16
_CAPACITY = 4096  # without a config's own limit; of a fixed cache, whose memory it is, at most

# settings of transformers' generate by which a text is another one, sampled or not, and their value
# where they ask for nothing
_ASKED = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "min_length": 0,
    "min_new_tokens": 0, "suppress_tokens": [], "begin_suppress_tokens": [], "bad_words_ids": [],
    "sequence_bias": {}, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None, "guidance_scale": 1.0, "penalty_alpha": None,
}  # fmt: skip


def cached_example(decoder: Any, form: CacheForm, capacity: int | None = None) -> Example:
    """Return a decoder with its cache as an example, and the most that its axes may be.

    Parameters
    ----------
    decoder : PreTrainedModel
        With logits and a cache of keys and values.
    form : str
        ``grow`` or ``fixed``.
    capacity : int, optional
        How many tokens the cache may hold; by default what the model's config allows.

    Raises
    ------
    UsageError
        For a model that keeps anything else from call to call, by its name.
    """
    if form not in get_args(CacheForm):
        raise UsageError(
            f"cache: expected {' or '.join(get_args(CacheForm))}, got {form!r}", code="RX110"
        )
    shapes, chosen_by = states_of(decoder), "config" if capacity is None else "caller"
    capacity = _capacity(decoder, form, capacity)
    wrapper = CachedDecoder(decoder, form)
    check_alone(decoder, wrapper, shapes)
    wrapper.__class__ = type(type(decoder).__name__, (CachedDecoder,), {})
    dtype, device = decoder.dtype, decoder.device
    held = min(_HELD, capacity - 1)
    new = min(_NEW, capacity - held)
    slots = capacity if form == "fixed" else held

    def state(heads: int, width: int) -> Tensor:
        return torch.zeros(_BATCH, heads, slots, width, dtype=dtype, device=device)

    steps = {0: "batch", 1: "length"}
    positions = torch.arange(held, held + new, device=device).expand(_BATCH, new).contiguous()
    most = {"past": capacity - 1, "length": capacity}
    usual = min(_BEST_LENGTH, capacity - 1)
    best = {"past": min(_BEST_PAST, capacity - usual), "length": usual}
    return Example(
        wrapper,
        {
            "input_ids": torch.zeros(_BATCH, new, dtype=torch.int64, device=device),
            "attention_mask": torch.ones(_BATCH, held + new, dtype=torch.int64, device=device),
            "position_ids": positions,
            PAST: [
                {name: state(*shape) for name, shape in zip(HALVES, pair, strict=True)}
                for pair in shapes
            ],
        },
        {
            "input_ids": steps,
            "attention_mask": {0: "batch", 1: "past + length"},
            "position_ids": steps,
            PAST: {0: "batch"} if form == "fixed" else {0: "batch", 2: "past"},
        },
        axes={
            name: Axis(min=0 if name == "past" else 1, opt=best[name], max=top,
                       chosen_by=chosen_by)
            for name, top in most.items()
        },
        roles={"attention_mask": "mask", "position_ids": "positions"},
        cache=CacheRecord(
            form=form, capacity=capacity, pairs=_pairs(len(shapes)), **_habits(decoder)
        ),
    )  # fmt: skip


def _capacity(decoder: Any, form: CacheForm, given: int | None) -> int:
    """Return how many tokens a cache may hold."""
    longest, limit = longest_of(decoder), _first_turn(decoder)
    if limit is not None and not _rereads(decoder):
        longest = min(longest or limit, limit)
    if given is None:
        return min(longest or _CAPACITY, _CAPACITY) if form == "fixed" else longest or _CAPACITY
    given = whole("capacity", given, 2)
    name = type(decoder).__name__
    if limit is not None and not _rereads(decoder) and given > limit:
        raise UsageError(
            f"capacity: expected at most {limit}, beyond which {name} turns all tokens by other "
            f"angles, those that are held too, and keeps its cache; got {given}",
            code="RX119",
        )
    if longest is not None and given > longest and not _ropes(decoder):
        raise UsageError(
            f"capacity: expected at most {longest}, as many positions as {name} has learned, got "
            f"{given}",
            code="RX119",
        )
    return given


def _ropes(decoder: Any) -> list[dict[str, Any]]:
    """Return the settings of a config's rotations: one, or one for each kind of layer."""
    config = decoder.config.get_text_config(decoder=True)
    found = getattr(config, "rope_parameters", None) or {}
    by_kind = [x for x in found.values() if isinstance(x, dict)]
    return by_kind or ([found] if found else [])


def _first_turn(decoder: Any) -> int | None:
    """Return the length from which a model turns all of a text by other angles, if there is one."""
    config = decoder.config.get_text_config(decoder=True)
    own = getattr(config, "max_position_embeddings", None)
    limits = [
        rope.get("original_max_position_embeddings") or own
        for rope in _ropes(decoder)
        if rope.get("rope_type") in ("longrope", "dynamic")
    ]
    return min((int(n) for n in limits if n is not None), default=None)


def _rereads(decoder: Any) -> bool:
    """Say whether a model's ``generate`` reads a text again there, as Phi-3's does."""
    prepares = inspect.getsource(type(decoder).prepare_inputs_for_generation)
    return "original_max_position_embeddings" in prepares


def _pairs(layers: int) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{PAST}.{index}.{name}", f"{PRESENT}.{index}.{name}")
        for index in range(layers)
        for name in HALVES
    )


def _habits(decoder: Any) -> dict[str, Any]:
    """Return what a text of this model begins and ends with, and where its rotations change."""
    config = decoder.config.get_text_config(decoder=True)
    asked = getattr(decoder, "generation_config", None)

    def token(name: str) -> Any:
        own = getattr(asked, name, None)
        return own if own is not None else getattr(config, name, None)

    eos = token("eos_token_id")
    ends = () if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,)
    layers = DynamicCache(config=config).layers
    windows = [x.sliding_window for x in layers if isinstance(x, DynamicSlidingWindowLayer)]
    return {
        "eos": ends,
        "bos": token("bos_token_id"),
        "pad": token("pad_token_id"),
        "asked": tuple(
            f"{name}={value}"
            for name, without in _ASKED.items()
            if (value := getattr(asked, name, None)) not in (None, without)
        ),
        "reread_at": _first_turn(decoder) if _rereads(decoder) else None,
        "window": min(windows, default=None),
    }
