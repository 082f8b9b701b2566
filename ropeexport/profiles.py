"""An engine's profiles: the shapes of its inputs at their least, at their usual and at their most.

A decoder with a cache has two.  The first, for reading a text or a part of one, takes all that its
cache may hold; the second, for one token after those that are held, is what it runs in most of the
time.  The mask is as long as the tokens that are held and the new ones, and never longer than the
cache: at the first profile's greatest point, where both are at their most, it is shorter than the
two together.  TensorRT holds each input to its own range, so that this leaves out no call, and
takes the one that does not fit for what it is, an error before the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ropeexport.axes import Shapes, axis_sizes, same, shape_at, sum_of, with_ranges
from ropeexport.errors import UsageError
from ropeexport.manifest import Axis, CacheRecord, Manifest, Profile, TensorSpec

_POINTS = ("min", "opt", "max")
# axes of a decoder with a cache: tokens held, new ones, and the two together as an axis of its own
_PAST, _NEW, _TOTAL = "past", "length", "total"


def make_profiles(
    manifest: Manifest,
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
) -> tuple[Profile, ...]:
    """Return an engine's profiles in its order, with what the user gave in its place, checked.

    What is given is the first profile's; the second has its batches and as much cache.
    """
    cache = manifest.cache
    if cache is None:
        return (make_profile(manifest, min_shapes, opt_shapes, max_shapes),)
    apart = _with_total(manifest, cache)
    first = make_profile(apart, min_shapes, opt_shapes, max_shapes)
    _check_totals(first, apart, cache)
    return (first, *_of_one_token(first, apart, manifest.axes[_PAST].opt))


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
    specs, cache = manifest.model.inputs, manifest.cache
    known = [spec for spec in specs if spec.name in given]
    named = axis_sizes(known, given, f"--{point}-shapes")
    sizes = {name: int(getattr(axis, point)) for name, axis in manifest.axes.items()} | named
    for name, axis in manifest.axes.items():
        if isinstance(axis.broadcasts_to, str) and name not in named and sizes[name] != 1:
            sizes[name] = sizes[axis.broadcasts_to]
    if cache is not None and _TOTAL not in named:
        sizes[_TOTAL] = min(sum_of(cache.total).at(sizes), cache.capacity)
    return {spec.name: given.get(spec.name) or shape_at(spec, sizes) for spec in specs}


def _check_shape(
    option: str, specs: Mapping[str, TensorSpec], name: str, shape: Sequence[int]
) -> None:
    if name not in specs:
        raise UsageError(
            f"{option}: no input {name!r}; the model has {', '.join(specs)}", code="RX406"
        )
    expected = specs[name].shape
    fits = len(shape) == len(expected) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(expected, shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{option}: {name}: expected {_text(expected)}, got {_text(shape)}", code="RX406"
        )


def _check_order(profile: Profile) -> None:
    for name, opt in profile.opt.items():
        low, high = profile.min[name], profile.max[name]
        if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
            raise UsageError(
                f"profile: {name}: expected min <= opt <= max, "
                f"got {_text(low)}, {_text(opt)}, {_text(high)}",
                code="RX406",
            )


def _check_sizes_agree(profile: Profile, manifest: Manifest) -> None:
    """Hold axes that inputs share to one size, and one that broadcasts to that size or 1."""
    for point in _POINTS:
        where = f"--{point}-shapes"
        sizes = axis_sizes(manifest.model.inputs, getattr(profile, point), where)
        for name, axis in manifest.axes.items():
            target = axis.broadcasts_to
            full = sizes.get(target) if isinstance(target, str) else target
            if full is not None and sizes.get(name, 1) not in (1, full):
                raise UsageError(
                    f"{where}: axis {name!r}: expected 1 or {full}, got {sizes[name]}", code="RX406"
                )


def _with_total(manifest: Manifest, cache: CacheRecord) -> Manifest:
    """Return a manifest whose mask's length is an axis of its own, tuned to an empty cache."""
    inputs = tuple(
        spec.changed(shape=tuple(_TOTAL if same(dim, cache.total) else dim for dim in spec.shape))
        for spec in manifest.model.inputs
    )
    past = manifest.axes[_PAST]
    axes = manifest.axes | {_PAST: past.changed(opt=past.min)}
    return manifest.changed(model=manifest.model.changed(inputs=inputs), axes=axes)


def _check_totals(profile: Profile, apart: Manifest, cache: CacheRecord) -> None:
    """Hold the mask's length to what the cache takes, and to the new tokens and those held."""
    for point in _POINTS:
        sizes = axis_sizes(apart.model.inputs, getattr(profile, point))
        total, new = sizes[_TOTAL], sizes[_NEW]
        # of a cache of a fixed length no input says how much of it is held
        both = new + sizes.get(_PAST, max(total - new, 0))
        least, most = new if point == "max" else both, min(both, cache.capacity)
        if not least <= total <= most:
            held = f" and {sizes[_PAST]} held" if _PAST in sizes else ""
            raise UsageError(
                f"--{point}-shapes: expected a mask of {cache.total}, at most {cache.capacity}, "
                f"got {total} for {new} new tokens{held}",
                code="RX406",
            )


def _of_one_token(first: Profile, apart: Manifest, usual: int) -> tuple[Profile, ...]:
    """Return the profile of one token after those held, none where nothing is to be held."""
    points = [axis_sizes(apart.model.inputs, getattr(first, point)) for point in _POINTS]
    low, _, high = points
    most = min(high[_TOTAL] - 1, high.get(_PAST, high[_TOTAL]))
    least = max(1, low.get(_PAST, 0))
    if most < least:
        return ()
    held = (least, min(max(usual, least), most), most)
    shapes = {
        point: {
            spec.name: shape_at(spec, {**sizes, _NEW: 1, _PAST: past, _TOTAL: past + 1})
            for spec in apart.model.inputs
        }
        for point, sizes, past in zip(_POINTS, points, held, strict=True)
    }
    return (Profile(**shapes),)


def profile_axes(manifest: Manifest, profile: Profile) -> dict[str, Axis]:
    """Return the manifest's axes with the sizes that an engine's first profile gives them.

    A second one of a decoder takes no more than the first.
    """
    # a check of whole texts has a manifest of other axes
    cache = manifest.cache if _PAST in manifest.axes else None
    apart = manifest if cache is None else _with_total(manifest, cache)
    low, opt, high = (axis_sizes(apart.model.inputs, getattr(profile, point)) for point in _POINTS)
    if cache is not None and _PAST not in low:  # what a mask has beyond the new tokens
        low[_PAST] = max(low[_TOTAL] - high[_NEW], 0)
        opt[_PAST] = opt[_TOTAL] - opt[_NEW]
        high[_PAST] = high[_TOTAL] - low[_NEW]
    found = {name: (low[name], opt[name], high[name]) for name in low}
    return with_ranges(manifest.axes, found)


def _text(shape: Sequence[int | str]) -> str:
    return "x".join(str(dim) for dim in shape)
