"""How the next token is chosen of a model's logits.

Source: transformers 5, ``generation/logits_process.py`` (``TemperatureLogitsWarper``,
``TopKLogitsWarper``, ``TopPLogitsWarper``), in the order in which its ``generate`` has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import UsageError

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """What tokens are drawn from, by transformers' names.

    Parameters
    ----------
    temperature : float
        Logits are divided by it.
    top_k : int, optional
        How many tokens are kept, the likeliest; None or 0: all.
    top_p : float
        The likeliest tokens are kept whose probabilities make that much.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (_is_number(self.temperature) and 0 < self.temperature < math.inf):
            raise UsageError(
                f"temperature: expected more than 0, got {self.temperature!r}: for the likeliest "
                "token leave out do_sample",
                code="RX613",
            )
        if self.top_k is not None and (not isinstance(self.top_k, Integral) or self.top_k < 0):
            raise UsageError(
                f"top_k: expected a whole number, 0 or more, got {self.top_k!r}", code="RX613"
            )
        if not (_is_number(self.top_p) and 0 <= self.top_p <= 1):
            raise UsageError(f"top_p: expected 0 to 1, got {self.top_p!r}", code="RX613")

    def scores(self, logits: Scores) -> Scores:
        """Return the scores of tokens, minus infinity for those that are never drawn."""
        scores = logits / np.float32(self.temperature)
        if self.top_k and self.top_k < scores.shape[-1]:
            least = np.partition(scores, -self.top_k, axis=-1)[..., [-self.top_k]]
            scores = np.where(scores < least, -np.inf, scores)
        if self.top_p < 1:
            order = np.argsort(-scores, axis=-1, kind="stable")[..., ::-1]  # of equals the first
            sums = np.cumsum(_softmax(np.take_along_axis(scores, order, -1)), axis=-1)
            unlikely = sums <= np.float32(1 - self.top_p)
            unlikely[..., -1] = False
            is_out = np.empty_like(unlikely)
            np.put_along_axis(is_out, order, unlikely, -1)
            scores = np.where(is_out, -np.inf, scores)
        return scores.astype(np.float32, copy=False)

    def drawn(self, logits: Scores, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return a token for each row; each takes one number of the generator, in their order."""
        sums = np.cumsum(_softmax(self.scores(logits)), axis=-1, dtype=np.float64)
        points = generator.random((len(sums), 1)) * sums[:, -1:]
        tokens: NDArray[np.int64] = np.argmax(sums > points, axis=-1)
        return tokens


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def _softmax(scores: Scores) -> Scores:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Scores = powers / powers.sum(axis=-1, keepdims=True)
    return result
