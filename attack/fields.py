"""Edits of any field of an ONNX file, which stays readable as one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError

from attack.recipe import Edit


@dataclass(frozen=True)
class Place:
    """A field of a message, or one of a repeated field's values."""

    message: Any
    field: Any
    index: int | None

    @property
    def kind(self) -> str:
        """The message's type and the field's name."""
        return f"{self.message.DESCRIPTOR.name}.{self.field.name}"

    def get(self) -> Any:
        """Return the value."""
        value = getattr(self.message, self.field.name)
        return value if self.index is None else value[self.index]


def as_edit(change: Callable[[onnx.ModelProto, Edit], None]) -> Callable[[bytes, Edit], bytes]:
    """Return an edit of a file's bytes, made of a change of the model; some change nothing."""

    def edited(data: bytes, edit: Edit) -> bytes:
        try:
            model = onnx.load_model_from_string(data)
        except DecodeError:
            return data  # an edit before this one broke it
        try:
            change(model, edit)
            done: bytes = model.SerializeToString()
        except (DecodeError, EncodeError, RecursionError, ValueError):
            return data  # deeper than such a file may be, or of values that protobuf refuses
        return done

    return edited


def places(message: Any) -> Iterator[Place]:
    """Return all fields that have a value, inner messages' too."""
    for field, value in message.ListFields():
        parts = value if field.is_repeated else [value]
        for index, part in enumerate(parts):
            yield Place(message, field, index if field.is_repeated else None)
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                yield from places(part)


def chosen(model: Any, at: int, messages: bool | None = None) -> tuple[Place, int] | None:
    """Return a place and what is left of the number; each kind of field is as likely."""
    kinds = defaultdict(list)
    for place in places(model):
        if messages in (None, place.field.type == FieldDescriptor.TYPE_MESSAGE):
            kinds[place.kind].append(place)
    if not kinds:
        return None
    names = sorted(kinds)
    at, name = divmod(at, len(names))
    at, index = divmod(at, len(kinds[names[name]]))
    return kinds[names[name]][index], at


def set_field(model: onnx.ModelProto, edit: Edit) -> None:
    """Give a field another value of its type."""
    if (found := chosen(model, edit.at, messages=False)) is None:
        return
    place, _ = found
    value = _fitting(place.field, edit.value)
    if place.index is None:
        setattr(place.message, place.field.name, value)
    else:
        getattr(place.message, place.field.name)[place.index] = value


def _fitting(field: Any, value: Any) -> Any:
    """Return a value in the field's type."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return str(value).encode("utf-8", "replace").decode()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return str(value).encode("utf-8", "replace")
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return float(len(value)) if isinstance(value, str) else float(value)
    number = len(value) if isinstance(value, str) else value
    if isinstance(number, float):
        number = int(max(-1e30, min(1e30, number))) if math.isfinite(number) else 0
    number = max(-(2**63), min(2**63 - 1, number))
    if field.type == FieldDescriptor.TYPE_ENUM and field.enum_type.is_closed:
        known = field.enum_type.values  # protobuf sets no other
        return int(known[number % len(known)].number)
    if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM):
        return max(-(2**31), min(2**31 - 1, number)) if abs(number) < 2**40 else number % 32
    return number % (1 << 64) if field.type == FieldDescriptor.TYPE_UINT64 else number


def drop(model: onnx.ModelProto, edit: Edit) -> None:
    """Clear a field, or remove one of its values."""
    if (found := chosen(model, edit.at)) is None:
        return
    place, _ = found
    if place.index is None:
        place.message.ClearField(place.field.name)
    else:
        del getattr(place.message, place.field.name)[place.index]


def twice(model: onnx.ModelProto, edit: Edit) -> None:
    """Let a repeated field have a value once more."""
    if (found := chosen(model, edit.at)) is None or found[0].index is None:
        return
    place, _ = found
    getattr(place.message, place.field.name).append(place.get())


def splice(model: onnx.ModelProto, edit: Edit) -> None:
    """Put a message where another of its type was."""
    if (found := chosen(model, edit.at, messages=True)) is None:
        return
    place, at = found
    same = [
        other
        for other in places(model)
        if other.field.type == FieldDescriptor.TYPE_MESSAGE
        and other.field.message_type is place.field.message_type
    ]
    copy = type(place.get())()
    copy.CopyFrom(same[at % len(same)].get())
    place.get().CopyFrom(copy)
