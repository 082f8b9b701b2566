"""Text that an exported decoder writes, token for token, its cache kept where the runtime wants it.

Inside, texts lie beside each other with their last tokens in one column, whatever padding they came
with: a model sees of a row what the mask says, and turns it by the row's own positions, so each is
continued as it would be alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from ropeexport.axes import shape_at
from ropeexport.errors import UsageError
from ropeexport.inference.inputs import checked_sizes
from ropeexport.inference.prompts import Tokens, array_of_lists, prompts_from
from ropeexport.inference.sampling import Sampling
from ropeexport.manifest import CacheRecord
from ropeexport.plain import shown
from ropeexport.runners.runner import Array, Arrays

if TYPE_CHECKING:
    from ropeexport.inference.loaded import LoadedModel

Step = Callable[[Arrays], Mapping[str, Array]]


@dataclass(frozen=True)
class Options:
    """How texts are continued, see :meth:`ropeexport.inference.loaded.LoadedModel.generate`."""

    max_new_tokens: int
    eos_token_id: int | Sequence[int] | None = None
    attention_mask: Any = None
    pad_token_id: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise UsageError(
                    f"{name}: expected a whole number, {least} or more, got {value!r}", code="RX613"
                )
        if not isinstance(self.pad_token_id, Integral | None):
            raise UsageError(
                f"pad_token_id: expected a token, got {self.pad_token_id!r}", code="RX613"
            )
        drawn = Sampling(self.temperature, self.top_k, self.top_p)
        if not self.do_sample and drawn != Sampling():
            raise UsageError(
                "temperature, top_k, top_p: only of drawn texts: add do_sample=True", code="RX613"
            )

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Return options by name; others are refused."""
        known = [field.name for field in fields(cls)]
        unknown = next((name for name in given if name not in known), None)
        if unknown is not None:
            raise UsageError(
                f"{unknown}: expected one of {', '.join(known)}: what else transformers' generate "
                "takes, as_module(like=...).generate does",
                code="RX613",
            )
        return cls(**given)


def cache_of(model: LoadedModel) -> CacheRecord:
    """Return what a model keeps between calls; raise where that is nothing."""
    cache = model.artifact.manifest.cache
    if cache is None:
        raise UsageError(
            f"{model.artifact.folder}: expected an export that keeps a cache, got one that does "
            "not: export the decoder with cache='grow' or 'fixed' (--cache)",
            code="RX611",
        )
    return cache


class Decoding:
    """One continuation of a batch of texts, checked as a whole before anything runs.

    Parameters
    ----------
    model : LoadedModel
        With a cache.
    input_ids : array, tensor, or lists
        The texts.
    options : Options
        See there.
    """

    def __init__(self, model: LoadedModel, input_ids: Any, options: Options) -> None:
        self._model, self._cache = model, cache_of(model)
        if self._cache.asked:
            told = (
                f"{model.artifact.folder}: the model's own settings ask for "
                f"{', '.join(self._cache.asked)}, which this leaves out: "
                "as_module(like=...).generate has them"
            )
            warnings.warn(shown(told), stacklevel=4)
        self._new = int(options.max_new_tokens)
        self._sampling = Sampling(options.temperature, options.top_k, options.top_p)
        self._generator = np.random.default_rng(options.seed) if options.do_sample else None
        self._eos = _ends(options.eos_token_id, self._cache)
        own = options.pad_token_id if options.pad_token_id is not None else self._cache.pad
        self._pad = own if own is not None else int(self._eos[0]) if self._eos.size else 0
        self.prompts = prompts_from(
            input_ids,
            options.attention_mask,
            self._pad,
            infers=own is not None and own not in self._eos,
            vocabulary=_vocabulary(model),
        )
        self._groups = self._grouped()
        self._check()

    def __iter__(self) -> Iterator[Tokens]:
        """Run, and give each step's tokens, ``(batch,)``."""
        batch = len(self.prompts.rows)
        groups = [(rows, self._texts(rows)) for rows in self._groups]
        ended = np.zeros(batch, np.bool_)
        tokens = None
        for _ in range(self._new):
            tokens = self._chosen(_logits(groups, tokens, batch))
            yield np.where(ended, self._pad, tokens)  # a pad may be no token that the model knows
            if self._eos.size:
                ended |= (tokens[:, None] == self._eos).any(-1)
                if ended.all():
                    return

    def _chosen(self, logits: Array) -> Tokens:
        if self._generator is None:
            likeliest: Tokens = logits.argmax(-1)
            return likeliest
        return self._sampling.drawn(logits.astype(np.float32, copy=False), self._generator)

    def _texts(self, rows: list[int]) -> _Texts:
        prompts = [self.prompts.rows[row] for row in rows]
        step = self._model.steps
        return _Texts(prompts, self._new, lambda: step(len(rows)), self._cache.reread_at)

    def _grouped(self) -> list[list[int]]:
        """Return the rows that are read together.

        Where rotations change with a text's length (longrope), those of a batch change at once: so
        texts of several lengths, some of which get there, are read apart.
        """
        lengths = [row.size for row in self.prompts.rows]
        limit = self._cache.reread_at
        if limit is None or min(lengths) > limit or max(lengths) + self._new - 1 <= limit:
            return [list(range(len(lengths)))]
        return [
            [row for row, each in enumerate(lengths) if each == length]
            for length in sorted(set(lengths))
        ]

    def _check(self) -> None:
        """Hold all calls that there will be to what the export is for."""
        for rows in self._groups:
            longest = max(self.prompts.rows[row].size for row in rows)
            if longest >= self._cache.capacity:
                raise UsageError(
                    f"input_ids: expected at most {self._cache.capacity - 1} tokens of the "
                    f"{self._cache.capacity} that the cache has room for, got {longest}: export "
                    "again with a larger capacity (--capacity)",
                    code="RX610",
                )
            if longest + self._new > self._cache.capacity:
                raise UsageError(
                    f"max_new_tokens: expected {longest} tokens and the new ones to fit into the "
                    f"cache's capacity of {self._cache.capacity}, got {self._new}: ask for fewer, "
                    "or export again with a larger capacity (--capacity)",
                    code="RX610",
                )
            for past, length in self._calls(longest):
                self._check_call(len(rows), past, length)

    def _calls(self, prompt: int) -> Iterator[tuple[int, int]]:
        """Give past and length of the calls that are furthest from each other."""
        last, limit = prompt + self._new - 1, self._cache.reread_at
        yield 0, prompt
        if last > prompt:
            yield prompt, 1
            yield last - 1, 1
        if limit is not None and prompt <= limit < last:
            yield 0, limit + 1

    def _check_call(self, batch: int, past: int, length: int) -> None:
        sizes = {"batch": batch, "past": past, "length": length}
        given = {"input_ids": (batch, length), "position_ids": (batch, length),
                 "attention_mask": (batch, past + length)}  # fmt: skip
        specs = self._model.inputs
        shapes = {spec.name: given.get(spec.name) or shape_at(spec, sizes) for spec in specs}
        checked_sizes(specs, self._model.axes, shapes, self._cache)


class _Texts:
    """Texts as the model has read them, padded on the left, and what it says comes next."""

    def __init__(
        self,
        prompts: Sequence[Tokens],
        new: int,
        begun: Callable[[], Step],
        reread_at: int | None,
    ) -> None:
        self._begun, self._reread_at = begun, reread_at
        self._length = max(row.size for row in prompts)
        shape = len(prompts), self._length + new
        self._tokens, self._mask = np.zeros(shape, np.int64), np.ones(shape, np.int64)
        for row, prompt in enumerate(prompts):
            start = self._length - prompt.size
            self._tokens[row, start : self._length] = prompt
            self._mask[row, :start] = 0
        self._positions = np.maximum(self._mask.cumsum(-1) - 1, 0)
        self._step: Step | None = None

    def logits(self, tokens: Tokens | None) -> Array:
        """Return ``(batch, vocabulary)`` logits after further tokens; at first there are none."""
        start = self._length
        if tokens is not None:
            self._tokens[:, start] = tokens
            self._length += 1
            if start == self._reread_at:  # all that is held is turned by other angles from here on
                self._step = None
        if self._step is None:
            self._step, start = self._begun(), 0
        new = slice(start, self._length)
        inputs = {
            "input_ids": np.ascontiguousarray(self._tokens[:, new]),
            "attention_mask": np.ascontiguousarray(self._mask[:, : self._length]),
            "position_ids": np.ascontiguousarray(self._positions[:, new]),
        }
        return self._step(inputs)["logits"][:, -1]


def _logits(groups: Sequence[tuple[list[int], _Texts]], tokens: Tokens | None, batch: int) -> Array:
    """Return the logits of all texts in their order."""
    if len(groups) == 1:
        return groups[0][1].logits(tokens)
    parts = [texts.logits(None if tokens is None else tokens[rows]) for rows, texts in groups]
    logits = np.empty((batch, parts[0].shape[-1]), parts[0].dtype)
    for (rows, _), part in zip(groups, parts, strict=True):
        logits[rows] = part
    return logits


def _ends(given: int | Sequence[int] | None, cache: CacheRecord) -> Tokens:
    """Return the tokens that end a text."""
    ends = np.atleast_1d(array_of_lists(cache.eos if given is None else given))
    if ends.ndim != 1 or (ends.size and ends.dtype.kind not in "iu"):
        raise UsageError(
            f"eos_token_id: expected a token, several or (), got {given!r}", code="RX613"
        )
    return ends.astype(np.int64)


def _vocabulary(model: LoadedModel) -> int | None:
    sizes = (spec.shape[-1] for spec in model.outputs if spec.name == "logits")
    return next((size for size in sizes if isinstance(size, int)), None)


def generated(model: LoadedModel, input_ids: Any, options: Options) -> Any:
    """Return texts with what they are continued by."""
    decoding = Decoding(model, input_ids, options)
    tokens = np.stack(list(decoding), axis=-1)
    return decoding.prompts.like_given(np.concatenate([decoding.prompts.tokens, tokens], -1))


def streamed(model: LoadedModel, input_ids: Any, options: Options) -> Iterator[Any]:
    """Return an iterator over the tokens of each step; nothing runs before the first."""
    decoding = Decoding(model, input_ids, options)
    return (decoding.prompts.like_given(tokens) for tokens in decoding)
