"""The inputs that a contender goes round: sets of one size, each made once."""

from __future__ import annotations

from functools import cached_property

from ropeexport.manifest import Manifest
from ropeexport.parity.cases import Case
from ropeexport.parity.inputs import make_inputs
from ropeexport.parity.space import Sizes, space_of
from ropeexport.runners.arrays import Arrays


class InputSets:
    """Sets of inputs of a model at one size, of the first kind that ``check`` tries.

    Parameters
    ----------
    record : Manifest
        Of the model.
    sizes : dict of str to int
        Of its axes.
    seed : int
        Of the first set.
    """

    def __init__(self, record: Manifest, sizes: Sizes, seed: int) -> None:
        self._record = record
        self._sizes = sizes
        self._seed = seed
        self._made: dict[int, Arrays] = {}

    def __getitem__(self, number: int) -> Arrays:
        """Return a set by its number."""
        if number not in self._made:
            kind = space_of(self._record).kinds[0]
            case = Case("bench", kind, self._sizes, self._seed + number)
            self._made[number] = make_inputs(
                case, self._record.model.inputs, self._record.model.max_position
            )
        return self._made[number]

    @cached_property
    def set_bytes(self) -> int:
        """Size of a set."""
        return max(1, sum(x.nbytes for x in self[0].values()))
