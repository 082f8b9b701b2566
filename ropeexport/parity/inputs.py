"""The arrays of a case, made from its seed on demand and never kept."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ropeexport.manifest import TensorSpec
from ropeexport.parity import positions
from ropeexport.parity.cases import Case
from ropeexport.parity.floats import float_type, is_float, numpy_type
from ropeexport.parity.space import Kind
from ropeexport.profiles import shape_at

_FIRST_POSITIONS = 16  # below which a single position is drawn
_AXES_LIMIT = 4  # a last dimension of this size or less holds position axes, not a length


def make_inputs(case: Case, specs: Sequence[TensorSpec]) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a case by input name, the same for the same case."""
    return {spec.name: _make(case, spec) for spec in specs}


def _make(case: Case, spec: TensorSpec) -> NDArray[np.generic]:
    rng = np.random.default_rng([case.seed, zlib.crc32(spec.name.encode())])
    shape = shape_at(spec, case.sizes)
    if spec.role == "matrices":
        return _matrices(case.kind, shape, rng).astype(numpy_type(spec.dtype))
    if spec.role == "positions":
        return _positions(case.kind, shape, spec, rng).astype(numpy_type(spec.dtype))
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


def _exact_below(dtype: str) -> int:
    """Return the number up to which a type holds every whole number."""
    return int(1 / float_type(dtype).unit_roundoff) if is_float(dtype) else positions.LONG_LIMIT


def _positions(
    kind: Kind, shape: tuple[int, ...], spec: TensorSpec, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return position ids (..., L, axes), or (..., L) where the last dimension is a length."""
    if kind == "long positions":
        return rng.integers(0, min(positions.LONG_LIMIT, _exact_below(spec.dtype)), shape)
    if not shape:
        return rng.integers(0, _FIRST_POSITIONS, shape)
    last = spec.shape[-1]
    if len(shape) == 1 or not isinstance(last, int) or last > _AXES_LIMIT:
        return np.broadcast_to(np.arange(shape[-1]), shape).copy()
    *lead, length, axes = shape
    made = np.zeros(shape, dtype=np.int64)
    for variant, index in enumerate(np.ndindex(*lead)):
        ids = positions.flux_ids(length, variant)
        made[index][:, -min(axes, 3) :] = ids[:, -min(axes, 3) :]
    return made
