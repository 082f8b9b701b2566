"""Two arrays to a :class:`Difference`, in float64, chunk by chunk; NumPy and ml_dtypes only.

Numbers can hide a failure: NaN compares false with every bound, a wrong shape may broadcast, and
no difference at all may mean that nothing was compared.  Those are ``faults``, which no bound
can forgive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ropeexport.dtypes import FloatType, float_type
from ropeexport.runners.runner import Array, Float64s

_CHUNK = 1 << 15  # elements; float64 temporaries of it stay in the cache and in the heap

# Hears the place of each chunk's first element, the absolute errors (infinite where an element is
# not finite) and the sizes of what was expected
Observer = Callable[[int, Float64s, Float64s], None]


@dataclass(frozen=True)
class Worst:
    """The element with the largest absolute error, or the first that is not finite."""

    index: tuple[int, ...]
    got: float
    expected: float


@dataclass(frozen=True)
class Difference:
    """How far one array is from another; the numbers leave out elements that are not finite.

    Relative errors and ULPs divide by the expected element (at least the smallest normal number),
    so their worst sits near a zero; ``relative_l2`` and ``cosine`` are of the whole tensor, and
    ``ulps_at_rms`` is the largest error in units of an element as large as its root mean square.
    ``excess`` is the largest of ``|got - expected| - rtol * |expected|``, and ``nans`` counts the
    elements that are not finite where that was allowed: no number is of them.
    """

    faults: tuple[str, ...] = ()
    elements: int = 0
    max_abs: float = 0.0
    excess: float = 0.0
    max_rel: float = 0.0
    max_ulps: float = 0.0
    ulps_at_rms: float = 0.0
    rms: float = 0.0
    relative_l2: float = 0.0
    cosine: float = 1.0
    worst: Worst | None = None
    nans: int = 0


def compare(
    got: Array | None,
    expected: Array,
    dtype: str,
    rtol: float = 0.0,
    observer: Observer | None = None,
    *,
    allow_nan: bool = False,
    as_expected: bool = False,
) -> Difference:
    """Measure how far ``got`` is from ``expected``.

    Parameters
    ----------
    got : ndarray or None
        What a runtime returned; None where it returned no output of that name.
    expected : ndarray
        The oracle's output, float64.
    dtype : str
        NumPy's name of the type that ``got`` must have; ULPs are of this type.
    rtol : float
        What ``excess`` forgives of each element, relative to the expected one.
    observer : callable, optional
        Called with each chunk of errors in turn, where there are elements to compare.
    allow_nan : bool
        Whether an element of ``got`` may be NaN instead of a number.
    as_expected : bool
        Whether what is expected is the measure as it is: where it is not finite, the same is
        wanted, and where it has no elements, none.

    Returns
    -------
    Difference
        Without numbers where nothing can be compared: a missing output, a shape, no elements.
    """
    if got is None:
        return Difference(faults=("missing output",))
    if got.shape != expected.shape:
        return Difference(faults=(f"shape: expected {expected.shape}, got {got.shape}",))
    faults = () if str(got.dtype) == dtype else (f"type: expected {dtype}, got {got.dtype}",)
    if expected.size == 0:
        empty = () if as_expected else ("empty: no elements to compare",)
        return Difference(faults=(*faults, *empty))
    if not as_expected and not all(np.isfinite(part).all() for part in _chunks(expected)):
        faults = (*faults, "the oracle itself is not finite here: nothing to compare with")
    sums = _Sums(float_type(dtype), rtol, observer, allow_nan, as_expected)
    return _measure(got, expected, sums, faults)


@dataclass
class _Sums:
    """What one pass over the chunks adds up."""

    kind: FloatType
    rtol: float
    observer: Observer | None = None
    allow_nan: bool = False
    as_expected: bool = False
    allowed_nans: int = 0
    too_finite: int = 0
    error2: float = 0.0
    got2: float = 0.0
    expected2: float = 0.0
    product: float = 0.0
    max_abs: float = -1.0
    excess: float = -math.inf
    max_rel: float = 0.0
    max_ulps: float = 0.0
    worst: int = 0
    not_finite: int = 0
    first_not_finite: int = -1
    nans: int = 0

    def add(self, start: int, got: Float64s, expected: Float64s) -> None:
        if self.allow_nan or self.as_expected:
            allowed = self._allowed(got, expected)
            self.allowed_nans += int(np.count_nonzero(allowed))
            got, expected = np.where(allowed, 0.0, got), np.where(allowed, 0.0, expected)
        if self.as_expected:
            self.too_finite += int(np.count_nonzero(np.isfinite(got) & ~np.isfinite(expected)))
        finite = np.isfinite(got)
        sound = bool(finite.all())
        if not sound:
            if self.first_not_finite < 0:
                self.first_not_finite = start + int(finite.argmin())
            self.not_finite += int(np.count_nonzero(~finite))
            self.nans += int(np.count_nonzero(np.isnan(got)))
        if not sound or not np.isfinite(expected).all():
            finite &= np.isfinite(expected)
            got, expected = np.where(finite, got, 0.0), np.where(finite, expected, 0.0)
        error, size = np.abs(got - expected), np.abs(expected)
        self._add_largest(start, error, size)
        self.error2 += _dot(error, error)
        self.got2 += _dot(got, got)
        self.expected2 += _dot(expected, expected)
        self.product += _dot(got, expected)
        if self.observer is not None:
            self.observer(start, error if sound else np.where(finite, error, np.inf), size)

    def _allowed(self, got: Float64s, expected: Float64s) -> NDArray[np.bool_]:
        """Return where an element that is not finite is allowed."""
        allowed: NDArray[np.bool_] = np.isnan(got)
        if self.as_expected:
            allowed = (allowed & np.isnan(expected)) | (np.isinf(got) & (got == expected))
        return allowed

    def _add_largest(self, start: int, error: Float64s, size: Float64s) -> None:
        place = int(error.argmax())
        largest = float(error[place])
        if largest > self.max_abs:
            self.max_abs, self.worst = largest, start + place
        excess = float((error - self.rtol * size).max()) if self.rtol else largest
        self.excess = max(self.excess, excess)
        relative = error / np.maximum(size, self.kind.smallest_normal)
        most = float(relative.max())
        self.max_rel = max(self.max_rel, most)
        # an ULP is one to two unit roundoffs of its element (never less below the smallest normal),
        # so the largest error in ULPs is among relative errors of at least half the largest
        near = relative >= 0.5 * most
        self.max_ulps = max(
            self.max_ulps, float((error[near] / self.kind.spacing(size[near])).max())
        )


def _measure(got: Array, expected: Array, sums: _Sums, faults: tuple[str, ...]) -> Difference:
    start = 0
    for mine, theirs in zip(_chunks(got), _chunks(expected), strict=True):
        sums.add(start, mine, theirs)
        start += mine.size
    if sums.not_finite:
        faults = (*faults, _not_finite_fault(sums, got.shape))
    if sums.too_finite:
        faults = (*faults, f"finite in {sums.too_finite} elements where the oracle is not")
    place = sums.first_not_finite if sums.not_finite else sums.worst
    compared = max(1, got.size - sums.allowed_nans)
    expected_rms = np.asarray(math.sqrt(sums.expected2 / compared))
    return Difference(
        faults=faults,
        elements=got.size,
        max_abs=sums.max_abs,
        excess=sums.excess,
        max_rel=sums.max_rel,
        max_ulps=sums.max_ulps,
        ulps_at_rms=sums.max_abs / float(sums.kind.spacing(expected_rms)),
        rms=math.sqrt(sums.error2 / compared),
        relative_l2=_ratio(math.sqrt(sums.error2), math.sqrt(sums.expected2)),
        cosine=_cosine(sums),
        worst=None if sums.allowed_nans == got.size else _worst(got, expected, place),
        nans=sums.allowed_nans,
    )


def _dot(a: Float64s, b: Float64s) -> float:
    # not through BLAS, whose threads would spin against those of the runtimes
    return float(np.einsum("i,i->", a, b))


def _chunks(x: Array) -> Iterator[Float64s]:
    """Yield ``x`` in order as flat float64 arrays of bounded size."""
    flat = x.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].astype(np.float64)


def _cosine(sums: _Sums) -> float:
    if sums.got2 == 0.0 and sums.expected2 == 0.0:
        return 1.0
    return _ratio(sums.product, math.sqrt(sums.got2) * math.sqrt(sums.expected2), nothing=0.0)


def _ratio(part: float, whole: float, nothing: float = math.inf) -> float:
    """Divide; 0/0 is 0, and anything else over 0 is ``nothing``."""
    if whole == 0.0:
        return 0.0 if part == 0.0 else nothing
    return part / whole


def _worst(got: Array, expected: Array, place: int) -> Worst:
    index = tuple(int(i) for i in np.unravel_index(place, got.shape))
    return Worst(index, float(got[index]), float(expected[index]))


def _not_finite_fault(sums: _Sums, shape: tuple[int, ...]) -> str:
    index = tuple(int(i) for i in np.unravel_index(sums.first_not_finite, shape))
    infinite = sums.not_finite - sums.nans
    parts = [f"{n} {what}" for n, what in ((sums.nans, "NaN"), (infinite, "infinite")) if n]
    return f"not finite: {' and '.join(parts)} of {math.prod(shape)} elements, the first at {index}"
