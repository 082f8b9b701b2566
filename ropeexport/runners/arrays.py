"""Named arrays, and when two of them are the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]
Float64s = NDArray[np.float64]


def same_bits(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    """Say whether two arrays are the same in type, shape and every bit: NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.size == 0:
        return True
    mine, theirs = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (one, other))
    return bool(np.array_equal(mine, theirs))
