"""What a module holds from one call to the next: kept, put back, and named where it has changed.

Buffers, parameters, attributes, and what lists, dicts and plain objects in attributes hold.  What
lies outside of a module (a global variable, a closure, a file) is out of reach.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Kept and compared at every run, so no more than what costs little beside the run itself
_MOST_BYTES = 1 << 24  # of parameters, and of tensors in attributes; buffers are kept whatever
_MOST_VALUES = 20_000

_Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]
_Array = Tensor | NDArray[Any]

_TORCHS_OWN = frozenset(vars(nn.Module())) - {"training"}
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
# Objects of these hold nothing of a module's, or (loggers) what the whole process shares
_NOT_ENTERED = frozenset(sys.stdlib_module_names) | {"torch"}


@dataclass(frozen=True)
class Place:
    """Where a value lies: ``buffer 'offset' of 'attn'``."""

    kind: str  # buffer, parameter or attribute
    name: str
    part: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" + (f" of {self.part!r}" if self.part else "")


@dataclass(frozen=True)
class _KeptArray:
    value: _Array
    kept: _Array
    place: Place

    def changes(self) -> list[Place]:
        return [] if _same(self.value, self.kept) else [self.place]

    def put_back(self, only: Place | None) -> None:
        value, kept = self.value, self.kept
        if only not in (None, self.place) or _same(value, kept):
            return
        if isinstance(value, np.ndarray):
            value[...] = kept
        elif isinstance(kept, Tensor) and value.shape == kept.shape:
            value.copy_(kept)
        elif isinstance(kept, Tensor):  # resized in place
            value.data = kept.clone()


@dataclass(frozen=True)
class _KeptContainer:
    value: _Container
    kept: _Container
    place: Place

    def changes(self) -> list[Place]:
        return [] if _has_same_items(self.value, self.kept) else [self.place]

    def put_back(self, only: Place | None) -> None:
        if only in (None, self.place) and not _has_same_items(self.value, self.kept):
            self.value.clear()
            if isinstance(self.value, dict | set):
                self.value.update(self.kept)
            else:
                self.value.extend(self.kept)


@dataclass(frozen=True)
class _KeptNames(_KeptContainer):
    """A module's own dictionary: each of its names has a place of its own."""

    value: dict[str, Any]
    kept: dict[str, Any]

    def places(self) -> dict[str, Place]:
        """Return those that the module's author gave, new ones and those that are gone included."""
        names = dict.fromkeys((*self.kept, *self.value))
        return {n: replace(self.place, name=n) for n in names if n not in _TORCHS_OWN}

    def changes(self) -> list[Place]:
        value, kept = self.value, self.kept
        return [
            place
            for name, place in self.places().items()
            if (name in value) != (name in kept) or _is_other(value.get(name), kept.get(name))
        ]

    def put_back(self, only: Place | None) -> None:
        if only is None:
            super().put_back(None)
        elif only != replace(self.place, name=only.name):
            return
        elif only.name in self.kept:
            self.value[only.name] = self.kept[only.name]
        else:
            self.value.pop(only.name, None)


@dataclass(frozen=True)
class _KeptHooks(_KeptContainer):
    """The hooks of a module, which a call may register, and say so in an attribute.

    They are put back whichever attribute is, or the next call would register them twice.  They are
    not reported as changes: no result is computed from them.
    """

    def changes(self) -> list[Place]:
        return []

    def put_back(self, only: Place | None) -> None:
        super().put_back(None)


_Kept = _KeptContainer | _KeptArray


class ModuleState:
    """The values that can be reached from a module, as they are when this is made.

    Parameters
    ----------
    module : nn.Module
        It keeps its own tensors; copies are taken of them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._kept: list[_Kept] = []
        # values, not ids alone: an id of what is gone may be another's
        self._seen: dict[int, object] = {id(part): part for part in module.modules()}
        self._bytes = 0
        for path, part in module.named_modules():
            self._keep_part(part, path)
        self._kept.sort(key=lambda each: isinstance(each, _KeptArray))  # containers come first

    @torch.no_grad()
    def restore(self, only: Place | None = None) -> None:
        """Put everything back in place, or what lies at one place alone."""
        for each in self._kept:
            each.put_back(only)

    def changes(self) -> list[Place]:
        """Return the places whose values are no longer what they were."""
        return list(dict.fromkeys(place for each in self._kept for place in each.changes()))

    def _keep_part(self, part: nn.Module, path: str) -> None:
        kinds = {"attribute": vars(part), "buffer": part._buffers, "parameter": part._parameters}
        for kind, values in kinds.items():
            names = _KeptNames(values, dict(values), Place(kind, "", path))
            self._kept.append(names)
            for name, place in names.places().items():
                self._keep(values[name], place)

        for name in _HOOKS:
            hooks = getattr(part, name)
            self._kept.append(_KeptHooks(hooks, dict(hooks), Place("attribute", name, path)))

    def _keep(self, value: object, place: Place) -> None:
        """Keep what can be changed in place, and what it holds."""
        if id(value) in self._seen or len(self._seen) > _MOST_VALUES:
            return
        if isinstance(value, Tensor | np.ndarray):
            self._seen[id(value)] = value
            self._keep_array(value, place)
            return
        container = _container_of(value)
        items = value if isinstance(value, tuple) else container
        if items is None:
            return
        self._seen[id(value)] = value
        if container is not None:
            self._kept.append(_KeptContainer(container, _copy_of(container), place))
        for item in list(items.values() if isinstance(items, dict) else items):
            self._keep(item, place)

    def _keep_array(self, value: _Array, place: Place) -> None:
        if not _is_plain(value):
            return
        if place.kind != "buffer":
            if self._bytes + value.nbytes > _MOST_BYTES:
                return
            self._bytes += value.nbytes
        kept = value.detach().clone() if isinstance(value, Tensor) else value.copy()
        self._kept.append(_KeptArray(value, kept, place))


def _container_of(value: object) -> _Container | None:
    """Return what can be changed of a value: a container itself, an object's attributes."""
    if isinstance(value, dict | list | set | deque):
        return value
    entered = type(value).__module__.split(".")[0] not in _NOT_ENTERED
    if entered and not isinstance(value, type) and hasattr(value, "__dict__"):
        return vars(value)
    return None


def _copy_of(container: _Container) -> _Container:
    """Return a copy, of a plain type whatever a class of the user's makes of copying."""
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _is_plain(value: _Array) -> bool:
    """Say whether an array has elements of its own to copy, which a fake or expanded one lacks."""
    if isinstance(value, np.ndarray):
        return value.dtype != object and value.flags.writeable
    if value.layout is not torch.strided or value.device.type == "meta":
        return False
    expanded = any(s == 0 and n > 1 for s, n in zip(value.stride(), value.shape, strict=True))
    return type(value) in (Tensor, nn.Parameter) and not expanded


def _same(one: _Array, other: _Array) -> bool:
    """Say whether two arrays hold the same values, NaN in the same places."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        a, b = np.asarray(one), np.asarray(other)
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    if one.shape != other.shape:
        return False
    if torch.equal(one, other):
        return True
    return one.is_floating_point() and bool(torch.isclose(one, other, 0.0, 0.0, True).all())


def _has_same_items(value: _Container, kept: _Container) -> bool:
    """Say whether a container holds the very objects that it held."""
    if len(value) != len(kept):
        return False
    if isinstance(value, dict) and isinstance(kept, dict):
        return all(name in kept and kept[name] is x for name, x in value.items())
    if isinstance(value, set):
        return value == kept
    return all(one is other for one, other in zip(value, kept, strict=True))


def _is_other(one: object, other: object) -> bool:
    """Say whether a name stands for another value; equal numbers and strings are the same."""
    plain = isinstance(one, bool | int | float | str) and type(one) is type(other)
    return one is not other and not (plain and one == other)
