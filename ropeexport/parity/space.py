"""The sizes that a manifest allows: its dynamic axes, how they broadcast, and what a run costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from ropeexport.axes import names_of
from ropeexport.dtypes import is_float
from ropeexport.manifest import Axis, Manifest, TensorSpec
from ropeexport.profiles import profile_axes, shape_at

Kind = Literal[
    "flux positions",
    "random rotations",
    "random matrices",
    "long positions",
    "positions beyond the tables",
    "random data",
]
BEYOND: Kind = "positions beyond the tables"  # where the file's angles are NaN, as documented
BEYOND_BY = 4  # just beyond: where an index that is off by one or clipped would still find a row
Sizes = dict[str, int]

_KINDS: dict[str, tuple[Kind, ...]] = {
    "matrices": ("flux positions", "random rotations", "random matrices"),
    "positions": ("flux positions", "long positions"),
    "data": ("random data",),
}


@dataclass(frozen=True)
class Space:
    """The sizes that a manifest (or its engine's profile) allows.

    ``kinds`` are those that every size is checked with; positions ``beyond`` the file's tables,
    where it has any, are checked at a few.
    """

    specs: tuple[TensorSpec, ...]
    axes: Mapping[str, Axis]
    kinds: tuple[Kind, ...]
    beyond: tuple[Kind, ...] = ()

    @property
    def batches(self) -> tuple[str, ...]:
        """Free axes that some input has in front, and none behind another axis.

        Position ids without a batch, (length, axes), have a length in front.
        """
        specs = [spec for spec in self.specs if spec.shape and spec.role != "matrices"]
        fronts = {spec.shape[0] for spec in specs}
        behind = names_of(dim for spec in specs for dim in spec.shape[1:])
        return tuple(name for name in self._free if name in fronts and name not in behind)

    @property
    def lengths(self) -> tuple[str, ...]:
        """Free axes that are no batch."""
        return tuple(name for name in self._free if name not in self.batches)

    @property
    def _free(self) -> tuple[str, ...]:
        used = names_of(dim for spec in self.specs for dim in spec.shape)
        return tuple(n for n, axis in self.axes.items() if axis.broadcasts_to is None and n in used)

    def at(self, point: Literal["min", "opt", "max"]) -> Sizes:
        """Return the free axes at one of the profile's points."""
        return {name: int(getattr(self.axes[name], point)) for name in self._free}

    def with_length(self, sizes: Sizes, length: int) -> Sizes:
        """Return sizes whose lengths are ``length``, as far as each axis allows."""
        clipped = {n: min(max(length, self.axes[n].min), self.axes[n].max) for n in self.lengths}
        return {**sizes, **clipped}

    def broadcasts(self, sizes: Sizes) -> list[Sizes]:
        """Return the sizes with each broadcasting axis at 1 and at its full size, where allowed."""
        names = [name for name, axis in self.axes.items() if axis.broadcasts_to is not None]
        choices = [self._choices(name, sizes) for name in names]
        return [{**sizes, **dict(zip(names, some, strict=True))} for some in product(*choices)]

    def _choices(self, name: str, sizes: Sizes) -> list[int]:
        axis = self.axes[name]
        full = (
            sizes[axis.broadcasts_to]
            if isinstance(axis.broadcasts_to, str)
            else (axis.broadcasts_to or 1)
        )
        return sorted({size for size in (1, full) if axis.min <= size <= axis.max})


def space_of(manifest: Manifest) -> Space:
    """Return the space of a manifest: its engine's profile where it has an engine."""
    engine = manifest.engine
    axes = manifest.axes if engine is None else profile_axes(manifest, engine.profile)
    specs = manifest.model.inputs
    roles = {spec.role for spec in specs} - {"data"} or {"data"}
    kinds = dict.fromkeys(kind for role in sorted(roles) for kind in _KINDS[role])
    beyond = has_end(manifest.model.max_position, specs)
    return Space(specs, axes, tuple(kinds), (BEYOND,) if beyond else ())


def has_end(max_position: int | None, specs: Sequence[TensorSpec]) -> bool:
    """Say whether some input can hold positions beyond the tables of angles that a file has."""
    return max_position is not None and any(ends_at(spec, max_position) for spec in specs)


def ends_at(spec: TensorSpec, max_position: int) -> bool:
    """Say whether an input is of integer positions, those beyond ``max_position`` included.

    What indexes a table of the user's own ends where that table does.
    """
    if spec.role != "positions" or is_float(spec.dtype):
        return False
    largest = np.iinfo(spec.dtype).max if spec.below is None else spec.below - 1
    return largest >= max_position + BEYOND_BY


def work_of(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> float:
    """Estimate the multiply-adds of one run: each data element meets the longest axis, twice."""
    shapes = [shape_at(spec, sizes) for spec in specs]
    longest = max((size for shape in shapes for size in shape), default=1)
    data = max((float(np.prod(shape)) for shape in shapes), default=1.0)
    return 2.0 * data * longest


def scores_of(space: Space, sizes: Mapping[str, int]) -> float:
    """Estimate the attention scores of one head in one run: the batch times the length squared."""
    batch = math.prod(sizes[name] for name in space.batches)
    length = sum(sizes[name] for name in space.lengths)
    return float(batch) * length**2
