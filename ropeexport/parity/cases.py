"""The cases of a parity run: the profile's corners, lengths off the optimum, broadcasts.

Chosen from the manifest alone.  A case is a name, a kind, sizes and a seed; its arrays are made on
demand, see :mod:`ropeexport.parity.inputs`.  Cases are in order of what they tell for their cost,
and those that would break the budget are left out by name.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product

import numpy as np

from ropeexport.errors import UsageError
from ropeexport.manifest import Manifest
from ropeexport.parity.space import Kind, Sizes, Space, scores_of, space_of, work_of

# Multiply-adds.  Two CPU cores run oracle, perturbed oracle, eager and onnxruntime at about 5e9/s.
_BUDGET = 5e11
_CASE_BUDGET = 1.5e11
_CHEAP = 2e9  # a case of any kind, rather than of one kind in turn
# Batch times length squared: scores of one head, which a module that writes them out keeps in
# float64.  Beyond 134 MB a head the largest batch and the greatest length are checked apart, and
# beyond 537 MB a case is left out.
_SCORES = 1 << 24
_MOST_SCORES = 1 << 26
_CHEAP_SCORES = 1 << 22

_OFF_LENGTHS = (1, 2, 3, 7, 17, 64, 65, 129, 333)
_BROADCAST_LENGTH = 19
_DRAWS = 64


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
    manifest: Manifest,
    seed: int = 0,
    count: int | None = None,
    lengths: Sequence[int] | None = None,
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
        _check_lengths(space, lengths)
        chosen = _unique(_at_lengths(space, lengths))
        return Selection(tuple(_again_and_again(seed, chosen, count or len(chosen))))
    taken, left_out = _within_budget(space, _unique(_designed(space)))
    if count is None:
        return Selection(tuple(_case(seed, *one) for one in taken), tuple(left_out))
    cases = [_case(seed, *one) for one in taken[:count]]
    cases += _random_cases(space, seed, count - len(cases))
    return Selection(tuple(cases), tuple(left_out))


_Choice = tuple[Kind, Sizes]


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
        if longest <= 1:
            break
        sizes = space.with_length(sizes, longest // 2)
        if max(sizes[name] for name in space.lengths) == longest:  # no axis may be shorter
            break
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
            for step, kind in enumerate(space.kinds):
                yield kind, options[(turn + step) % len(options)]
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
        for point in (space.at("min"), space.at("max")):
            sizes = {**point, **dict.fromkeys(space.lengths, length)}
            for step, kind in enumerate(space.kinds):
                options = space.broadcasts(sizes)
                if options:
                    yield kind, options[(turn + step) % len(options)]
        smallest = space.broadcasts({**space.at("min"), **dict.fromkeys(space.lengths, length)})
        yield from ((kind, options) for kind in space.beyond for options in smallest[:1])


def _again_and_again(seed: int, choices: Sequence[_Choice], count: int) -> Iterator[Case]:
    """Yield ``count`` cases of the choices in turn, each time from another seed."""
    for number in range(count):
        again, place = divmod(number, len(choices))
        yield _case(seed, *choices[place], f" #{again}" if again else "")


def _check_lengths(space: Space, lengths: Sequence[int]) -> None:
    for length, name in product(lengths, space.lengths):
        axis = space.axes[name]
        if not axis.min <= length <= axis.max:
            raise UsageError(
                f"--lengths: axis {name!r}: expected {axis.min} to {axis.max}, got {length}"
            )


def _unique(choices: Iterator[_Choice]) -> list[_Choice]:
    return list({_name(*choice): choice for choice in choices}.values())


def _within_budget(space: Space, choices: list[_Choice]) -> tuple[list[_Choice], list[str]]:
    spent, taken, left_out = 0.0, [], []
    for choice in choices:
        work = work_of(space.specs, choice[1])
        too_many = scores_of(space, choice[1]) > _MOST_SCORES
        if too_many or work > _CASE_BUDGET or spent + work > _BUDGET:
            left_out.append(_name(*choice))
            continue
        spent += work
        taken.append(choice)
    return taken, left_out


def _random_cases(space: Space, seed: int, count: int) -> Iterator[Case]:
    """Yield cases of random sizes, small ones as often as large ones, each within its share."""
    rng = np.random.default_rng(seed)
    share = max(_CHEAP, _BUDGET / max(1, count))
    for number in range(count):
        kind = space.kinds[number % len(space.kinds)]
        sizes = _random_sizes(space, rng, share)
        yield _case(seed, kind, sizes, f" #{number}")


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


def _case(seed: int, kind: Kind, sizes: Sizes, suffix: str = "") -> Case:
    name = _name(kind, sizes) + suffix
    return Case(name, kind, sizes, zlib.crc32(f"{seed} {name}".encode()))


def _name(kind: Kind, sizes: Sizes) -> str:
    return f"{kind} {','.join(f'{name}={size}' for name, size in sizes.items())}"
