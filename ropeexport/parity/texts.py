"""The cases of a decoder with a cache: texts, and the calls in which each is read.

A text is a batch of prompts, padded on a side or not at all, with single tokens behind them.  It
is read as a user's loop reads it: the prompt in one call or in several, then a call for each
token.  Of a generated text the single tokens are what ``generate()`` of transformers says.

The calls are rows of an input of the case, ``calls``: the first slot of a call and the one behind
its last.  One that begins at slot 0 begins with an empty cache, so a model whose rotations change
at some length (longrope) reads its text again there, as ``generate()`` has it do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ropeexport.axes import shape_at, sum_of
from ropeexport.errors import ParityError, UsageError
from ropeexport.manifest import Axis, CacheRecord, Manifest, Profile, TensorSpec
from ropeexport.parity.cases import (
    BUDGET,
    CASE_BUDGET,
    Case,
    Kind,
    Selection,
    Sizes,
    case_of,
    name_of,
    space_of,
)

TOKENS = 32  # of each generated text, where nobody says
_MOST_ROWS = 3
_PROMPT = 9
_STEPS = 8
_CHUNKS = 3
_KINDS: tuple[Kind, ...] = (
    "text",
    "left-padded text",
    "right-padded text",
    "generated text",
    "generated left-padded text",
    "generated right-padded text",
)


@dataclass(frozen=True)
class Room:
    """What the texts of a manifest have room in.

    Parameters
    ----------
    batch : Axis
        How many rows.
    most : int
        Slots of a text.
    most_in_a_call : int
        New tokens.
    cache : CacheRecord
        Where rotations change, and what a window sees.
    """

    batch: Axis
    most: int
    most_in_a_call: int
    cache: CacheRecord

    @classmethod
    def of(cls, manifest: Manifest) -> Room:
        """Return the room of an export, or of its engine's profile."""
        assert manifest.cache is not None
        axes = space_of(manifest).axes
        length, past = axes["length"], axes["past"]
        if length.min > 1 or past.min > 0:
            raise ParityError(
                "expected a profile that takes an empty cache and a single new token, got at "
                f"least {past.min} held and {length.min} new; build with lengths from 1 and a "
                "past from 0",
                code="RX705",
            )
        most = min(manifest.cache.capacity, past.max + 1)
        return cls(axes["batch"], most, length.max, manifest.cache)

    def fitted(
        self, kind: Kind, rows: int, prompt: int, tokens: int, chunks: int = 1
    ) -> Sizes | None:
        """Return the sizes of a text as far as there is room; None where it has no way of reading.

        A text ends where rotations change, unless all of it lies beyond or it is one row that is
        generated: rows of other lengths would change at other calls.
        """
        tokens = min(tokens, self.most)
        prompt, limit = min(prompt, tokens), self.cache.reread_at
        if limit is not None and prompt <= limit < tokens and not (is_generated(kind) and rows < 2):
            tokens = limit
        chunks = max(min(chunks, prompt), math.ceil(prompt / self.most_in_a_call))
        if limit is not None and tokens > limit:
            chunks = 1  # the first call has to be beyond, or all of what is read again in one
            if max(prompt, limit + 1 if prompt <= limit else 0) > self.most_in_a_call:
                return None
        calls = chunks + tokens - prompt
        return {"batch": rows, "tokens": tokens, "prompt": prompt, "calls": calls}


def is_generated(kind: Kind) -> bool:
    """Whether the single tokens of a text are those of ``generate()``."""
    return kind.startswith("generated")


def as_texts(manifest: Manifest) -> Manifest:
    """Return the manifest of a function of whole texts: their tokens, mask and calls.

    Its outputs are the file's, of all calls together.
    """
    room = Room.of(manifest)
    model, whole = manifest.model, sum_of("past + length")
    ids = next(spec for spec in model.inputs if spec.name == "input_ids")
    presents = {present for _, present in room.cache.pairs}

    def of_text(spec: TensorSpec) -> TensorSpec:
        if spec.name in presents:
            rows, heads, _, width = spec.shape
            return spec.changed(shape=(rows, heads, "tokens", width))
        return spec.changed(
            shape=tuple("tokens" if sum_of(d).names and set(sum_of(d).names) <= set(whole.names)
                        else d for d in spec.shape)
        )  # fmt: skip

    inputs = (
        of_text(ids),
        TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "tokens"), role="mask"),
        TensorSpec(name="calls", dtype="int64", shape=("calls", 2), role="numbers"),
    )
    axis = Axis(min=1, opt=room.most, max=room.most)
    axes = {"batch": room.batch, "tokens": axis, "calls": axis}
    engine = manifest.engine
    if engine is not None:
        points = {
            point: {s.name: shape_at(s, {n: getattr(a, point) for n, a in axes.items()})
                    for s in inputs}
            for point in ("min", "opt", "max")
        }  # fmt: skip
        engine = engine.changed(profile=Profile(**points))
    outputs = tuple(of_text(spec) for spec in model.outputs)
    return manifest.changed(
        model=model.changed(inputs=inputs, outputs=outputs, max_position=None),
        axes=axes,
        engine=engine,
        relations={},
    )


def select_texts(
    manifest: Manifest,
    parameters: int,
    *,
    seed: int = 0,
    count: int | None = None,
    lengths: Sequence[int] = (),
    tokens: int | None = None,
) -> Selection:
    """Choose the texts of a run.

    Parameters
    ----------
    manifest : Manifest
        Of the export.
    parameters : int
        How many numbers the model has, each a multiply-add for a token.
    seed, count : int
        As for :func:`ropeexport.parity.cases.select`.
    lengths : sequence of int
        Numbers of slots in place of the designed ones, whatever they cost.
    tokens : int, optional
        Of each generated text.
    """
    room, said = Room.of(manifest), TOKENS if tokens is None else tokens
    if tokens is not None and not 1 <= tokens < room.most:
        raise UsageError(f"--tokens: expected 1 to {room.most - 1}, got {tokens}", code="RX602")
    if lengths:
        chosen = _unique(_at_lengths(room, lengths))
        turns = (divmod(number, len(chosen)) for number in range(count or len(chosen)))
        again = (case_of(seed, *chosen[n], f" #{turn}" if turn else "") for turn, n in turns)
        return Selection(tuple(again))
    taken, left_out, spent = [], [], 0.0
    for kind, sizes in _unique(_designed(room, said)):
        work = float(parameters) * sizes["batch"] * sizes["tokens"]
        if work > CASE_BUDGET or spent + work > BUDGET:
            left_out.append(name_of(kind, sizes))
            continue
        spent += work
        taken.append((kind, sizes))
    cases = [case_of(seed, *one) for one in taken[:count]]
    if count is not None:
        cases += _random(room, parameters, seed, count - len(cases))
    return Selection(tuple(cases), tuple(left_out))


_Choice = tuple[Kind, Sizes]


def _unique(choices: Iterable[tuple[Kind, Sizes | None]]) -> list[_Choice]:
    return list({name_of(k, sizes): (k, sizes) for k, sizes in choices if sizes}.values())


def _designed(room: Room, said: int) -> Iterator[tuple[Kind, Sizes | None]]:
    """Yield what tells most for its cost first."""
    low, high = room.batch.min, max(room.batch.min, min(room.batch.max, _MOST_ROWS))
    plain, left, right, generated, generated_left, generated_right = _KINDS
    window, limit = room.cache.window, room.cache.reread_at
    designed: list[tuple[Kind, int, int, int, int]] = [
        (generated, low, _PROMPT, _PROMPT + said, 1),
        (generated_left, high, _PROMPT, _PROMPT + said, 1),
        (generated_right, high, _PROMPT, _PROMPT + said, 1),
        (plain, low, 1, 1, 1),
        (plain, high, 1, 2, 1),
        (left, high, 17, 41, _CHUNKS),
        (right, high, 17, 41, _CHUNKS),
    ]
    if window is not None:  # a prompt beyond it, and steps over its edge
        designed += [
            (left, high, window + 3, window + 3 + _STEPS, _CHUNKS),
            (plain, low, max(1, window - 3), window + _STEPS, 1),
        ]
    if limit is not None:  # up to it, beyond it, and over it
        designed += [
            (plain, low, max(1, limit - _STEPS), limit, 1),
            (left, high, limit + _STEPS, limit + 2 * _STEPS, 1),
            (generated_left, high, limit + _PROMPT, limit + _PROMPT + said, 1),
            (generated, low, max(1, limit - said // 2), limit + said // 2, 1),
        ]
    designed += [
        (right, high, 120, 133, _CHUNKS),
        (plain, low, max(1, room.most - _STEPS), room.most, 1),
    ]
    for kind, *sizes in designed:
        yield kind, room.fitted(kind, *sizes)


def _at_lengths(room: Room, lengths: Sequence[int]) -> Iterator[tuple[Kind, Sizes | None]]:
    low, high = room.batch.min, room.batch.max
    limit = room.cache.reread_at
    for length in lengths:
        if not 1 <= length <= room.most:
            raise UsageError(
                f"--lengths: expected 1 to {room.most} tokens, got {length}", code="RX602"
            )
        prompt = max(1, length - _STEPS)
        if limit is not None and prompt <= limit < length:
            prompt = length
        for kind, rows in zip(_KINDS[:3], (low, high, high), strict=True):
            yield kind, room.fitted(kind, rows, prompt, length, _CHUNKS)


def probes_of_texts(manifest: Manifest) -> list[Case]:
    """Return texts of little cost, the first two of which differ in their tokens alone."""
    room = Room.of(manifest)
    rows = room.batch.min
    sizes = [room.fitted("text", rows, *each) for each in ((5, 7), (5, 7), (2, 11))]
    return [case_of(n, "text", one) for n, one in enumerate(sizes) if one is not None]


def _random(room: Room, parameters: int, seed: int, count: int) -> Iterator[Case]:
    """Yield texts of random sizes, small ones as often as large ones, each within its share."""
    rng = np.random.default_rng(seed)
    share = BUDGET / max(1, count) / max(1, parameters)
    for number in range(count):
        kind, sizes = _KINDS[number % len(_KINDS)], None
        while sizes is None:
            rows = int(rng.integers(room.batch.min, room.batch.max + 1))
            most = max(1, min(room.most, int(share / rows)))
            tokens = int(np.exp(rng.uniform(0, np.log(most))))
            prompt, chunks = int(rng.integers(1, tokens + 1)), int(rng.integers(1, _CHUNKS + 1))
            sizes = room.fitted(kind, rows, prompt, tokens, chunks)
        yield case_of(seed, kind, sizes, f" #{number}")
