"""From the layout that a model rotates in to the op's (B, H, L, D), and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ropeexport.fusion.probe import NotRotaryError


@dataclass(frozen=True)
class Layout:
    """How ``x`` becomes (B, H, L, D): axes in another order, then axes of size 1 inserted.

    ``head_axis`` is the axis along which the tables, aligned with ``x``, have size 1; None where
    they have no such axis.  With ``per_head`` the tables differ from head to head, which only the
    matrices of ``ApplyRope`` can say.
    """

    rank: int
    order: tuple[int, ...]
    inserted: tuple[int, ...]
    head_axis: int | None
    per_head: bool = False

    @property
    def heads(self) -> int | None:
        """The axis of ``x`` that becomes H, or None where one is inserted."""
        place = 1 - sum(axis < 1 for axis in self.inserted)
        return None if 1 in self.inserted else self.order[place]

    @property
    def keeps_order(self) -> bool:
        """Say whether no axis moves."""
        return self.order == tuple(range(self.rank))

    @property
    def inverse_order(self) -> tuple[int, ...]:
        """The order that undoes ``order``."""
        return tuple(int(axis) for axis in np.argsort(self.order))


_BHLD = Layout(4, (0, 1, 2, 3), (), 1)
_PER_HEAD = Layout(4, (0, 1, 2, 3), (), None, per_head=True)
_BLHD = Layout(4, (0, 2, 1, 3), (), 2)
_BLD = Layout(3, (0, 1, 2), (1,), None)
_LHD = Layout(3, (1, 0, 2), (0,), 1)
_LD = Layout(2, (0, 1), (0, 1), None)


def layout_of(x_shape: Sequence[int], table_shapes: Sequence[Sequence[int]]) -> Layout:
    """Return the layout that the tables' broadcast axes tell.

    Raises
    ------
    NotRotaryError
        Where ``x`` has another number of axes, or the tables other sizes.
    """
    rank = len(x_shape)
    lead = np.broadcast_shapes(*(tuple(shape) for shape in table_shapes))[:-1]
    known = (1,) * (rank - 1 - len(lead)) + lead
    if rank == 2:
        return _LD
    if rank == 3:
        return _LHD if known[1] == 1 != x_shape[1] else _BLD
    if rank == 4 and known[1] == 1 and known[2] == x_shape[2]:
        return _BHLD
    if rank == 4 and known[2] == 1 and known[1] == x_shape[1]:
        return _BLHD
    if rank == 4 and 1 not in known[1:3]:
        return _PER_HEAD
    raise NotRotaryError(f"its layout is none that the op knows: data {x_shape}, tables {known}")
