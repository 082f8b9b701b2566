"""Tensors where a case wants them: beside an aligned address, in a layout, between guards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case
from benchmarks.gpu.kernel import Launch

_GUARD = 256  # elements before and behind an output, which keep an offset's alignment
_MARK = -7.0  # no NaN: a NaN left from before would pass for a result


@dataclass(frozen=True)
class Room:
    """An output between guards."""

    whole: Tensor
    inside: Tensor
    start: int

    def clear(self) -> None:
        """Mark every element as not written."""
        self.whole.fill_(_MARK)

    def guards_hold(self) -> bool:
        """Say whether nothing was written beside the output."""
        end = self.start + self.inside.numel()
        return bool((self.whole[: self.start] == _MARK).all() & (self.whole[end:] == _MARK).all())


@dataclass(frozen=True)
class Placed:
    """A case in a device's memory."""

    launch: Launch
    rooms: tuple[Room, Room]

    def clear(self) -> None:
        """Mark every output as not written."""
        for room in self.rooms:
            room.clear()


def place(case: Case, device: torch.device, in_place: bool = False) -> Placed:
    """Copy a case to a device; ``in_place``: its outputs are its inputs."""
    q_room, k_room = (_room(x, case, device) for x in (case.q, case.k))
    q, k = (_input(x, case, device) for x in (case.q, case.k))
    out = (q_room.inside, k_room.inside)
    placed = Placed(
        Launch(*(out if in_place else (q, k)), _shifted(case.pe, case, device), out),
        (q_room, k_room),
    )
    placed.clear()
    if in_place:
        for room, x in zip(out, (q, k), strict=True):
            room.copy_(x)
    return placed


def _input(x: Tensor, case: Case, device: torch.device) -> Tensor:
    if case.layout == "BLHD":
        return _shifted(x.transpose(1, 2), case, device).transpose(1, 2)
    return _shifted(x, case, device)


def _shifted(x: Tensor, case: Case, device: torch.device) -> Tensor:
    room = torch.empty(x.numel() + case.offset, dtype=x.dtype, device=device)
    return room[case.offset :].view(x.shape).copy_(x)


def _room(x: Tensor, case: Case, device: torch.device) -> Room:
    start = _GUARD + case.offset
    whole = torch.empty(start + x.numel() + _GUARD, dtype=x.dtype, device=device)
    inside = whole[start : start + x.numel()]
    if case.layout == "BLHD":
        return Room(whole, inside.view(x.transpose(1, 2).shape).transpose(1, 2), start)
    return Room(whole, inside.view(x.shape), start)
