"""Images of unequal sizes whose patches lie in one axis, and the input that says which are whose.

A grid (images, 3) holds the frames, rows and columns of each image.  Its patches are the first
dynamic axis of the first input of floats, ``4*merged_patches``: they come in blocks, here of 4,
which a module merges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ropeexport.axes import Sum, sum_of
from ropeexport.dtypes import is_float
from ropeexport.errors import UsageError
from ropeexport.manifest import TensorSpec

STILL = "still_grid"  # of one frame each
ROLES = ("grid", STILL)


def patches_of(specs: Sequence[TensorSpec]) -> Sum:
    """Return the axis of the patches."""
    data = (spec for spec in specs if spec.role == "data" and is_float(spec.dtype))
    dims = (dim for spec in data for dim in spec.shape if not isinstance(dim, int))
    return sum_of(next(dims, 0))


def side_of(specs: Sequence[TensorSpec]) -> int:
    """Return how many rows, and how many columns, a block of patches has."""
    patches = patches_of(specs)
    return math.isqrt(math.gcd(patches.constant, *(factor for _, factor in patches.terms)))


def blocks_of(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> int:
    """Return how many blocks all images have together: more images than that there cannot be."""
    return patches_of(specs).at(sizes) // max(1, side_of(specs)) ** 2


def check_grid(
    specs: Sequence[TensorSpec], sizes: Mapping[str, int], name: str, grid: ArrayLike
) -> None:
    """Raise :class:`UsageError` for a grid (images, 3) of more or fewer patches than are given.

    Examples
    --------
    >>> specs = (TensorSpec(name="x", dtype="float32", shape=("patches", 8)),)
    >>> check_grid(specs, {"patches": 6}, "grid_thw", [[1, 2, 2]])
    Traceback (most recent call last):
    ropeexport.errors.UsageError: grid_thw: expected images of 6 patches together, got 4 [RX601]
    """
    told, given = int(np.prod(np.asarray(grid), axis=1).sum()), patches_of(specs).at(sizes)
    if told != given:
        raise UsageError(
            f"{name}: expected images of {given} patches together, got {told}", code="RX601"
        )
