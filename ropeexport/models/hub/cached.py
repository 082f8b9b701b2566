"""A decoder of transformers with the tensors of its cache in place of the cache.

A cache is an object, which no graph has.  The wrapper takes and returns its tensors, by the names
that optimum and onnxruntime-genai read, in one of two forms:

- ``grow``: past and present hold the tokens so far, ``(batch, heads, past, head_dim)``;
- ``fixed``: both hold ``capacity`` of them, and the new tokens are written behind those that are
  there, in the same memory where a runtime can.

The mask is made once, for all layers of a kind, of the positions that the tokens have in their own
sequences: a sequence with padding, before it, behind it or inside, sees what it would see alone, in
a sliding window too.

Source: transformers 5, ``cache_utils.py`` (``Cache``, ``DynamicLayer``, ``StaticLayer``) and
``masking_utils.py`` (``AttentionMaskInterface``: a kind of attention as a function of a query's and
a key's index).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from ropeexport.errors import UsageError, first_line
from ropeexport.manifest import Axis, CacheForm, CacheRecord
from ropeexport.models.axes import longest_of
from ropeexport.models.example import Example, evaluated, unchanged
from ropeexport.models.hub.load import traceable_experts, traceable_ropes
from ropeexport.ops.cache_update import cache_update
from ropeexport.weights.references import is_fake

_NAME = "ropeexport_cached"  # of the attention below, in transformers' registries
_EAGER, _SDPA = "eager", "sdpa"  # a model's own, written out (softcaps, sinks) or torch's
_PAST, _PRESENT = "past_key_values", "present"
_HALVES = ("key", "value")
# sizes to trace with: no two alike
_BATCH, _HELD, _NEW = 2, 5, 3
_BEST_PAST, _BEST_LENGTH = 512, 16
_CAPACITY = 4096  # without a config's own limit; of a fixed cache, whose memory it is, at most
# layers that keep keys and values of all tokens, or of the last ones, and nothing else
_KEPT = (DynamicLayer, DynamicSlidingWindowLayer)

# of the texts that are read to prove a wrapper: tokens, those of padding, how they are cut
_PROVEN, _PADDED, _PIECES = 9, 2, (6, 1, 2)
_SAME = 2.0**-12  # of the largest logit: float32 adds in another order
_SAME_IN_HALF = 64  # roundings of a half type

# settings of transformers' generate by which a text is another one, sampled or not, and their value
# where they ask for nothing
_ASKED = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "min_length": 0,
    "min_new_tokens": 0, "suppress_tokens": [], "begin_suppress_tokens": [], "bad_words_ids": [],
    "sequence_bias": {}, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None, "guidance_scale": 1.0, "penalty_alpha": None,
}  # fmt: skip

State = dict[str, Tensor]  # of a layer: key and value
Shape = tuple[int, int]  # heads and width


class CachedDecoder(nn.Module):
    """A decoder as a function of tokens and of what its cache holds.

    Its weights have the names that the decoder has for them.

    Parameters
    ----------
    decoder : PreTrainedModel
        With logits; it is shared, and left as it is.
    form : str
        ``grow`` or ``fixed``.
    """

    def __init__(self, decoder: Any, form: CacheForm) -> None:
        self.__dict__["_decoder"] = decoder  # no part, which would prefix the weights' names
        training = decoder.training
        super().__init__()
        self.training = training
        self._modules = decoder._modules
        self._parameters = decoder._parameters
        self._buffers = decoder._buffers
        self.form = form

    @property
    def decoder(self) -> Any:
        """What it computes with."""
        return self.__dict__["_decoder"]

    @property
    def training(self) -> bool:
        """The decoder's own."""
        return bool(self.decoder.training)

    @training.setter
    def training(self, mode: bool) -> None:
        self.decoder.training = mode

    @property
    def config(self) -> Any:
        """The decoder's own."""
        return self.decoder.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: list[State],
    ) -> dict[str, Any]:
        """Return logits, and the cache with the new tokens in it.

        Parameters
        ----------
        input_ids : Tensor
            ``(batch, length)``, the new tokens.
        attention_mask : Tensor
            ``(batch, past + length)``, 1 for each token that is none of padding, those held first.
        position_ids : Tensor
            ``(batch, length)``, which the rotations are by.
        past_key_values : list of dict
            ``key`` and ``value`` of each layer, see the module.
        """
        length, total = input_ids.shape[1], attention_mask.shape[1]
        held = total - length
        if self.form == "fixed":
            write = torch.full((input_ids.shape[0],), 1, dtype=torch.int64) * held
            layers = [_FixedLayer(state, write, held) for state in past_key_values]
            slots = past_key_values[0]["key"].shape[2]
        else:
            layers = [_GrowingLayer(state) for state in past_key_values]
            slots = total
        cache = Cache(layers=layers)
        with _attention_by_position(self.decoder, _Slots.of(attention_mask, length, slots)):
            made = self.decoder(
                input_ids=input_ids,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            )
        present = [dict(zip(_HALVES, (x.keys, x.values), strict=True)) for x in cache.layers]
        return {"logits": made.logits, _PRESENT: present}


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values so far; new ones are put behind them."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.lazy_initialization(state["key"], state["value"])
        self.keys, self.values = state["key"], state["value"]


class _FixedLayer(StaticLayer):  # type: ignore[misc]
    """A layer's keys and values in memory of a fixed length; new ones are written at an index."""

    is_compileable = False  # there is nothing to be compiled, and the mask is never left out

    def __init__(self, state: State, write: Tensor, held: Any) -> None:
        super().__init__(state["key"].shape[2])
        self.keys, self.values = state["key"], state["value"]
        self._write, self._held = write, held
        self.is_initialized = True

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values."""
        self.keys = cache_update(self.keys, keys, self._write)
        self.values = cache_update(self.values, values, self._write)
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        """Return how many tokens are held."""
        return self._held


@dataclass(frozen=True)
class _Slots:
    """Which slots of a cache hold a token, and its position in its own sequence."""

    real: Tensor  # (batch, slots): none of padding
    keys: Tensor  # (batch, slots): the position of what a slot holds
    queries: Tensor  # (batch, length): that of the new tokens
    own: Tensor  # (length, slots): a new token's own slot
    kinds: list[Callable[..., Tensor]] = field(default_factory=list)  # of attention that was asked

    @classmethod
    def of(cls, mask: Tensor, length: Any, slots: Any) -> _Slots:
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


_SLOTS: ContextVar[_Slots | None] = ContextVar("slots", default=None)


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
        raise UsageError(f"{type(module).__name__}: expected attention without softcap or sinks")
    is_grouped = query.shape[1] != key.shape[1]
    out = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=is_grouped
    )
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def _attention_by_position(decoder: Any, slots: _Slots) -> Iterator[None]:
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
    """Return transformers' mask of an implementation, but for within :class:`CachedDecoder`."""

    def chosen(*args: Any, **given: Any) -> Any:
        if _SLOTS.get() is not None:
            return mask(**given)
        return AttentionMaskInterface._global_mapping[name](*args, **given)

    return chosen


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
ALL_MASK_ATTENTION_FUNCTIONS[_SDPA] = _by_position_within(_SDPA, _mask)
ALL_MASK_ATTENTION_FUNCTIONS[_EAGER] = _by_position_within(_EAGER, _added_mask)


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
        raise UsageError(f"cache: expected {' or '.join(get_args(CacheForm))}, got {form!r}")
    shapes, chosen_by = states_of(decoder), "config" if capacity is None else "caller"
    capacity = _capacity(decoder, form, capacity)
    wrapper = CachedDecoder(decoder, form)
    _check_alone(decoder, wrapper, shapes)
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
            _PAST: [
                {name: state(*shape) for name, shape in zip(_HALVES, pair, strict=True)}
                for pair in shapes
            ],
        },
        {
            "input_ids": steps,
            "attention_mask": {0: "batch", 1: "past + length"},
            "position_ids": steps,
            _PAST: {0: "batch"} if form == "fixed" else {0: "batch", 2: "past"},
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
    if type(given) is not int or given < 2:
        raise UsageError(f"capacity: expected a whole number of 2 or more, got {given!r}")
    name = type(decoder).__name__
    if limit is not None and not _rereads(decoder) and given > limit:
        raise UsageError(
            f"capacity: expected at most {limit}, beyond which {name} turns all tokens by other "
            f"angles, those that are held too, and keeps its cache; got {given}"
        )
    if longest is not None and given > longest and not _ropes(decoder):
        raise UsageError(
            f"capacity: expected at most {longest}, as many positions as {name} has learned, got "
            f"{given}"
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
        (f"{_PAST}.{index}.{name}", f"{_PRESENT}.{index}.{name}")
        for index in range(layers)
        for name in _HALVES
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


def states_of(decoder: Any) -> list[tuple[Shape, ...]]:
    """Return heads and width of each layer's key and value, as a call of the model makes them.

    Raises
    ------
    UsageError
        For a model that keeps anything else from call to call, by its name.
    """
    name, config = type(decoder).__name__, getattr(decoder, "config", None)
    if not hasattr(decoder, "get_output_embeddings") or config is None:
        raise UsageError(f"cache: expected a decoder of transformers, got a {name}")
    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(
            f"{name}: expected a decoder alone, got an encoder with a decoder, whose cache is "
            "another one"
        )
    cache = DynamicCache(config=config)
    others = sorted({type(x).__name__ for x in cache.layers if type(x) not in _KEPT})
    if others:
        raise UsageError(
            f"{name}: expected layers that keep keys and values alone, got {', '.join(others)}: "
            "state-space models, hybrids and other kinds of state have no place in this interface"
        )
    if getattr(config, "alibi", False):
        raise UsageError(f"{name}: expected rotations or learned positions, got ALiBi (alibi=True)")
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        raise UsageError(
            f"{name}: expected a forward that takes position_ids, which padding needs; export it "
            "without cache"
        )
    kinds = _probed(decoder, cache)
    if not kinds or any(map(_looks_ahead, kinds)):
        how = "that sees what comes later" if kinds else "with masks of its own"
        raise UsageError(
            f"{name}: expected attention that is causal by transformers' masks, got one {how}: "
            "export it without cache (of an encoder, is_decoder=True in its config makes it one)"
        )
    layers = [layer for layer in cache.layers if layer.is_initialized]
    if not layers or layers != cache.layers[: len(layers)]:
        raise UsageError(f"{name}: expected a cache whose first layers are filled, got others")
    return [tuple((x.shape[1], x.shape[3]) for x in (y.keys, y.values)) for y in layers]


def _probed(decoder: Any, cache: DynamicCache) -> list[Callable[..., Tensor]]:
    """Fill a cache with two tokens; return the kinds of attention that were asked for."""
    weight = next(decoder.parameters())
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=weight.device)
    slots = _Slots.of(torch.ones_like(tokens), 2, 2)
    positions = torch.arange(2, device=weight.device)[None]
    mode = weight.fake_mode if is_fake(weight) else nullcontext()
    with _undisturbed(decoder), _attention_by_position(decoder, slots), mode:
        try:
            made = decoder(
                input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True
            )
        except Exception as error:  # of the model's own code
            raise UsageError(
                f"{type(decoder).__name__}: expected a decoder of transformers that takes tokens "
                f"and a cache: {type(error).__name__}: {first_line(error)}"
            ) from error
    if getattr(made, "logits", None) is None:
        raise UsageError(
            f"{type(decoder).__name__}: expected a model with logits, as AutoModelForCausalLM "
            "makes it, got none"
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
    computed = (traceable_ropes(decoder), traceable_experts(decoder))
    with torch.no_grad(), unchanged(decoder), evaluated(decoder), computed[0], computed[1]:
        yield


def _check_alone(decoder: Any, wrapper: CachedDecoder, shapes: Sequence[Sequence[Shape]]) -> None:
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
                        "export it without cache"
                    )


def _in_pieces(
    wrapper: CachedDecoder, shapes: Sequence[Sequence[Shape]], tokens: Tensor, mask: Tensor
) -> Tensor:
    """Return the logits of texts that are read piece by piece."""
    slots = _PROVEN + 1 if wrapper.form == "fixed" else 0
    weight = next(wrapper.parameters())
    states = [
        {name: weight.new_zeros(2, heads, slots, width)
         for name, (heads, width) in zip(_HALVES, pair, strict=True)}
        for pair in shapes
    ]  # fmt: skip
    positions, logits = (mask.cumsum(1) - 1).clamp(min=0), []
    for start, end in pairwise(accumulate(_PIECES, initial=0)):
        piece = slice(start, end)
        made = wrapper(tokens[:, piece], mask[:, :end], positions[:, piece], states)
        states = made[_PRESENT]
        logits.append(made["logits"])
    return torch.cat(logits, 1)
