"""The arrays of a case, made from its seed on demand and never kept."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ropeexport.dtypes import float_type, is_float, numpy_type
from ropeexport.manifest import TensorSpec
from ropeexport.parity import positions
from ropeexport.parity.cases import Case
from ropeexport.parity.space import BEYOND, BEYOND_BY, Kind, ends_at, work_of
from ropeexport.profiles import shape_at
from ropeexport.runners.arrays import Arrays

# Multiply-adds.  Up to it a case costs a few hundredths of a second
_LIGHT = 3e7
_FIRST_POSITIONS = 16  # below which a single position is drawn
_AXES_LIMIT = 4  # a last dimension of this size or less holds position axes, not a length


def make_inputs(
    case: Case, specs: Sequence[TensorSpec], max_position: int | None = None
) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a case by input name, the same for the same case.

    ``max_position`` is the largest that the file's tables of angles hold, where it has any.
    """
    return {spec.name: _make(case, spec, max_position) for spec in specs}


def probes_of(
    cases: Sequence[Case], specs: Sequence[TensorSpec], max_position: int | None = None
) -> list[Arrays]:
    """Return inputs of a few cases that cost little, of several sizes.

    They are for :func:`ropeexport.parity.repeat.run_in_two_orders`: the first two differ in their
    numbers alone, so that one's leftovers fit the other.
    """
    by_work = sorted(cases, key=lambda case: work_of(specs, case.sizes))
    light = [case for case in by_work if work_of(specs, case.sizes) <= _LIGHT] or by_work[:1]
    if not light:
        return []
    middle = light[len(light) // 2]
    chosen: list[Case] = []
    for case in (middle, replace(middle, seed=middle.seed + 1), light[-1], light[0]):
        if case not in chosen:
            chosen.append(case)
    return [make_inputs(case, specs, max_position) for case in chosen]


def _make(case: Case, spec: TensorSpec, max_position: int | None) -> NDArray[np.generic]:
    rng = np.random.default_rng([case.seed, zlib.crc32(spec.name.encode())])
    shape = shape_at(spec, case.sizes)
    if spec.role == "matrices":
        return _matrices(case.kind, shape, rng).astype(numpy_type(spec.dtype))
    if spec.role == "positions":
        return _positions(case, spec, max_position, rng).astype(numpy_type(spec.dtype))
    return _data(shape, spec, rng)


def _data(
    shape: tuple[int, ...], spec: TensorSpec, rng: np.random.Generator
) -> NDArray[np.generic]:
    dtype = spec.dtype
    if not is_float(dtype):
        return rng.integers(0, spec.below or 2, shape).astype(numpy_type(dtype))
    if dtype == "float64":
        return rng.standard_normal(shape)
    return rng.standard_normal(shape, dtype=np.float32).astype(numpy_type(dtype), copy=False)


def _matrices(kind: Kind, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return 2x2 matrices (..., L, P, 2, 2) of a kind."""
    if kind == "random matrices":
        return rng.standard_normal(shape, dtype=np.float32)
    if kind == "random rotations":
        return positions.rotation_matrices(rng.uniform(0.0, 2.0 * math.pi, shape[:-2]))
    *lead, length, pairs, _, _ = shape
    made = np.empty(shape, dtype=np.float32)
    for variant, index in enumerate(np.ndindex(*lead)):
        angles = positions.flux_angles(length, pairs, variant)
        made[index] = positions.rotation_matrices(angles)
    return made


def _positions(
    case: Case, spec: TensorSpec, max_position: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return position ids (..., L, axes), or (..., L) where the last dimension is a length."""
    shape = shape_at(spec, case.sizes)
    if case.kind == BEYOND and max_position is not None and ends_at(spec, max_position):
        return np.asarray(rng.integers(max_position + 1, max_position + 1 + BEYOND_BY, shape))
    if case.kind in ("long positions", BEYOND):
        return _long_positions(shape, spec, max_position, rng)
    return _flux_positions(shape, spec, rng)


def _long_positions(
    shape: tuple[int, ...], spec: TensorSpec, max_position: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return random positions up to the last that the file's tables hold, that one among them."""
    if max_position is None:
        return np.asarray(rng.integers(0, min(positions.LONG_LIMIT, _whole_below(spec)), shape))
    last = min(max_position, _whole_below(spec) - 1)
    made = np.asarray(rng.integers(0, last + 1, shape))
    if made.size:
        made.flat[rng.integers(made.size)] = last
    return made


def _whole_below(spec: TensorSpec) -> int:
    """Return the number below which an input holds every whole number, or its table every row."""
    if is_float(spec.dtype):
        return int(1 / float_type(spec.dtype).unit_roundoff)
    return int(np.iinfo(spec.dtype).max) if spec.below is None else spec.below


def _flux_positions(
    shape: tuple[int, ...], spec: TensorSpec, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return FLUX's ids where the last dimension is of axes, else positions in order."""
    if not shape:
        return np.asarray(rng.integers(0, _FIRST_POSITIONS))
    last = spec.shape[-1]
    if len(shape) == 1 or not isinstance(last, int) or last > _AXES_LIMIT:
        return np.broadcast_to(np.arange(shape[-1]), shape).copy()
    *lead, length, axes = shape
    made = np.zeros(shape, dtype=np.int64)
    for variant, index in enumerate(np.ndindex(*lead)):
        ids = positions.flux_ids(length, variant)
        made[index][:, -min(axes, 3) :] = ids[:, -min(axes, 3) :]
    return made
