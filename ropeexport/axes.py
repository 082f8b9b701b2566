"""Axes and shapes: sums of axes' names, what the command line gives, and an engine's profile.

A dimension of a tensor is a size, the name of an axis, or a sum such as ``past + length`` or
``8*blocks + 1``, with whole numbers.  Other exporters' names that are no sum of this form stand for
themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ropeexport.errors import UsageError
from ropeexport.manifest import Axis, Manifest, Profile, TensorSpec

Dim = int | str

_SIGNS = re.compile(r" ([+-]) ")
_TERM = re.compile(r"(?:(?P<factor>\d+)\*)?(?P<name>[^\W\d]\w*)|(?P<constant>\d+)")
_ITEM = re.compile(r"(?P<name>[^:,]+):(?P<shape>\d+(?:x\d+)*)")


@dataclass(frozen=True)
class Sum:
    """A size: factors of axes' names, in the order of the names, and a constant."""

    terms: tuple[tuple[str, int], ...]
    constant: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The axes that it is made of."""
        return tuple(name for name, _ in self.terms)

    def __str__(self) -> str:
        parts = [
            ("-" if factor < 0 else "+", name if abs(factor) == 1 else f"{abs(factor)}*{name}")
            for name, factor in self.terms
        ]
        if self.constant or not parts:
            parts.append(("-" if self.constant < 0 else "+", str(abs(self.constant))))
        return " ".join(part for pair in parts for part in pair).removeprefix("+ ")

    def at(self, sizes: Mapping[str, int]) -> int:
        """Return the size where each axis has the given one."""
        return self.constant + sum(factor * sizes[name] for name, factor in self.terms)


@cache
def sum_of(dim: Dim) -> Sum:
    """Return a dimension as a sum.

    Examples
    --------
    >>> sum_of("past + length")
    Sum(terms=(('length', 1), ('past', 1)), constant=0)
    >>> sum_of("8*blocks + 1").at({"blocks": 3})
    25
    """
    if isinstance(dim, int):
        return Sum((), dim)
    first, *rest = _SIGNS.split(dim)
    signed = [("+", first), *zip(rest[::2], rest[1::2], strict=True)]
    factors: dict[str, int] = {}
    constant = 0
    for sign, text in signed:
        match = _TERM.fullmatch(text)
        if match is None:
            return Sum(((dim, 1),))
        factor = int(match["factor"] or match["constant"] or 1) * (-1 if sign == "-" else 1)
        if match["constant"]:
            constant += factor
        else:
            factors[match["name"]] = factors.get(match["name"], 0) + factor
    return Sum(tuple(sorted((n, f) for n, f in factors.items() if f)), constant)


def names_of(dims: Iterable[Dim]) -> tuple[str, ...]:
    """Return the axes that dimensions are made of, in order of their first mention."""
    return tuple(dict.fromkeys(name for dim in dims for name in sum_of(dim).names))


def substituted(dim: Dim, sums: Mapping[str, Sum]) -> Dim:
    """Return a dimension with sums in the place of axes; one that has none of them as it is.

    Examples
    --------
    >>> substituted("past + length", {"length": sum_of("2*half")})
    '2*half + past'
    """
    total = sum_of(dim)
    if not set(total.names) & sums.keys():
        return dim
    factors: dict[str, int] = {}
    constant = total.constant
    for name, factor in total.terms:
        of = sums.get(name, Sum(((name, 1),)))
        constant += factor * of.constant
        for inner, each in of.terms:
            factors[inner] = factors.get(inner, 0) + factor * each
    return str(Sum(tuple(sorted((n, f) for n, f in factors.items() if f)), constant))


def same(one: Dim, other: Dim) -> bool:
    """Say whether two dimensions are the same sum: ``past + length`` is ``length + past``."""
    return sum_of(one) == sum_of(other)


def solve(found: Iterable[tuple[Dim, int, str]], where: str = "shapes") -> dict[str, int]:
    """Return the size of each axis from dimensions and their sizes.

    Parameters
    ----------
    found : iterable of (Dim, int, str)
        A dimension, its size, and the tensor that has it.
    where : str
        What the sizes were given as, for the message.

    Raises
    ------
    UsageError
        Where two tensors disagree, or no size of an axis makes a dimension so large.
    """
    pending = [one for one in found if not isinstance(one[0], int)]
    sizes: dict[str, int] = {}
    givers: dict[str, str] = {}
    while pending:
        unknown = {i: [n for n in sum_of(one[0]).names if n not in sizes]
                   for i, one in enumerate(pending)}  # fmt: skip
        index = min(unknown, key=lambda i: len(unknown[i]))
        dim, size, tensor = pending.pop(index)
        if len(unknown[index]) > 1:
            continue  # several axes, of which nothing else tells any
        for name in unknown[index]:
            sizes[name] = _solved(dim, size, name, sizes, f"{where}: {tensor}")
            givers[name] = tensor
        total = sum_of(dim)
        if total.at(sizes) != size:
            known = [f"{name} is {sizes[name]} in {givers[name]}" for name in total.names]
            if total.names == (dim,):
                raise UsageError(f"{where}: axis {known[0]} and {size} in {tensor}")
            raise UsageError(
                f"{where}: {tensor}: axis {dim!r}: expected {total.at(sizes)}, "
                f"as {', '.join(known)}; got {size}"
            )
    return sizes


def _solved(dim: Dim, size: int, name: str, sizes: Mapping[str, int], where: str) -> int:
    total = sum_of(dim)
    factor = dict(total.terms)[name]
    rest = size - Sum(tuple(t for t in total.terms if t[0] != name), total.constant).at(sizes)
    value, left = divmod(rest, factor)
    if left or value < 0:
        raise UsageError(f"{where}: expected {dim} for a whole {name}, got {size}")
    return value


Shapes = dict[str, tuple[int, ...]]


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
    found = (
        (dim, size, spec.name)
        for spec in specs
        for dim, size in zip(spec.shape, shapes[spec.name], strict=True)
    )
    return solve(found, where)


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
