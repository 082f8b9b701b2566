"""The texts that a caller has continued: arrays, tensors or lists, with padding or without."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import UsageError
from ropeexport.inference.inputs import taken

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Prompts:
    """A batch of texts.

    Parameters
    ----------
    tokens : ndarray
        ``(batch, length)``, as they were given; lists of several lengths are padded on the left.
    rows : tuple of ndarray
        The tokens of each text that are none of padding.
    like_given : callable
        Gives an array back as the texts were given: as a tensor on their device, or as it is.
    """

    tokens: Tokens
    rows: tuple[Tokens, ...]
    like_given: Callable[[Tokens], Any]


def prompts_from(
    given: Any, mask: Any, pad: int, *, infers: bool, vocabulary: int | None
) -> Prompts:
    """Return what a caller gives as texts.

    Parameters
    ----------
    given : array, tensor, or lists
        ``(batch, length)`` tokens; lists may have several lengths.
    mask : array or tensor, optional
        Of that shape: 0 for padding.
    pad : int
        The token of padding.
    infers : bool
        Whether that token is padding in an array without a mask.
    vocabulary : int, optional
        How many tokens there are, where that is known.

    Raises
    ------
    UsageError
        For anything else, and for a text without a token.
    """
    tokens, real = _padded(given, pad)
    if mask is not None:
        real = _mask_of(mask, tokens.shape)
    elif infers and not isinstance(given, list | tuple):  # of lists their lengths say it
        real = tokens != pad
    if not real.size:
        raise UsageError("input_ids: expected a token in each text, got none", code="RX614")
    empty = np.flatnonzero(~real.any(-1))
    if empty.size:
        raise UsageError(
            f"input_ids: expected a token in each text, got padding alone in text {empty[0]}: "
            "begin it with the model's bos token",
            code="RX614",
        )
    said = tokens[real]
    if said.min() < 0 or (vocabulary and said.max() >= vocabulary):
        wrong = said.min() if said.min() < 0 else said.max()
        last = "" if vocabulary is None else f" to {vocabulary - 1}"
        raise UsageError(f"input_ids: expected tokens from 0{last}, got {wrong}", code="RX614")
    rows = tuple(row[kept] for row, kept in zip(tokens, real, strict=True))
    return Prompts(tokens, rows, _like(given))


def _padded(given: Any, pad: int) -> tuple[Tokens, NDArray[np.bool_]]:
    """Return tokens as one array, and which of them are none of padding."""
    if not isinstance(given, list | tuple):
        tokens = _array(given, "input_ids")
        return tokens, np.ones(tokens.shape, np.bool_)
    rows = [_array(row, "input_ids", rank=1) for row in given]
    longest = max((row.size for row in rows), default=0)
    real = np.arange(longest) >= np.array([[longest - row.size] for row in rows])
    tokens = np.full(real.shape, pad, np.int64)
    tokens[real] = [token for row in rows for token in row]
    return tokens, real


def _array(given: Any, name: str, rank: int = 2) -> Tokens:
    """Return whole numbers in the CPU's memory."""
    if isinstance(given, Mapping):  # a tokenizer's result
        raise UsageError(
            f"{name}: expected tokens, got a {type(given).__name__}: give its input_ids",
            code="RX614",
        )
    array: Any = taken(given, name) if hasattr(given, "__dlpack__") else array_of_lists(given)
    if not isinstance(array, np.ndarray):
        array = array.detach().cpu().numpy()
    is_empty = array.size == 0 and rank == 1
    if array.ndim != rank or not (array.dtype.kind in "iub" or is_empty):
        what = "(batch, length)" if rank == 2 else "a list of tokens for each text"
        found = f"{array.dtype} of shape {array.shape}"
        if isinstance(given, str) or array.dtype.kind == "U":
            found = "text: give a tokenizer's input_ids"
        elif rank == 1 and array.ndim == 0:
            found = "tokens of one text alone: put their list into a list"
        raise UsageError(f"{name}: expected whole numbers, {what}, got {found}", code="RX614")
    tokens: Tokens = array.astype(np.int64)
    return tokens


def array_of_lists(given: Any) -> NDArray[Any]:
    """Return an array; of lists of several lengths one of objects, which nobody takes."""
    try:
        return np.asarray(given)
    except ValueError:
        return np.asarray(given, dtype=object)


def _mask_of(given: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = _array(given, "attention_mask")
    if mask.shape != shape:
        raise UsageError(f"attention_mask: expected shape {shape}, got {mask.shape}", code="RX601")
    return mask.astype(np.bool_)


def _like(given: Any) -> Callable[[Tokens], Any]:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(given, torch.Tensor):
        return lambda array: array
    return lambda array: torch.from_numpy(array).to(given.device)
