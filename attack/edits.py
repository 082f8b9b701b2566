"""Edits of files: each takes a file's bytes, a place and a value, and returns other bytes."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attack import protos
from attack.recipe import Edit

SMALL = 1 << 26  # bytes
Place = tuple[Any, Any]  # a container, and a key or index


def apply(edit: Edit, folder: Path) -> None:
    """Do an edit in a folder; one that finds nothing to change changes nothing."""
    path = folder / edit.file
    if edit.how in FILES:
        FILES[edit.how](path, edit)
    elif small(path):
        path.write_bytes(EDITS[edit.how](path.read_bytes(), edit))


def small(path: Path) -> bool:
    """Say whether a path is a file that the attacks themselves may read whole."""
    return path.is_file() and path.stat().st_size <= SMALL


# JSON

_MANY = 20_000  # elements of a list that is made long


def _json(data: bytes, edit: Edit) -> bytes:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return data  # an edit before this one broke it
    return json.dumps(changed_tree(tree, edit)).encode()


def changed_tree(tree: Any, edit: Edit) -> Any:
    """Return a JSON tree with one place of it changed; ``value`` is what to do and a value."""
    what, value = edit.value
    root = [tree]
    places = list(_places(root, 0))
    holder, key = places[edit.at % len(places)]
    other, other_key = places[(edit.at // len(places)) % len(places)]
    here = holder[key]
    if what == "set":
        holder[key] = value
    elif what == "like":
        holder[key] = _like(here, value, other[other_key], edit.at)
    elif what == "drop" and holder is not root:
        del holder[key]
    elif what == "copy":
        holder[key] = json.loads(json.dumps(other[other_key]))
    elif what == "add" and isinstance(here, dict):
        here[str(value)] = 1
    elif what == "twice" and isinstance(here, list):
        here.extend(here[:1])
    elif what == "count" and isinstance(here, int | float):
        holder[key] = here + 1 if edit.at % 2 else -here
    elif what == "deep":
        holder[key] = _DEEP
    elif what == "many" and isinstance(here, list) and len(here) < _MANY:  # not of many
        holder[key] = (here or [value]) * _MANY
    return root[0]


def _like(here: Any, value: Any, other: Any, at: int) -> Any:
    """Return a value of the same type, which a schema lets pass."""
    like: Any = value if here is None else here
    if isinstance(here, bool):
        like = not here
    elif isinstance(here, int):
        like = value if isinstance(value, int) else len(str(value)) - 3
    elif isinstance(here, float):
        like = value if isinstance(value, float) else float(len(str(value)))
    elif isinstance(here, str):
        like = other if isinstance(other, str) else str(value)
    elif isinstance(here, list):
        like = (here[::-1], here[1:], here + here, here[: at % (len(here) + 1)])[at % 4]
    elif isinstance(here, dict) and here:
        gone = sorted(here)[at % len(here)]
        like = {name: part for name, part in here.items() if name != gone}
    return like


_DEEP = "\N{BULLET}deep"


def _places(holder: Any, key: Any) -> Iterator[Place]:
    yield holder, key
    below = holder[key]
    keys = below if isinstance(below, dict) else range(len(below) if isinstance(below, list) else 0)
    for inner in list(keys):
        yield from _places(below, inner)


def _json_edit(data: bytes, edit: Edit) -> bytes:
    deep = json.dumps(_DEEP).encode()
    return _json(data, edit).replace(deep, b"[" * 50_000 + b"]" * 50_000)


# bytes


def _cut(data: bytes, edit: Edit) -> bytes:
    return data[: edit.at % (len(data) + 1)]


def _flip(data: bytes, edit: Edit) -> bytes:
    changed = bytearray(data)
    for index, byte in enumerate(edit.value):
        if changed:
            changed[(edit.at * (index + 1)) % len(changed)] ^= byte or 1
    return bytes(changed)


def _replaced(data: bytes, edit: Edit) -> bytes:
    return str(edit.value).encode("utf-8", "surrogateescape")


def _encoded(data: bytes, edit: Edit) -> bytes:
    names = ("utf-16", "utf-8-sig", "utf-32")
    return data.decode(errors="replace").encode(names[edit.at % len(names)])


# safetensors: eight bytes with the length of a header in JSON, the header, the data


def _header(data: bytes, edit: Edit) -> bytes:
    size = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    header = _json_edit(data[8 : 8 + size], edit)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _header_length(data: bytes, edit: Edit) -> bytes:
    return struct.pack("<Q", edit.value % (1 << 64)) + data[8:]


# NumPy's files

_TYPES = (
    "O", "c16", "c8", "V3", "S4", "U3", "?", "f2", "f8", "i1", "u8", "M8[s]", "m8", "i8", ">f4",
    [("a", "f4"), ("b", "i2")],
)  # fmt: skip


def _npz_array(data: bytes, edit: Edit) -> bytes:
    """Replace one array by one of another type or shape."""
    import numpy as np

    shape, fill = edit.value
    members = _members(data)
    if not members:
        return data
    name = sorted(members)[edit.at % len(members)]
    array = np.zeros(tuple(shape), np.dtype(_TYPES[edit.at // 7 % len(_TYPES)]))  # type: ignore[call-overload]
    if array.dtype.kind in "fc" and array.size:
        with np.errstate(over="ignore"):
            array.flat[0] = fill
    members[name] = _npy(array)
    return _zipped(members)


def _npz_member(data: bytes, edit: Edit) -> bytes:
    """Drop, rename, cut or add a member, or edit the header of one."""
    what, value = edit.value
    members = _members(data)
    if not members:
        return data
    name = sorted(members)[edit.at % len(members)]
    inside = members.pop(name)
    if what == "rename":
        members[str(value)] = inside
    elif what == "cut":
        members[name] = inside[: edit.at % len(inside)]
    elif what == "add":
        members |= {name: inside, f"{value}.npy": inside}
    elif what == "header":
        members[name] = _npy_header(inside, edit)
    return _zipped(members)


def _npy_header(data: bytes, edit: Edit) -> bytes:
    """Write another shape, type or text into the header of an array."""
    value = edit.value[1] if isinstance(edit.value, list | tuple) else edit.value
    headers = (
        {"descr": "<f4", "fortran_order": False, "shape": (value,)},
        {"descr": str(value), "fortran_order": False, "shape": (1,)},
        {"descr": "<f4", "fortran_order": value, "shape": (2, 2)},
        {"descr": "|O", "fortran_order": False, "shape": (1,)},
        {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)},
        {"descr": "<f4", "shape": ()},
        value,
    )
    text = repr(headers[edit.at % len(headers)]).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 65535)) + text + data[128:]


def _members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return {}  # an edit before this one broke it


def _zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, inside in members.items():
            archive.writestr(name.partition("\0")[0] or "_", inside)  # where zipfile ends a name
    return file.getvalue()


def _npy(array: Any) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


# what is no regular file


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)


def _socket(path: Path) -> None:
    former = Path.cwd()
    os.chdir(path.parent)  # its path may be longer than a socket's may be
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(former)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 << 30)


def _link(target: str) -> Callable[[Path, Edit], None]:
    return lambda path, _: _instead(path, lambda place: place.symlink_to(target))


EDITS: dict[str, Callable[[bytes, Edit], bytes]] = {
    "json": _json_edit,
    "cut": _cut,
    "flip": _flip,
    "replace": _replaced,
    "encode": _encoded,
    "header": _header,
    "header length": _header_length,
    "npz array": _npz_array,
    "npz member": _npz_member,
    "npy header": _npy_header,
    **protos.EDITS,
}
FILES: dict[str, Callable[[Path, Edit], None]] = {
    "fifo": lambda path, _: _instead(path, os.mkfifo),
    "folder": lambda path, _: _instead(path, Path.mkdir),
    "socket": lambda path, _: _instead(path, _socket),
    "empty": lambda path, _: _instead(path, Path.touch),
    "missing": lambda path, _: _instead(path, lambda _: None),
    "huge": lambda path, _: _instead(path, _sparse),
    "dangling link": _link("nowhere"),
    "link to itself": _link("."),
    "link out": _link("/etc/hostname"),
    "text": lambda path, edit: _instead(
        path, lambda place: place.write_bytes(str(edit.value).encode(errors="replace"))
    ),
}
