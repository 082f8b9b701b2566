"""Positions as FLUX gives them, and rotation matrices of them, in NumPy.

Source: black-forest-labs/flux ``src/flux/sampling.py`` (``prepare``: text at the origin, an image
grid of rows and columns after it) and ``src/flux/math.py`` (``rope``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THETA = 10000.0
LONG_LIMIT = 1 << 17  # positions where a float32 angle is off by about 1e-2

_TEXT_SHARE = 8  # FLUX: 512 text tokens in front of 4096 image tokens


def flux_ids(length: int, variant: int = 0) -> NDArray[np.int64]:
    """Return position ids (length, 3): zeros for the text, then (0, row, column) of a grid.

    Each ``variant`` has a grid of another width, so that two batch entries cannot be confused.
    """
    text = length // (_TEXT_SHARE + 1)
    tokens = np.arange(length - text)
    width = max(1, round(np.sqrt(tokens.size))) + variant
    grid = np.stack([np.zeros_like(tokens), tokens // width, tokens % width], axis=-1)
    return np.concatenate([np.zeros((text, 3), np.int64), grid.astype(np.int64)])


def flux_pairs(pairs: int) -> tuple[int, int, int]:
    """Split the pairs of a head over FLUX's three axes, 8, 28 and 28 of 64."""
    first = max(1, pairs // 8) if pairs >= 3 else 0
    second = (pairs - first) // 2
    return first, second, pairs - first - second


def flux_angles(length: int, pairs: int, variant: int = 0) -> NDArray[np.float64]:
    """Return the angles (length, pairs) of FLUX's positions in radians."""
    ids = flux_ids(length, variant)
    axes = [ids[:, axis, None] * _frequencies(n) for axis, n in enumerate(flux_pairs(pairs))]
    return np.concatenate(axes, axis=-1)


def rotation_matrices(angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return ``[[cos, -sin], [sin, cos]]`` of angles (...), rounded to float32 once."""
    cos, sin = np.cos(angles), np.sin(angles)
    flat = np.stack([cos, -sin, sin, cos], axis=-1)
    return flat.reshape(*angles.shape, 2, 2).astype(np.float32)


def _frequencies(pairs: int) -> NDArray[np.float64]:
    return np.asarray(THETA ** -(np.arange(pairs) / max(1, pairs)), dtype=np.float64)
