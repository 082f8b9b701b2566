"""The bound of a rope's own output in a half type, of which far less is forgiven than of others.

The contract rotates in float32 and rounds once, so each element is within ``u |y|`` of exact,
beyond float32's own noise: three roundings of ``2^-24`` of ``|m0 x0| + |m1 x1|``, which ``S``
scales (the inputs' perturbation by u moves that very sum), and 2^-23 for matrices made from
positions; and beyond a multiple of C, where a module makes its matrices by conversions of its own.
The same elements are rounded the same way in eager, so the root mean square error is eager's own,
but for that noise: a table or a product in half precision adds to it at least a factor of sqrt(2).
``u``, ``S`` and C are those of :mod:`ropeexport.parity.tolerance`.
"""

from __future__ import annotations

import math

from ropeexport.dtypes import SINGLE, float_type
from ropeexport.parity.tolerance import Allowance, Bound, Yardstick

_EAGER_RMS = 1.1  # times eager's root mean square error
_NOISE = 16.0  # times what float32's rounding makes of the sensitivity


def rotation_bound(yardstick: Yardstick, allowed: Allowance) -> Bound | None:
    """Return the bound of a rope's own output; None where its type does not round more than sums.

    Parameters
    ----------
    yardstick : Yardstick
        With eager's error, unless eager is what is judged.
    allowed : Allowance
        For what conversions of the module's own cost.
    """
    kind = float_type(yardstick.dtype)
    if kind.unit_roundoff <= SINGLE.unit_roundoff:
        return None
    ratio = SINGLE.unit_roundoff / yardstick.working_roundoff
    noise = _NOISE * ratio * yardstick.sensitivity.largest + kind.underflow
    rms = kind.unit_roundoff * yardstick.output.rms
    if yardstick.eager is not None and yardstick.eager.rms < math.inf:
        rms = min(rms, _EAGER_RMS * yardstick.eager.rms)
    converted = yardstick.conversions
    return Bound(
        max_abs=noise + allowed.rounding_max * converted.largest,
        rms=rms + noise + allowed.rounding_rms * converted.rms,
        rule="rotation",
        rtol=kind.unit_roundoff,
        floor=kind.underflow,
    )
