"""The arrays of a text, made from its case on demand: tokens, mask and calls; NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ropeexport.manifest import CacheRecord, TensorSpec
from ropeexport.parity.cases import Case
from ropeexport.parity.texts import is_generated
from ropeexport.runners.runner import Arrays

Ints = NDArray[np.int64]
# Puts tokens behind prompts, given their mask and how many
Continue = Callable[[Ints, Ints, int], Ints]


def text_of(case: Case, ids: TensorSpec, cache: CacheRecord, further: Continue) -> Arrays:
    """Return the tokens, the mask and the calls of a case.

    Parameters
    ----------
    case : Case
        Of :func:`select_texts`.
    ids : TensorSpec
        Of the tokens: how many there are to choose from.
    cache : CacheRecord
        Where rotations change.
    further : callable
        Says the tokens behind a prompt; asked for generated texts alone.
    """
    rng = np.random.default_rng(case.seed)
    rows, tokens, prompt, calls = (case.sizes[n] for n in ("batch", "tokens", "prompt", "calls"))
    steps = tokens - prompt
    real = _prompts(case, cache.reread_at, rng)
    mask = np.concatenate([real, np.ones((rows, steps), np.int64)], axis=1)
    words = rng.integers(0, int(ids.below or 2), (rows, tokens))
    if is_generated(case.kind) and steps:
        words[:, prompt:] = _generated(case, words[:, :prompt], real, further)
    edges = np.rint(np.linspace(0, prompt, calls - steps + 1)).astype(np.int64)
    edges = np.concatenate([edges, np.arange(prompt + 1, tokens + 1)])
    starts = edges[:-1].copy()
    if cache.reread_at is not None and prompt <= cache.reread_at:
        starts[edges[1:] == cache.reread_at + 1] = 0
    return {
        "input_ids": words.astype(ids.dtype),
        "attention_mask": mask,
        "calls": np.stack([starts, edges[1:]], axis=1),
    }


def _prompts(case: Case, limit: int | None, rng: np.random.Generator) -> Ints:
    """Return which slots of the prompts hold a token: the last row all of them, unless alone."""
    rows, prompt, tokens = (case.sizes[name] for name in ("batch", "prompt", "tokens"))
    is_beyond = limit is not None and tokens > limit
    least = min(prompt, (limit or 0) + 1 if is_beyond else 1)
    pads = rng.integers(min(1, prompt - least), prompt - least + 1, (rows, 1))
    if rows > 1:
        pads[-1] = 0
    slots = np.arange(prompt)
    if "padded" not in case.kind:
        return np.ones((rows, prompt), np.int64)
    real = slots >= pads if "left" in case.kind else slots < prompt - pads
    return real.astype(np.int64)


def _generated(case: Case, words: Ints, real: Ints, further: Continue) -> Ints:
    """Return what is said behind prompts: left-padded ones together, others each alone."""
    steps = case.sizes["tokens"] - case.sizes["prompt"]
    if "left" in case.kind:
        return further(words, real, steps)
    alone = [
        further(row[None, seen], np.ones((1, int(seen.sum())), np.int64), steps)
        for row, seen in zip(words, real != 0, strict=True)
    ]
    return np.concatenate(alone)


def next_tokens(case: Case, inputs: Arrays) -> Iterator[tuple[int, int, int, int]]:
    """Yield row, place among the slots of all calls, step and token of each that was generated.

    The place is that of the logits that choose the token: of a row's last token in a call.
    """
    ids, mask, place = inputs["input_ids"], inputs["attention_mask"], 0
    prompt, tokens = case.sizes["prompt"], case.sizes["tokens"]
    for start, stop in np.asarray(inputs["calls"]).tolist():
        if prompt <= stop < tokens:
            for row, seen in enumerate(mask[:, start:stop]):
                last = int(np.flatnonzero(seen)[-1])
                yield row, place + last, stop - prompt, int(ids[row, stop])
        place += stop - start
