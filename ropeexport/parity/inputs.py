"""The arrays of a case, made from its seed on demand and never kept.

Source of the positions: black-forest-labs/flux ``src/flux/sampling.py`` (``prepare``: text at the
origin, an image grid of rows and columns after it) and ``src/flux/math.py`` (``rope``).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ropeexport import grids
from ropeexport.axes import shape_at, sum_of
from ropeexport.dtypes import float_type, is_float, largest_whole, numpy_type
from ropeexport.errors import UsageError
from ropeexport.manifest import ModelRecord, TensorSpec
from ropeexport.parity.cases import BEYOND, BEYOND_BY, Case, Kind, ends_at, work_of
from ropeexport.runners.runner import Array, Arrays

Shape = tuple[int, ...]

LONG_LIMIT = 1 << 17  # positions where a float32 angle is off by about 1e-2
_THETA = 10000.0
_TEXT_SHARE = 8  # FLUX: 512 text tokens in front of 4096 image tokens
# Multiply-adds.  Up to it a case costs a few hundredths of a second
_LIGHT = 3e7
_MOST_ALONE = 10
_FIRST_POSITIONS = 16  # below which a single position is drawn
_AXES_LIMIT = 4  # a last dimension of this size or less holds position axes, not a length


def make_inputs(
    case: Case, specs: Sequence[TensorSpec], max_position: int | None = None
) -> dict[str, Array]:
    """Return the arrays of a case by input name, the same for the same case.

    ``max_position`` is the largest that the file's tables of angles hold, where it has any.
    """
    return {
        spec.name: _grid(case, spec, specs)
        if spec.role in grids.ROLES
        else _make(case, _with_rows(case, spec), max_position)
        for spec in specs
    }


def _with_rows(case: Case, spec: TensorSpec) -> TensorSpec:
    """Return a spec with the rows of its table as a number; 1, the least, where that is unknown."""
    if not isinstance(spec.below, str):
        return spec
    rows = sum_of(spec.below)
    is_known = {*rows.names} <= case.sizes.keys()
    return spec.changed(below=max(1, rows.at(case.sizes)) if is_known else 1)


def probes_of(cases: Sequence[Case], model: ModelRecord) -> list[Arrays]:
    """Return inputs of a few cases that cost little, of several sizes.

    They are for :func:`~ropeexport.parity.references.run_in_two_orders`: the first two differ in
    their numbers alone, so that one's leftovers fit the other.
    """
    by_work = sorted(cases, key=lambda case: work_of(model.inputs, case.sizes))
    light = [c for c in by_work if work_of(model.inputs, c.sizes) <= _LIGHT] or by_work[:1]
    if not light:
        return []
    middle = light[len(light) // 2]
    chosen = (middle, replace(middle, seed=middle.seed + 1), light[-1], light[0])
    return [
        make_inputs(case, model.inputs, model.max_position)
        for number, case in enumerate(chosen)
        if case not in chosen[:number]
    ]


def _grid(case: Case, spec: TensorSpec, specs: Sequence[TensorSpec]) -> Array:
    """Return the frames, rows and columns (images, 3) of images that have all patches together.

    Patches come in square blocks, of which each image has some.
    """
    rng = np.random.default_rng([case.seed, zlib.crc32(spec.name.encode())])
    images, _ = shape_at(spec, case.sizes)
    blocks, side = grids.blocks_of(specs, case.sizes), grids.side_of(specs)
    if images > blocks:
        raise UsageError(
            f"{spec.name}: expected at most {blocks} images of so few patches, got {images}",
            code="RX601",
        )
    ends = np.sort(rng.choice(np.arange(1, blocks), images - 1, replace=False))
    made = np.empty((images, 3), np.int64)
    for image, count in enumerate(np.diff([0, *ends, blocks]).tolist()):
        frames = 1 if spec.role == grids.STILL else _divisor(count, _MOST_FRAMES, rng)
        rows = _divisor(count // frames, count, rng)
        made[image] = frames, side * rows, side * (count // frames // rows)
    return made.astype(numpy_type(spec.dtype), copy=False)


def _divisor(number: int, most: int, rng: np.random.Generator) -> int:
    """Draw a number up to ``most`` that divides another."""
    return int(rng.choice([n for n in range(1, min(number, most) + 1) if number % n == 0]))


def _make(case: Case, spec: TensorSpec, max_position: int | None) -> Array:
    rng = np.random.default_rng([case.seed, zlib.crc32(spec.name.encode())])
    shape = shape_at(spec, case.sizes)
    if spec.role == "matrices":
        made: Array = _matrices(case.kind, shape, rng)
    elif spec.role == "positions":
        made = _positions(case, spec, max_position, rng) % _whole_below(spec)
    elif spec.role == "mask" and len(sum_of(spec.shape[-1]).terms) > 1:
        made = np.ones(shape)  # of a cache and what comes after it, all of which are seen
    elif spec.role == "places":
        made = _places(shape, _whole_below(spec), rng)
    elif spec.role in _SETTINGS:
        made = _SETTINGS[spec.role](shape, rng)
    else:
        made = _data(shape, spec, rng)
    # without axes NumPy's generators, and its arithmetic, give a number and no array
    return np.asarray(made).astype(numpy_type(spec.dtype), copy=False)


def _mask(shape: Shape, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return ones, and zeros after them, as a batch of sequences is padded; each row has a one."""
    ones = rng.integers(1, np.maximum(2, shape[-1] + 1), (*shape[:-1], 1))
    return np.asarray(np.arange(shape[-1]) < ones, dtype=np.int64)


def _places(shape: Shape, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return rows of a table in any order, along the last axis each another while there are any."""
    count = shape[-1] if shape else 1
    made = np.tile(np.arange(max(count, rows)), (*shape[:-1], 1))
    return rng.permuted(made, axis=-1)[..., :count].reshape(shape) % rows


def _axes(shape: Shape, _: np.random.Generator) -> NDArray[np.int64]:
    """Return the first axes: those that a tensor has, whatever its rank, each once."""
    return np.arange(math.prod(shape)).reshape(shape)


def _sizes(shape: Shape, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return sizes: ones, which fit beside any others, and a number alone of several."""
    return np.asarray(rng.integers(2, _MOST_ALONE, ())) if not shape else np.ones(shape, np.int64)


def _shape(shape: Shape, _: np.random.Generator) -> NDArray[np.int64]:
    """Return a shape for any number of elements: all in one axis."""
    made = np.ones(shape, np.int64)
    made[:1] = -1
    return made


def _numbers(shape: Shape, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return numbers of which nothing is known: small ones, for what they may be multiplied by."""
    return np.asarray(rng.integers(0, _MOST_ALONE, shape))


_MOST_FRAMES = 4
# whole numbers that say how an operator works, or of which nothing is known
_SETTINGS: dict[str, Callable[[Shape, np.random.Generator], NDArray[np.int64]]] = {
    "mask": _mask,
    "numbers": _numbers,
    "axes": _axes,
    "sizes": _sizes,
    "shape": _shape,
}


def _data(shape: Shape, spec: TensorSpec, rng: np.random.Generator) -> Array:
    if spec.below is not None or not is_float(spec.dtype):
        return np.asarray(rng.integers(0, int(spec.below or 2), shape))
    wide = np.float64 if spec.dtype == "float64" else np.float32
    return np.asarray(rng.standard_normal(shape, dtype=wide))


def _matrices(kind: Kind, shape: Shape, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return 2x2 matrices (..., L, P, 2, 2) of a kind."""
    if kind == "random matrices":
        return rng.standard_normal(shape, dtype=np.float32)
    if kind == "random rotations":
        return _rotation_matrices(rng.uniform(0.0, 2.0 * math.pi, shape[:-2]))
    *lead, length, pairs, _, _ = shape
    made = np.empty(shape, dtype=np.float32)
    for variant, index in enumerate(np.ndindex(*lead)):
        made[index] = _rotation_matrices(_flux_angles(length, pairs, variant))
    return made


def _positions(
    case: Case, spec: TensorSpec, max_position: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return position ids (..., L, axes), or (..., L) where the last dimension is a length."""
    shape = shape_at(spec, case.sizes)
    if case.kind not in ("long positions", BEYOND):
        return _flux_positions(shape, spec, rng)
    if max_position is None:
        return np.asarray(rng.integers(0, min(LONG_LIMIT, _whole_below(spec)), shape))
    if case.kind == BEYOND and ends_at(spec, max_position):
        return np.asarray(rng.integers(max_position + 1, max_position + 1 + BEYOND_BY, shape))
    # the last that the file's tables hold is among them
    last = min(max_position, _whole_below(spec) - 1)
    made = np.asarray(rng.integers(0, last + 1, shape))
    if made.size:
        made.flat[rng.integers(made.size)] = last
    return made


def _whole_below(spec: TensorSpec) -> int:
    """Return the number below which an input holds every whole number, or its table every row."""
    if is_float(spec.dtype):
        return int(1 / float_type(spec.dtype).unit_roundoff)
    return int(spec.below) if spec.below is not None else largest_whole(spec.dtype)


def _flux_positions(shape: Shape, spec: TensorSpec, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return FLUX's ids where the last dimension is of axes, else positions in order."""
    if not shape:
        return np.asarray(rng.integers(0, _FIRST_POSITIONS))
    last = spec.shape[-1]
    if len(shape) == 1 or not isinstance(last, int) or last > _AXES_LIMIT:
        return np.broadcast_to(np.arange(shape[-1]), shape).copy()
    *lead, length, axes = shape
    made = np.zeros(shape, dtype=np.int64)
    for variant, index in enumerate(np.ndindex(*lead)):
        ids = flux_ids(length, variant)
        made[index][:, max(0, axes - 3) :] = ids[:, 3 - min(axes, 3) :]
    return made


def flux_ids(length: int, variant: int = 0) -> NDArray[np.int64]:
    """Return position ids (length, 3): zeros for the text, then (0, row, column) of a grid.

    Each ``variant`` has a grid of another width, so that two batch entries cannot be confused.
    """
    text = length // (_TEXT_SHARE + 1)
    tokens = np.arange(length - text)
    width = max(1, round(np.sqrt(tokens.size))) + variant
    grid = np.stack([np.zeros_like(tokens), tokens // width, tokens % width], axis=-1)
    return np.concatenate([np.zeros((text, 3), np.int64), grid.astype(np.int64)])


def _flux_angles(length: int, pairs: int, variant: int) -> NDArray[np.float64]:
    """Return the angles (length, pairs) of FLUX's positions in radians.

    It splits the pairs of a head over its three axes, 8, 28 and 28 of 64.
    """
    first = max(1, pairs // 8) if pairs >= 3 else 0
    second = (pairs - first) // 2
    ids, split = flux_ids(length, variant), (first, second, pairs - first - second)
    frequencies = (_THETA ** -(np.arange(n) / max(1, n)) for n in split)
    return np.concatenate([ids[:, [axis]] * each for axis, each in enumerate(frequencies)], axis=-1)


def _rotation_matrices(angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return ``[[cos, -sin], [sin, cos]]`` of angles (...), rounded to float32 once."""
    cos, sin = np.cos(angles), np.sin(angles)
    flat = np.stack([cos, -sin, sin, cos], axis=-1)
    return flat.reshape(*angles.shape, 2, 2).astype(np.float32)
