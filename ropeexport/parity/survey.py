"""Where the errors of a run lie: over elements, over positions, and over the worst case's output.

An error counts as a share of the bound of its case, so that cases of any size add up; a share above
1 is a failure.  A survey is of fixed size, however many cases and elements it has heard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ropeexport.manifest import TensorSpec
from ropeexport.runners.runner import Arrays, Float64s

# Elements by share: none at all, then powers of two from 2^-20 (and below) to 2^4 (and above)
LOWEST_EXPONENT, HIGHEST_EXPONENT = -20, 4
SHARE_BINS = HIGHEST_EXPONENT - LOWEST_EXPONENT + 2
_SAMPLES = 1 << 12  # elements of a chunk whose shares are counted, evenly spaced

_SINGLE_POSITIONS = 16  # each a bin of its own; beyond them, bins an eighth of an octave wide
_BINS_AN_OCTAVE = 8
POSITION_BINS = _SINGLE_POSITIONS + _BINS_AN_OCTAVE * 17  # up to 2^21

_MAP_ROWS, _MAP_COLUMNS = 48, 96
_SMALLEST_BOUND = 1e-300


def position_bin(position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bin of each position, by its size."""
    size: NDArray[np.int64] = np.abs(position)
    octaves = np.log2(np.maximum(size, 1) / _SINGLE_POSITIONS)
    coarse = _SINGLE_POSITIONS + np.floor(octaves * _BINS_AN_OCTAVE)
    found = np.where(size < _SINGLE_POSITIONS, size, coarse)
    number: NDArray[np.int64] = np.minimum(found, POSITION_BINS - 1).astype(np.int64)
    return number


def first_of_bin(number: int) -> int:
    """Return the smallest position of a bin."""
    if number < _SINGLE_POSITIONS:
        return number
    return math.ceil(_SINGLE_POSITIONS * 2 ** ((number - _SINGLE_POSITIONS) / _BINS_AN_OCTAVE))


@dataclass(frozen=True)
class Layout:
    """How an output lies: its leading entries, its length, and what a position holds.

    Parameters
    ----------
    leading, heads, length, inner : int
        Sizes of the output seen as (leading, heads, length, inner).
    """

    leading: int
    heads: int
    length: int
    inner: int


def layout_of(spec: TensorSpec, shape: tuple[int, ...], lengths: Sequence[str]) -> Layout | None:
    """Return the layout of an output; None where it has no axis for positions.

    The length is the axis of such a name, else the last but one.
    """
    named = [axis for axis, dim in enumerate(spec.shape) if dim in lengths]
    if len(shape) != len(spec.shape) or 0 in shape or not (named or len(shape) >= 2):
        return None
    axis = named[0] if named else len(shape) - 2
    return Layout(
        leading=math.prod(shape[: min(1, axis)]),
        heads=math.prod(shape[min(1, axis) : axis]),
        length=shape[axis],
        inner=math.prod(shape[axis + 1 :]),
    )


def token_positions(
    inputs: Arrays, specs: Sequence[TensorSpec], layout: Layout
) -> NDArray[np.int64]:
    """Return the positions (leading, length): the largest id of each token, or its place."""
    for spec in specs:
        ids = inputs[spec.name]
        if spec.role == "positions" and ids.shape[:2] == (layout.leading, layout.length):
            tokens = ids.reshape(*ids.shape[:2], -1).astype(np.int64)
            return np.asarray(np.abs(tokens).max(axis=-1))
    places = np.arange(layout.length, dtype=np.int64)
    return np.tile(places, (layout.leading, 1))


@dataclass
class CaseSurvey:
    """The survey of one output in one case; it observes a comparison chunk by chunk.

    Parameters
    ----------
    layout : Layout
        Of the output.
    positions : ndarray
        (leading, length).
    allowed, rtol : float
        The bound: an error may be ``allowed + rtol * |expected|``.
    """

    layout: Layout
    positions: NDArray[np.int64]
    allowed: float
    rtol: float = 0.0
    shares: NDArray[np.int64] = field(init=False)
    _squares: Float64s = field(init=False)  # by row (leading, heads, length)
    _map: Float64s = field(init=False)  # the largest of each part of a row

    def __post_init__(self) -> None:
        at = self.layout
        rows = at.leading * at.heads * at.length
        self.shares = np.zeros(SHARE_BINS, np.int64)
        self._starts = _starts(at.inner, max(1, _MAP_COLUMNS // at.heads))
        self._squares, self._map = np.zeros(rows), np.zeros((rows, len(self._starts)))

    def __call__(self, start: int, error: Float64s, size: Float64s) -> None:
        """Hear a chunk of errors; see :data:`ropeexport.parity.compare.Observer`."""
        share = error / np.maximum(self.allowed + self.rtol * size, _SMALLEST_BOUND)
        step = max(1, share.size // _SAMPLES)
        self.shares += step * _counts(share[::step])
        while share.size:
            row, column = divmod(start, self.layout.inner)
            taken = self._take(row, column, share)
            start, share = start + taken, share[taken:]

    def _take(self, row: int, column: int, share: Float64s) -> int:
        """Add the whole rows in front of ``share``, or the part of one row; return how many."""
        inner = self.layout.inner
        rows = share.size // inner if column == 0 else 0
        if rows == 0:
            part = share[: inner - column]
            self._add(row, np.pad(part, (column, inner - column - part.size))[None])
            return part.size
        self._add(row, share[: rows * inner].reshape(rows, inner))
        return rows * inner

    def _add(self, row: int, share: Float64s) -> None:
        here = slice(row, row + share.shape[0])
        cells = np.maximum.reduceat(share, self._starts, axis=1)
        self._map[here] = np.maximum(self._map[here], cells)
        finite = np.where(np.isfinite(share), share, 0.0)
        self._squares[here] += np.einsum("rc,rc->r", finite, finite)

    @property
    def worst(self) -> float:
        """The largest share."""
        return float(self._map.max())

    def by_position(self) -> tuple[NDArray[np.int64], Float64s, Float64s]:
        """Return elements, sum of squares and largest share of each bin of positions."""
        at = self.layout
        bins = position_bin(self.positions)[:, None, :]
        rows = np.broadcast_to(bins, (at.leading, at.heads, at.length)).reshape(-1)
        count = np.bincount(rows, minlength=POSITION_BINS)
        squares = np.bincount(rows, self._squares, minlength=POSITION_BINS)
        largest = np.zeros(POSITION_BINS)
        np.maximum.at(largest, rows, self._map.max(axis=1))
        return count.astype(np.int64) * at.inner, squares.astype(np.float64), largest

    def heat_map(self) -> Float64s:
        """Return the largest shares over a grid: positions down, heads and elements across."""
        at = self.layout
        cells = self._map.reshape(at.leading, at.heads, at.length, -1).max(axis=0)
        down = np.maximum.reduceat(cells, _starts(at.length, _MAP_ROWS), axis=1)
        return down.transpose(1, 0, 2).reshape(down.shape[1], -1)


@dataclass
class Survey:
    """The sum of the surveys of one output of one runtime, and the map of its worst case."""

    shares: NDArray[np.int64] = field(default_factory=lambda: np.zeros(SHARE_BINS, np.int64))
    elements: NDArray[np.int64] = field(default_factory=lambda: np.zeros(POSITION_BINS, np.int64))
    squares: Float64s = field(default_factory=lambda: np.zeros(POSITION_BINS))
    largest: Float64s = field(default_factory=lambda: np.zeros(POSITION_BINS))
    worst: float = -1.0
    worst_case: str = ""
    worst_map: Float64s = field(default_factory=lambda: np.zeros((0, 0)))
    worst_layout: Layout | None = None

    def add(self, case: str, heard: CaseSurvey) -> None:
        """Add a case; the first of equally bad ones gives the map."""
        elements, squares, largest = heard.by_position()
        self.shares += heard.shares
        self.elements += elements
        self.squares += squares
        self.largest = np.maximum(self.largest, largest)
        if heard.worst > self.worst:
            self.worst, self.worst_case = heard.worst, case
            self.worst_map, self.worst_layout = heard.heat_map(), heard.layout


def _starts(size: int, most: int) -> NDArray[np.intp]:
    """Return where each of at most ``most`` even parts of an axis begins."""
    parts = min(size, most)
    return (np.arange(parts) * size // parts).astype(np.intp)


def _counts(share: Float64s) -> NDArray[np.int64]:
    """Count shares by exponent; bin 0 is exact zeros."""
    exponent = np.ceil(np.log2(np.maximum(share, _SMALLEST_BOUND)))
    clipped = np.clip(exponent, LOWEST_EXPONENT, HIGHEST_EXPONENT).astype(np.int64)
    found = np.where(share > 0.0, clipped - LOWEST_EXPONENT + 1, 0)
    return np.bincount(found, minlength=SHARE_BINS).astype(np.int64)
