"""Pictures: their levels of 0 to 255, which of them differ and may, and how they are shown.

NumPy only; Pillow where a picture is written.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.parity.tolerance import Size

LEVELS = 255
_IMAGE, _VIDEO = 4, 5  # axes: (batch, height, width, channels), with frames behind the batch

Pixels = NDArray[np.floating[Any]]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class PixelCount:
    """How many values of a picture, of every channel, are at another level than eager's.

    ``allowed`` are those that differ by one level where eager's own value is so near to the edge
    between the two that a right result may round to the other; ``largest`` is in levels.
    """

    values: int
    differing: int
    allowed: int
    largest: int

    @property
    def refused(self) -> int:
        """How many differ and may not."""
        return self.differing - self.allowed


def levels_of(pixels: Pixels) -> Picture:
    """Return values of 0 to 1 as bytes, as diffusers rounds them."""
    return (pixels * LEVELS).round().astype(np.uint8)


def count(got: Pixels, eager: Pixels, bound: float) -> PixelCount:
    """Count the values that differ, and those of them that may.

    Parameters
    ----------
    got, eager : ndarray
        Values of 0 to 1, of one shape.
    bound : float
        How near to a rounding edge eager's value must lie.
    """
    mine, theirs = (levels_of(x).astype(np.int16) for x in (got, eager))
    apart = np.abs(mine - theirs)
    edge = (np.minimum(mine, theirs) + 0.5) / LEVELS
    may = (apart == 1) & (np.abs(eager.astype(np.float64) - edge) <= bound)
    return PixelCount(
        values=apart.size,
        differing=int(np.count_nonzero(apart)),
        allowed=int(np.count_nonzero(may)),
        largest=int(apart.max(initial=0)),
    )


def contrast(pixels: NDArray[np.float64]) -> Size:
    """Return the size of a picture: its spread and its range, which a plain grey has none of.

    A bound beyond the range would take the picture for any other, whatever its brightness.
    """
    return Size(float(pixels.std()), float(np.ptp(pixels)))


def is_picture(pixels: Pixels) -> bool:
    """Say whether an array has the axes of pictures, or of videos, and some values."""
    return pixels.ndim in (_IMAGE, _VIDEO) and pixels.size > 0


def sheet(pixels: Pixels) -> Picture:
    """Return pictures of one call as one: a row for each of the batch, of a video three frames."""
    levels = levels_of(pixels)
    if levels.ndim == _VIDEO:
        last = levels.shape[1] - 1
        levels = np.concatenate([levels[:, at] for at in sorted({0, last // 2, last})], axis=2)
    return np.concatenate(levels, axis=0)


def difference(one: Picture, other: Picture) -> tuple[Picture, int]:
    """Return how far two sheets are apart, brightened, and how many times."""
    apart = np.abs(one.astype(np.int16) - other.astype(np.int16))
    scale = LEVELS // max(1, int(apart.max(initial=0)))
    return (apart * scale).astype(np.uint8), scale


def png(picture: Picture) -> bytes:
    """Return a sheet as a PNG."""
    from PIL import Image

    grey = picture.shape[-1] == 1
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if grey else picture).save(file, format="PNG")
    return file.getvalue()
