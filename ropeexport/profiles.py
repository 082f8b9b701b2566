"""Shapes: parsing what the command line gives, and the profile that an export suggests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ropeexport.axes import solve, sum_of
from ropeexport.errors import UsageError
from ropeexport.manifest import Axis, Manifest, Profile, TensorSpec

Shapes = dict[str, tuple[int, ...]]

_ITEM = re.compile(r"(?P<name>[^:,]+):(?P<shape>\d+(?:x\d+)*)")


def parse_shapes(text: str) -> Shapes:
    """Parse shapes as trtexec writes them: ``q:1x24x4096x128,k:1x24x4096x128``."""
    shapes: Shapes = {}
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise UsageError(f"shapes: expected NAME:1x24x4096x128[,NAME:...], got {item!r}")
        shapes[match["name"]] = tuple(int(size) for size in match["shape"].split("x"))
    return shapes


def shape_at(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a tensor where each dynamic axis has the given size."""
    return tuple(sum_of(dim).at(sizes) for dim in spec.shape)


def make_profile(
    manifest: Manifest,
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
) -> Profile:
    """Return the suggested profile with what the user gave in its place, checked."""
    given = {"min": min_shapes or {}, "opt": opt_shapes or {}, "max": max_shapes or {}}
    specs = {spec.name: spec for spec in manifest.model.inputs}
    for point, shapes in given.items():
        for name, shape in shapes.items():
            _check_shape(f"--{point}-shapes", specs, name, shape)
    profile = Profile(**{point: _completed(manifest, point, given[point]) for point in given})
    _check_order(profile)
    _check_sizes_agree(profile, manifest)
    return profile


def _completed(manifest: Manifest, point: str, given: Shapes) -> Shapes:
    """Return the shapes of every input: those given, and the others at the sizes they imply."""
    specs = manifest.model.inputs
    known = [spec for spec in specs if spec.name in given]
    named = axis_sizes(known, given, f"--{point}-shapes")
    sizes = {name: int(getattr(axis, point)) for name, axis in manifest.axes.items()} | named
    for name, axis in manifest.axes.items():
        if isinstance(axis.broadcasts_to, str) and name not in named and sizes[name] != 1:
            sizes[name] = sizes[axis.broadcasts_to]
    return {spec.name: given.get(spec.name) or shape_at(spec, sizes) for spec in specs}


def _check_shape(
    option: str, specs: Mapping[str, TensorSpec], name: str, shape: Sequence[int]
) -> None:
    if name not in specs:
        raise UsageError(f"{option}: no input {name!r}; the model has {', '.join(specs)}")
    expected = specs[name].shape
    fits = len(shape) == len(expected) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(expected, shape, strict=True)
    )
    if not fits:
        raise UsageError(f"{option}: {name}: expected {_text(expected)}, got {_text(shape)}")


def _check_order(profile: Profile) -> None:
    for name, opt in profile.opt.items():
        low, high = profile.min[name], profile.max[name]
        if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
            raise UsageError(
                f"profile: {name}: expected min <= opt <= max, "
                f"got {_text(low)}, {_text(opt)}, {_text(high)}"
            )


def _check_sizes_agree(profile: Profile, manifest: Manifest) -> None:
    """Hold axes that inputs share to one size, and one that broadcasts to that size or 1."""
    for point in ("min", "opt", "max"):
        where = f"--{point}-shapes"
        sizes = axis_sizes(manifest.model.inputs, getattr(profile, point), where)
        for name, axis in manifest.axes.items():
            target = axis.broadcasts_to
            full = sizes.get(target) if isinstance(target, str) else target
            if full is not None and sizes.get(name, 1) not in (1, full):
                raise UsageError(f"{where}: axis {name!r}: expected 1 or {full}, got {sizes[name]}")


def axis_sizes(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]], where: str = "shapes"
) -> dict[str, int]:
    """Return the size of each dynamic axis in ``shapes``; raise where two inputs disagree."""
    return solve(
        (
            (dim, size, spec.name)
            for spec in specs
            for dim, size in zip(spec.shape, shapes[spec.name], strict=True)
        ),
        where,
    )


def profile_axes(manifest: Manifest, profile: Profile) -> dict[str, Axis]:
    """Return the manifest's axes with the sizes that a profile gives them."""
    low, opt, high = (
        axis_sizes(manifest.model.inputs, shapes)
        for shapes in (profile.min, profile.opt, profile.max)
    )
    found = {name: (low[name], opt[name], high[name]) for name in low}
    return with_ranges(manifest.axes, found)


def with_ranges(
    axes: Mapping[str, Axis], found: Mapping[str, tuple[int, int, int]]
) -> dict[str, Axis]:
    """Return axes with other sizes, the least, the usual and the most; others stay as they are."""
    ranges = {n: dict(zip(("min", "opt", "max"), sizes, strict=True)) for n, sizes in found.items()}
    return {name: axis.changed(**ranges.get(name, {})) for name, axis in axes.items()}


def _text(shape: Sequence[int | str]) -> str:
    return "x".join(str(dim) for dim in shape)
