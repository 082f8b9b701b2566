"""The cases of a parity run: the sizes that a manifest allows, and which of them are chosen.

The profile's corners, lengths off the optimum, broadcasts, chosen from the manifest alone.  A case
is a name, a kind, sizes and a seed; its arrays are made on demand, see
:mod:`ropeexport.parity.inputs`.  Cases are in order of what they tell for their cost, and those
that would break the budget are left out by name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from typing import Literal

import numpy as np

from ropeexport import grids
from ropeexport.axes import names_of, shape_at
from ropeexport.dtypes import is_float, largest_whole
from ropeexport.errors import UsageError
from ropeexport.given import check_memory
from ropeexport.manifest import Axis, Manifest, TensorSpec
from ropeexport.profiles import profile_axes

Kind = Literal[
    "flux positions",
    "random rotations",
    "random matrices",
    "long positions",
    "positions beyond the tables",
    "random data",
    "text",
    "left-padded text",
    "right-padded text",
    "generated text",
    "generated left-padded text",
    "generated right-padded text",
]
BEYOND: Kind = "positions beyond the tables"  # where the file's angles are NaN, as documented
BEYOND_BY = 4  # just beyond: where an index that is off by one or clipped would still find a row
Sizes = dict[str, int]

_KINDS: dict[str, tuple[Kind, ...]] = {
    "matrices": ("flux positions", "random rotations", "random matrices"),
    "positions": ("flux positions", "long positions"),
    "data": ("random data",),
}
# Multiply-adds.  Two CPU cores run oracle, perturbed oracle, eager and onnxruntime at about 5e9/s.
BUDGET = 5e11
CASE_BUDGET = 1.5e11
_CHEAP = 2e9  # a case of any kind, rather than of one kind in turn
# Batch times length squared: scores of one head, which a module that writes them out keeps in
# float64.  Beyond 134 MB a head the largest batch and the greatest length are checked apart, and
# beyond 268 MB a case is left out: several such tensors are held at once, by each runtime.
_SCORES = 1 << 24
_MOST_SCORES = 1 << 25
_CHEAP_SCORES = 1 << 22
_OFF_LENGTHS = (1, 2, 3, 7, 17, 64, 65, 129, 333)
_BROADCAST_LENGTH = 19
_DRAWS = 64
_Choice = tuple[Kind, Sizes]


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
        if any(spec.role in grids.ROLES for spec in specs):
            behind += grids.patches_of(specs).names
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

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Raise :class:`UsageError` where an axis does not allow a length."""
        for length, name in product(lengths, self.lengths):
            axis = self.axes[name]
            if not axis.min <= length <= axis.max:
                raise UsageError(
                    f"--lengths: axis {name!r}: expected {axis.min} to {axis.max}, got {length}",
                    code="RX602",
                )

    def with_length(self, sizes: Sizes, length: int) -> Sizes:
        """Return sizes whose lengths are ``length``, as far as each axis allows."""
        clipped = {n: min(max(length, self.axes[n].min), self.axes[n].max) for n in self.lengths}
        return {**sizes, **clipped}

    def _with_fewer_images(self, sizes: Sizes) -> Sizes:
        """Return sizes in which each image of a grid has a block of patches."""
        fewer = dict(sizes)
        for spec in self.specs:
            if spec.role in grids.ROLES and isinstance(name := spec.shape[0], str):
                most = max(grids.blocks_of(self.specs, sizes), self.axes[name].min)
                fewer[name] = min(fewer[name], most)
        return fewer

    def broadcasts(self, sizes: Sizes) -> list[Sizes]:
        """Return the sizes with each broadcasting axis at 1 and at its full size, where allowed."""
        choices: dict[str, list[int]] = {}
        for name, axis in self.axes.items():
            if (to := axis.broadcasts_to) is not None:
                full = sizes[to] if isinstance(to, str) else to or 1
                choices[name] = sorted({n for n in (1, full) if axis.min <= n <= axis.max})
        sizes = self._with_fewer_images(sizes)
        some = product(*choices.values())
        return [{**sizes, **dict(zip(choices, each, strict=True))} for each in some]


def space_of(manifest: Manifest) -> Space:
    """Return the space of a manifest: its engine's profile where it has an engine."""
    engine = manifest.engine
    axes = manifest.axes if engine is None else profile_axes(manifest, engine.profile)
    specs = manifest.model.inputs
    roles = {spec.role for spec in specs} & {"matrices", "positions"} or {"data"}
    kinds = dict.fromkeys(kind for role in sorted(roles) for kind in _KINDS[role])
    limit = manifest.model.max_position
    beyond = limit is not None and any(ends_at(spec, limit) for spec in specs)
    return Space(specs, axes, tuple(kinds), (BEYOND,) if beyond else ())


def ends_at(spec: TensorSpec, max_position: int) -> bool:
    """Say whether an input is of integer positions, those beyond ``max_position`` included.

    What indexes a table of the user's own ends where that table does.
    """
    if spec.role != "positions" or is_float(spec.dtype) or isinstance(spec.below, str):
        return False
    largest = largest_whole(spec.dtype) if spec.below is None else spec.below - 1
    return largest >= max_position + BEYOND_BY


def work_of(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> float:
    """Estimate the multiply-adds of one run: each data element meets the longest axis, twice."""
    shapes = [shape_at(spec, sizes) for spec in specs]
    longest = max((size for shape in shapes for size in shape), default=1)
    data = max((float(np.prod(shape)) for shape in shapes), default=1.0)
    return 2.0 * data * longest


def elements_of(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> int:
    """Return how many elements all inputs have together."""
    return sum(math.prod(shape_at(spec, sizes)) for spec in specs)


def scores_of(space: Space, sizes: Mapping[str, int]) -> float:
    """Estimate the attention scores of one head in one run: the batch times the length squared."""
    batch = math.prod(sizes[name] for name in space.batches)
    length = sum(sizes[name] for name in space.lengths)
    return float(batch) * length**2


@dataclass(frozen=True)
class Case:
    """One set of inputs: which kind of matrices or positions, the dynamic sizes, the seed."""

    name: str
    kind: Kind
    sizes: Mapping[str, int]
    seed: int

    @property
    def rotations_only(self) -> bool:
        """Whether an implementation that is right for rotations only must be right here."""
        return self.kind != "random matrices"


@dataclass(frozen=True)
class Selection:
    """The cases of a run, and the names of those that were left out for their cost."""

    cases: tuple[Case, ...]
    left_out: tuple[str, ...] = ()


def select(
    manifest: Manifest, seed: int = 0, count: int | None = None, lengths: Sequence[int] = ()
) -> Selection:
    """Choose the cases of a run.

    Parameters
    ----------
    manifest : Manifest
        Of the exported model; its engine's profile takes the place of the export's axes.
    seed : int
        The same seed gives the same cases.
    count : int, optional
        How many cases: the first of the designed ones, then random sizes within the profile; with
        ``lengths``, the same sizes again with other numbers.
    lengths : sequence of int, optional
        Lengths in place of the designed ones, whatever they cost.
    """
    space = space_of(manifest)
    if lengths:
        space.check_lengths(lengths)
        chosen = _unique(_at_lengths(space, lengths))
        turns = (divmod(number, len(chosen)) for number in range(count or len(chosen)))
        again = (case_of(seed, *chosen[n], f" #{turn}" if turn else "") for turn, n in turns)
        return _held(space, "--lengths", again)
    taken, left_out = _within_budget(space, _unique(_designed(space)))
    cases = [case_of(seed, *one) for one in taken[:count]]
    if count is not None:
        cases += _random_cases(space, seed, count - len(cases))
    return _held(space, "the export's smallest sizes", cases, left_out)


def _held(
    space: Space, what: str, cases: Iterable[Case], left_out: Sequence[str] = ()
) -> Selection:
    """Return a selection whose inputs this machine can hold."""
    chosen = tuple(cases)
    for sizes in {tuple(case.sizes.items()) for case in chosen}:  # many cases, few sizes
        check_memory(what, elements_of(space.specs, dict(sizes)))
    return Selection(chosen, tuple(left_out))


def _designed(space: Space) -> Iterator[_Choice]:
    """Yield kinds and sizes, what tells most for its cost first.

    Positions beyond the tables take two keys at least: of one alone, attention is its value.
    """
    low, opt, high = space.at("min"), space.at("opt"), space.at("max")
    empty = [{**opt, name: 0} for name in space.lengths if space.axes[name].min == 0]
    for sizes in (opt, low, *empty):  # an empty cache, with one token and with a prompt
        yield from _every_kind(space, sizes)
    for sizes in space.broadcasts(space.with_length(high, _BROADCAST_LENGTH)):
        for kind in space.kinds:
            yield kind, sizes
    for sizes in (space.with_length(low, 2), space.with_length(high, _BROADCAST_LENGTH)):
        for options in space.broadcasts(sizes)[:1]:
            yield from ((kind, options) for kind in space.beyond)
    yield from _off_optimum(space, low, opt, high)
    if scores_of(space, high) <= _SCORES:
        yield from _every_kind(space, high)
        return
    yield from _every_kind(space, _shortened(space, high))
    smallest = {**high, **{name: space.axes[name].min for name in space.batches}}
    for sizes in (_shortened(space, smallest), smallest, high):
        yield from ((space.kinds[0], options) for options in space.broadcasts(sizes)[:1])


def _shortened(space: Space, sizes: Sizes) -> Sizes:
    """Return sizes with a length at which the scores of attention are few enough."""
    while scores_of(space, sizes) > _SCORES:
        longest = max(sizes[name] for name in space.lengths)
        shorter = space.with_length(sizes, max(1, longest // 2))
        if shorter == sizes:  # no axis may be shorter
            break
        sizes = shorter
    return sizes


def _off_optimum(space: Space, low: Sizes, opt: Sizes, high: Sizes) -> Iterator[_Choice]:
    """Yield lengths off the optimum, odd ones among them, batches and broadcasts taking turns."""
    near = [opt[n] + step for n in space.lengths[:1] for step in (-1, 1)]
    top = [high[n] - 1 for n in space.lengths[:1]]
    turns, kinds = cycle((low, high, opt)), cycle(space.kinds)
    for turn, length in enumerate((*_OFF_LENGTHS, *near, *top)):
        sizes = space.with_length(next(turns), length)
        options = space.broadcasts(sizes)
        if not options:
            continue
        if _is_cheap(space, options[0]):
            yield from _in_turn(space, options, turn)
        else:
            smallest = space.broadcasts(space.with_length(low, length)) or options
            yield next(kinds), smallest[turn % len(smallest)]


def _is_cheap(space: Space, sizes: Sizes) -> bool:
    cheap = work_of(space.specs, sizes) <= _CHEAP
    return cheap and scores_of(space, sizes) <= _CHEAP_SCORES


def _every_kind(space: Space, sizes: Sizes) -> Iterator[_Choice]:
    """Yield each kind at a corner; at a costly one the further kinds at the smallest batch."""
    low = {**sizes, **{name: space.axes[name].min for name in space.batches}}
    for number, kind in enumerate(space.kinds):
        corner = space.broadcasts(sizes)
        costly = bool(corner) and not _is_cheap(space, corner[0])
        options = space.broadcasts(low) if number and costly else corner
        if options:
            yield kind, options[0]


def _at_lengths(space: Space, lengths: Sequence[int]) -> Iterator[_Choice]:
    for turn, length in enumerate(lengths):
        low, high = (
            space.broadcasts({**point, **dict.fromkeys(space.lengths, length)})
            for point in (space.at("min"), space.at("max"))
        )
        yield from (*_in_turn(space, low, turn), *_in_turn(space, high, turn))
        yield from ((kind, options) for kind in space.beyond for options in low[:1])


def _in_turn(space: Space, options: list[Sizes], turn: int) -> Iterator[_Choice]:
    """Yield each kind once, at one of the options after the other."""
    return zip(space.kinds, islice(cycle(options), turn, None), strict=False)


def _unique(choices: Iterator[_Choice]) -> list[_Choice]:
    return list({name_of(*choice): choice for choice in choices}.values())


def _within_budget(space: Space, choices: list[_Choice]) -> tuple[list[_Choice], list[str]]:
    spent, taken, left_out = 0.0, [], []
    for choice in choices:
        work = work_of(space.specs, choice[1])
        too_many = scores_of(space, choice[1]) > _MOST_SCORES
        if too_many or work > CASE_BUDGET or spent + work > BUDGET:
            left_out.append(name_of(*choice))
            continue
        spent += work
        taken.append(choice)
    return taken, left_out


def _random_cases(space: Space, seed: int, count: int) -> Iterator[Case]:
    """Yield cases of random sizes, small ones as often as large ones, each within its share."""
    rng = np.random.default_rng(seed)
    share = max(_CHEAP, BUDGET / max(1, count))
    for number in range(count):
        kind = space.kinds[number % len(space.kinds)]
        yield case_of(seed, kind, _random_sizes(space, rng, share), f" #{number}")


def _random_sizes(space: Space, rng: np.random.Generator, share: float) -> Sizes:
    """Draw sizes whose work is within ``share``; the smallest ones where draws find none."""
    low, high = space.at("min"), space.at("max")
    for _ in range(_DRAWS):
        # half a row, rounded down, is none
        logs = {n: rng.uniform(np.log(low[n] or 0.5), np.log(high[n] + 1)) for n in low}
        options = space.broadcasts({name: int(np.exp(log)) for name, log in logs.items()})
        within = scores_of(space, options[0]) <= _SCORES if options else False
        if within and work_of(space.specs, options[0]) <= share:
            return options[int(rng.integers(len(options)))]
    return space.broadcasts(low)[0]


def case_of(seed: int, kind: Kind, sizes: Sizes, suffix: str = "") -> Case:
    """Return a case with the name and the seed that its sizes give it."""
    name = name_of(kind, sizes) + suffix
    return Case(name, kind, sizes, zlib.crc32(f"{seed} {name}".encode()))


def name_of(kind: Kind, sizes: Sizes) -> str:
    """Return what a case is called."""
    return f"{kind} {','.join(f'{name}={size}' for name, size in sizes.items())}"
