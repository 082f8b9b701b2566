"""What the parity maths needs to know of a floating type: its roundoff, its range, its spacing."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class FloatType:
    """A binary floating type of ``precision`` significant bits and smallest normal ``2**emin``."""

    name: str
    precision: int
    emin: int

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest."""
        return float(2.0**-self.precision)

    @property
    def smallest_normal(self) -> float:
        """Below it, spacing no longer shrinks."""
        return float(2.0**self.emin)

    @property
    def underflow(self) -> float:
        """Largest absolute error of rounding below the smallest normal: half a subnormal."""
        return float(2.0 ** (self.emin - self.precision))

    def spacing(self, x: Float64s) -> Float64s:
        """Return the unit in the last place of each element of ``x`` in this type."""
        exponent = np.frexp(x)[1]
        spacing: Float64s = np.ldexp(1.0, np.maximum(exponent, self.emin + 1) - self.precision)
        return spacing


_TYPES = {
    "float64": FloatType("float64", 53, -1022),
    "float32": FloatType("float32", 24, -126),
    "float16": FloatType("float16", 11, -14),
    "bfloat16": FloatType("bfloat16", 8, -126),
}


def float_type(dtype: str) -> FloatType:
    """Return the facts of a type by NumPy's name.

    An integer or boolean output is held to float64: equal, for all that any bound can tell.
    """
    return _TYPES.get(dtype, _TYPES["float64"])


def is_float(dtype: str) -> bool:
    """Say whether a type, by NumPy's name, is a floating type of this module."""
    return dtype in _TYPES


def numpy_type(dtype: str) -> np.dtype[np.generic]:
    """Return NumPy's dtype by name, ``bfloat16`` included."""
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
