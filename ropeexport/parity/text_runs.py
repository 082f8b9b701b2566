"""A runtime that reads whole texts call by call, its cache kept as it likes; and what it says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ropeexport.errors import ParityError
from ropeexport.manifest import Manifest
from ropeexport.parity.cases import Case
from ropeexport.parity.records import TokensRecord
from ropeexport.parity.references import Truth
from ropeexport.parity.text_inputs import next_tokens
from ropeexport.parity.texts import is_generated
from ropeexport.parity.tolerance import Bound
from ropeexport.runners.kept_cache import KeptCache
from ropeexport.runners.runner import Array, Arrays, Facts, Runner

_CACHE_RANK = 4
_FORCED = 100  # one token of so many may be a tie


class TextRunner(Runner):
    """Reads texts with a runner of single calls.

    It returns the logits of all calls after each other, and the cache at the end of the last, as
    far as tokens are in it; zeros where a slot is of padding.

    Parameters
    ----------
    runner : Runner
        Entered.
    manifest : Manifest
        Of the export.
    """

    def __init__(self, runner: Runner, manifest: Manifest) -> None:
        assert manifest.cache is not None
        self._runner, self._cache = runner, manifest.cache
        names = {past for past, _ in manifest.cache.pairs}
        self._pasts = [spec for spec in manifest.model.inputs if spec.name in names]
        self._wanted = {spec.name for spec in manifest.model.outputs} - {
            present for _, present in manifest.cache.pairs
        }

    @property
    def facts(self) -> Facts:  # type: ignore[override]
        """What computes."""
        return self._runner.facts

    def call(self, loaded: Arrays) -> Mapping[str, Array]:
        """Make the calls of a text."""
        ids, mask = loaded["input_ids"], np.asarray(loaded["attention_mask"])
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        pieces: dict[str, list[Array]] = {name: [] for name in self._wanted}
        kept, stop = self._empty(len(ids)), 0
        for start, stop in np.asarray(loaded["calls"]).tolist():
            kept = self._empty(len(ids)) if start == 0 else kept
            told = {
                "input_ids": ids[:, start:stop],
                "attention_mask": mask[:, :stop],
                "position_ids": positions[:, start:stop],
            }
            results = self._step(kept, {n: np.ascontiguousarray(x) for n, x in told.items()})
            real = mask[:, start:stop, None] != 0
            for name, piece in pieces.items():
                piece.append(_without_padding(results[name], real, axis=1))
        try:
            outputs = {name: np.concatenate(piece, axis=1) for name, piece in pieces.items()}
        except ValueError as error:  # shapes that differ in more than their length
            raise ParityError(
                f"outputs of several calls do not fit together: {error}", code="RX707"
            ) from error
        real = mask[:, None, :stop, None] != 0
        held = {name: self._used(x, stop) for name, x in kept.presents().items()}
        return outputs | {name: _without_padding(x, real, axis=2) for name, x in held.items()}

    def _empty(self, rows: int) -> KeptCache:
        return self._runner.kept_cache(self._cache, self._pasts, rows)

    def _step(self, kept: KeptCache, inputs: Arrays) -> dict[str, Array]:
        try:
            results = kept.step(inputs)
        except KeyError as error:  # a present that the cache is to be made of
            raise ParityError(f"missing output {error}", code="RX707") from error
        if missing := sorted(self._wanted - results.keys()):
            raise ParityError(f"missing output {missing[0]!r}", code="RX707")
        return results

    def _used(self, x: Array, tokens: int) -> Array:
        """Return the slots that hold tokens, and those behind them that are not as they were."""
        if self._cache.form == "grow" or x.ndim != _CACHE_RANK:
            return x
        written = np.flatnonzero(x.any(axis=(0, 1, 3)))
        return x[:, :, : max(tokens, written[-1] + 1 if written.size else 0)]


def _without_padding(x: Array, real: Array, axis: int) -> Array:
    """Return an output with zeros at padding, whatever a runtime has computed there.

    One of another shape is left as it is, which a comparison says.
    """
    if x.ndim != real.ndim or (x.shape[0], x.shape[axis]) != (real.shape[0], real.shape[axis]):
        return x
    return np.where(real, x, np.zeros((), x.dtype))


def count_tokens(
    case: Case, output: str, inputs: Arrays, truth: Truth, got: Array, bound: Bound
) -> TokensRecord | None:
    """Count the tokens of a generated text that an output's logits would choose otherwise.

    Where the two logits are nearer each other than the bound, either choice is right, and the text
    goes on from the one that it has; of a hundred tokens one may be such, and of fewer one too.
    """
    if output != "logits" or not is_generated(case.kind):
        return None
    compared, forced, wrong = 0, 0, []
    for row, place, step, token in next_tokens(case, inputs):
        compared += 1
        chosen = int(got[row, place].argmax())
        exact = truth.outputs[output][row, place]
        if chosen == token:
            continue
        if abs(exact[token] - exact[chosen]) <= bound.max_abs:
            forced += 1
        else:
            wrong.append(f"row {row}, step {step}: expected token {token}, got {chosen}")
    most = max(1, compared // _FORCED)
    fault = f"not the text of generate(): {wrong[0]}" if wrong else ""
    if not wrong and forced > most:
        fault = f"{forced} of {compared} tokens are ties within the bound, expected {most} at most"
    if compared == 0:
        return None
    return TokensRecord(compared=compared, forced=forced, differing=len(wrong), fault=fault)
