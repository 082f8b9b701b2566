"""The home of bounds: how far from the float64 oracle a correct runtime may be.

No bound here is a number that somebody liked.  Each is made of two yardsticks, measured on the
very inputs of the case; the derivation and the calibration are in ``docs/parity.md``.

*Rounding.*  A backward-stable implementation returns the exact result of inputs that are perturbed
by its unit roundoff ``u``.  So the oracle runs again on inputs perturbed by random relative errors
of up to ``u``, and the change is the ``sensitivity`` S: it knows the magnitudes, the softmax, and
how a 2x2 matrix amplifies logits, whatever the module.  Rounding the output adds ``u |y|``, and a
sum of n terms in float32 adds random errors that grow as the square root of n (Higham and Mary,
2019), half of ``sqrt(n) 2^-24`` for each perturbed factor.  An input that is one number for each of
the batch, as a timestep, is a term of no such sum: its own change T does not grow.  What the
module's own conversions to float32 cost, C, is known as it is: they are rounded once, whatever is
summed afterwards.

    G = sqrt(1 + n (2^-24 / u)^2 / 4)
    P = sqrt(G^2 (S^2 + (u |y|)^2) + T^2 + C^2) + underflow * max(1, sqrt(n) |x|)

*Eager.*  Eager torch's own distance E to the oracle, in the same type: what the module's further
stages cost, which the first yardstick does not see.  It is capped at P with all but C taken
``eager_cap`` times (to which eager is held itself), so that a broken eager is not a licence for the
others.

A bound is the larger of a multiple of each, once for the root mean square of the error, which
concentrates and so sees what touches many elements a little, and once for the largest error, which
sees one wrong element.  The multiples are in :class:`Allowance`.

*An op's own rule.*  What an op of ropeexport promises of its results may be more than this, and
then an output that is such a result is held to that: the rule lies beside the op
(``ops/apply_rope_bound.py``), which names it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ropeexport.dtypes import SINGLE, float_type
from ropeexport.ops.op import resolve
from ropeexport.parity.compare import Difference

if TYPE_CHECKING:
    from ropeexport.parity.records import BoundRecord, Numbers

# what hardware accumulates a matrix product of any of the types in
_ACCUMULATION_ROUNDOFF = SINGLE.unit_roundoff
_GROWTH = 0.5

MOST_SAMPLES = 16
_ENOUGH_ELEMENTS = 1 << 15


@dataclass(frozen=True)
class Size:
    """Root mean square and largest absolute value of an array's elements."""

    rms: float
    largest: float


@dataclass(frozen=True)
class Yardstick:
    """What is known of one output of one case before any runtime has been looked at.

    Parameters
    ----------
    dtype : str
        NumPy's name of the output's type.
    working_roundoff : float
        Unit roundoff of the coarsest type among the inputs and the output.
    terms : int
        Length of the longest sum: the largest of L, D and the model's widths, or what the op says
        whose result the output is.
    output, sensitivity : Size
        Of the oracle's output, and of its change on perturbed inputs.
    data_rms : float
        Of the data that is summed.
    conversions : Size
        Of the output's change by the module's own conversions to float32.
    rule : str
        Reference of the rule of the op whose result the output is; empty: it is held as any other.
    eager : Size or None
        Of eager's error; None where eager is what is judged, or returned nothing comparable.
    unsummed : Size
        Of the output's change on perturbed inputs that no sum goes over.
    """

    dtype: str
    working_roundoff: float
    terms: int
    output: Size
    sensitivity: Size
    data_rms: float
    conversions: Size = Size(0.0, 0.0)
    eager: Size | None = None
    rule: str = ""
    unsummed: Size = Size(0.0, 0.0)

    def with_eager(self, error: Size | None) -> Yardstick:
        """Return the yardstick with eager's error known."""
        return replace(self, eager=error)


@dataclass(frozen=True)
class Allowance:
    """Multiples of the yardsticks that a correct runtime may reach.

    The defaults leave a factor of about two above the largest ratio that was seen in the
    calibration of ``docs/parity.md``.
    """

    rounding_rms: float = 2.0
    rounding_max: float = 4.0
    eager_rms: float = 3.0
    eager_max: float = 4.0
    eager_cap: float = 4.0


@dataclass(frozen=True)
class Bound:
    """What an output is held to, and which yardstick set it.

    ``rule`` is ``rounding``, ``eager``, ``override``, or the name of an op's own.  With ``rtol``,
    an element's error may exceed ``max_abs`` by ``rtol`` times what was expected.  ``floor`` is the
    part of ``max_abs`` that underflow alone explains.
    """

    max_abs: float
    rms: float
    rule: str
    rtol: float = 0.0
    floor: float = 0.0

    def broken_by(self, difference: Difference) -> str | None:
        """Return what a difference breaks, or None where it holds; NaN never holds."""
        if difference.faults:
            return "; ".join(difference.faults)
        if not difference.rms <= self.rms:
            return f"root mean square error {difference.rms:.3g}, bound {self.rms:.3g}"
        if not difference.excess <= self.max_abs:
            return f"largest error {difference.max_abs:.3g}, bound {self.max_abs:.3g}"
        return None

    def too_wide_for(self, output: Size) -> str | None:
        """Return why a bound proves nothing of an output: it is larger than all that is in it.

        Zeros would pass, both by their largest error and by their root mean square; where one of
        the two bounds is below the output, neither zeros pass nor the output with its sign reversed
        or its elements in another order.  Below the smallest normal number a type knows no less,
        and a user's own bound is the user's to choose.
        """
        proves = self.max_abs - self.floor <= output.largest or self.rms < output.rms
        if self.rule == "override" or proves:
            return None
        return (
            f"the bound {self.max_abs:.3g} is larger than the output itself (largest "
            f"{output.largest:.3g}): nothing would be proven"
        )


def size_of_error(difference: Difference) -> Size | None:
    """Return an error as a yardstick; None where there is nothing sound to measure with."""
    return None if difference.faults else Size(difference.rms, difference.max_abs)


def share_of(found: Difference | Numbers, bound: Bound | BoundRecord) -> float:
    """Return the share of a bound that an error uses: its largest element, or its root mean square.

    A number that is not there, or not finite in a record, has none.
    """
    largest = found.max_abs if found.excess is None else max(0.0, found.excess)
    pairs = ((largest, bound.max_abs), (found.rms, bound.rms))
    known = ((got, allowed) for got, allowed in pairs if got and allowed is not None)
    return max((got / allowed if allowed else math.inf for got, allowed in known), default=0.0)


def samples_for(elements: int) -> int:
    """Return how many perturbed runs a sensitivity needs: many where an output is small.

    The error of a few elements is a handful of random numbers (for L = 2 a row is one), and one
    draw of them may be small by luck.  Thousands of elements average that out in one run.
    """
    return max(1, min(MOST_SAMPLES, -(-_ENOUGH_ELEMENTS // max(1, elements))))


def rounding(yardstick: Yardstick, factor: float = 1.0) -> Size:
    """Return P of the module's docstring: what rounding alone explains.

    ``factor`` multiplies all but C: the further stages of a module round anew, but what its
    conversions cost is known as it is.
    """
    kind = float_type(yardstick.dtype)
    terms = yardstick.terms
    ratio = _ACCUMULATION_ROUNDOFF / yardstick.working_roundoff
    growth = math.sqrt(1.0 + terms * (_GROWTH * ratio) ** 2)
    floor = _floor(yardstick)

    def size(sensitivity: float, output: float, unsummed: float, conversions: float) -> float:
        summed = growth * math.hypot(sensitivity, kind.unit_roundoff * output)
        return math.hypot(factor * math.hypot(summed, unsummed), conversions) + factor * floor

    moved, whole = yardstick.sensitivity, yardstick.output
    single, converted = yardstick.unsummed, yardstick.conversions
    return Size(
        rms=size(moved.rms, whole.rms, single.rms, converted.rms),
        largest=size(moved.largest, whole.largest, single.largest, converted.largest),
    )


def _floor(yardstick: Yardstick) -> float:
    """Return what underflow alone explains: each of random terms rounded to a subnormal."""
    kind = float_type(yardstick.dtype)
    return kind.underflow * max(1.0, math.sqrt(yardstick.terms) * yardstick.data_rms)


def bound(yardstick: Yardstick) -> Bound:
    """Return what a runtime's output is held to."""
    allowed = Allowance()
    if (by_op := _by_op(yardstick, allowed)) is not None:
        return by_op
    own = rounding(yardstick)
    eager = _capped(yardstick.eager, rounding(yardstick, allowed.eager_cap))
    by_rounding = allowed.rounding_max * own.largest, allowed.rounding_rms * own.rms
    by_eager = allowed.eager_max * eager.largest, allowed.eager_rms * eager.rms
    return Bound(
        max_abs=max(by_rounding[0], by_eager[0]),
        rms=max(by_rounding[1], by_eager[1]),
        rule="eager" if by_eager[1] > by_rounding[1] else "rounding",
        floor=allowed.eager_max * allowed.eager_cap * _floor(yardstick),
    )


def eager_bound(yardstick: Yardstick) -> Bound:
    """Return what eager itself is held to: rounding alone, with room for a module's stages."""
    allowed = Allowance()
    if (by_op := _by_op(replace(yardstick, eager=None), allowed)) is not None:
        return by_op
    own = rounding(yardstick, allowed.eager_cap)
    return Bound(
        max_abs=allowed.rounding_max * own.largest,
        rms=allowed.rounding_rms * own.rms,
        rule="rounding",
        floor=allowed.eager_cap * allowed.rounding_max * _floor(yardstick),
    )


def override(atol: float, rtol: float) -> Bound:
    """Return a bound of the user's own: each error at most ``atol + rtol * |expected|``."""
    return Bound(max_abs=atol, rms=math.inf, rule="override", rtol=rtol)


def _by_op(yardstick: Yardstick, allowed: Allowance) -> Bound | None:
    """Return the bound by the rule of the op that made the output; None: it says nothing."""
    if not yardstick.rule:
        return None
    own: Bound | None = resolve(yardstick.rule)(yardstick, allowed)
    return own


def _capped(eager: Size | None, cap: Size) -> Size:
    """Return eager's error, no larger than the cap; nothing where it is absent or not a number."""
    if eager is None or not (eager.rms < math.inf and eager.largest < math.inf):
        return Size(0.0, 0.0)
    return Size(min(eager.rms, cap.rms), min(eager.largest, cap.largest))
