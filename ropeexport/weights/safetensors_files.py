"""Safetensors files: where each tensor lies, and whether a file is still what it was.

No tensor is read.  A safetensors file is 8 bytes (the header's length, little endian), the header
(JSON: name to type, shape and offsets), and the raw tensors.  Source: huggingface/safetensors,
README "Format".
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropeexport import atomic, reading
from ropeexport.dtypes import FLOATS
from ropeexport.errors import ModelFileError, first_line
from ropeexport.links import require_weights
from ropeexport.manifest import WeightFile, Weights

if TYPE_CHECKING:
    import onnx_ir as ir

SUFFIX = ".safetensors"
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: the file's name, the first byte and their number."""

    file: str
    dtype: str  # the format's name: F32, F16, BF16, ...
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class Header:
    """A file's header and what proves that the file is the same: its size and the header's hash."""

    size: int
    sha256: str
    places: dict[str, Place]


def find(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder, those that an index names where there is one."""
    indexes = sorted(folder.glob(f"*{SUFFIX}.index.json"))
    if not indexes:
        return tuple(sorted(folder.glob(f"*{SUFFIX}")))
    names = reading.read_json(indexes[0], ModelFileError).get("weight_map")
    files = set(map(str, names.values())) if isinstance(names, dict) else {""}
    odd = next(
        (name for name in sorted(files) if not name or Path(name).name != name or "\0" in name),
        None,
    )
    if odd is not None:
        raise ModelFileError(
            f"{indexes[0]}: not an index of safetensors files: expected 'weight_map' with names of "
            f"files in its folder, got {odd!r}",
            code="RX313",
        )
    return tuple(folder / name for name in sorted(files))


def read_places(folder: Path) -> dict[str, Place]:
    """Return the place of every tensor of a folder by name.

    Raises
    ------
    ModelFileError
        For a file that is missing, truncated, or none of the format.
    """
    places: dict[str, Place] = {}
    for path in find(folder):
        for name, place in read_header(path).places.items():
            if name in places:
                raise ModelFileError(
                    f"{folder}: {name} lies in {places[name].file} and in {place.file}; keep the "
                    "files of one variant in the folder, or their index",
                    code="RX314",
                )
            places[name] = place
    return places


def commonest_type(places: Mapping[str, Place]) -> str:
    """Return the type, by the format's name, that most bytes have."""
    sizes: Counter[str] = Counter()
    for place in places.values():
        sizes[place.dtype] += place.length
    return sizes.most_common(1)[0][0]


def read_header(path: Path) -> Header:
    """Read a file's header and check it against the file's size."""
    if not path.exists():
        raise ModelFileError(
            f"{path}: no such file: weights are read from it; bring it back", code="RX305"
        )
    reading.check_regular(path, ModelFileError)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        text = file.read(length) if length <= min(_LARGEST_HEADER, size) else b""
    start = _LENGTH_BYTES + length
    try:
        entries = json.loads(text, object_pairs_hook=_without_twins)
        entries.pop("__metadata__", None)
        places = {name: _place(path.name, start, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: not a safetensors file: its header is no JSON of tensors' places: "
            f"{first_line(error)}",
            code="RX313",
        ) from error
    end = max((place.offset + place.length for place in places.values()), default=start)
    if end != size:
        raise ModelFileError(
            f"{path}: expected {end} bytes, as its header says, got {size}: the file is truncated "
            "or altered; fetch it again",
            code="RX313",
        )
    return Header(size, hashlib.sha256(text).hexdigest(), places)


def _place(file: str, start: int, entry: dict[str, Any]) -> Place:
    begin, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    numbers = (begin, end, *shape)
    if not isinstance(dtype, str) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"expected a type, and whole numbers from 0 on, got {entry}")
    if begin > end:
        raise ValueError(f"expected an end behind {begin}, got {end}")
    return Place(file, dtype, shape, start + begin, end - begin)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; a name that is there twice would hide a tensor."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def onnx_type(place: Place) -> ir.DataType | None:
    """Return a tensor's type in an ONNX graph, where that has one."""
    import onnx_ir as ir

    others = {
        "I64": ir.DataType.INT64, "I32": ir.DataType.INT32, "I8": ir.DataType.INT8,
        "U8": ir.DataType.UINT8, "BOOL": ir.DataType.BOOL,
        "F8_E4M3": ir.DataType.FLOAT8E4M3FN, "F8_E5M2": ir.DataType.FLOAT8E5M2,
    }  # fmt: skip
    floats = {kind.safetensors: kind for kind in FLOATS}
    return floats[place.dtype].ir if place.dtype in floats else others.get(place.dtype)


def weight_file(path: Path, *, hashed: bool | None = None) -> WeightFile:
    """Return what tells whether a file is the same.

    Of a safetensors file that is its size and its header, and no tensor is read; of a data file of
    ours, which has no header, the hash of it all.  ``hashed`` says for either whether all of it is
    read and hashed.

    Raises
    ------
    ModelFileError
        For a file that is missing, or a safetensors file that is truncated.
    """
    is_ours = path.suffix != SUFFIX
    header = None if is_ours else read_header(path)
    if not path.is_file():
        raise ModelFileError(
            f"{path}: no such file: the model's weights lie in it; bring it back", code="RX305"
        )
    return WeightFile(
        file=path.name,
        size=path.stat().st_size,
        header_sha256=header.sha256 if header is not None else None,
        sha256=atomic.sha256_of(path) if (is_ours if hashed is None else hashed) else None,
    )


def hashed(weights: Weights, folder: Path) -> Weights:
    """Return the record of weights with each file's hash, for which all of it is read."""
    files = tuple(weight_file(folder / each.file, hashed=True) for each in weights.files)
    return weights.changed(files=files)


def check_weights(folder: Path, weights: Weights | None, *, hashed: bool | None = None) -> None:
    """Raise :class:`ModelFileError` for a weight file that is moved, truncated or altered.

    Parameters
    ----------
    folder : Path
        Where the files lie.
    weights : Weights or None
        What they were.
    hashed : bool, optional
        Whether each is hashed to its last byte; by default those that have no header.
    """
    for expected in weights.files if weights is not None else ():
        path = folder / expected.file
        require_weights(path, folder)
        if hashed and expected.sha256 is None:
            raise ModelFileError(
                f"{path}: expected its hash in the manifest, found none: export again with "
                "--hash-weights",
                code="RX315",
            )
        found = weight_file(path, hashed=hashed)
        kept = expected if found.sha256 else expected.changed(sha256=None)
        if found != kept:
            raise ModelFileError(
                f"{path}: not the file that the model was exported with: "
                f"expected {_text(expected)}, got {_text(found)}; bring it back or export again",
                code="RX315",
            )


def _text(file: WeightFile) -> str:
    known = {"hash": file.sha256, "header": file.header_sha256}
    digests = [f"{which} {value[:12]}…" for which, value in known.items() if value]
    return " and ".join([f"{file.size} bytes", *digests])


def copy_weights(source: Path, folder: Path) -> set[str]:
    """Copy the safetensors files of a folder into another, and return their names."""
    files = find(source)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    return {path.name for path in files}


def check_free(source: Path, folder: Path, force: bool) -> None:
    """Raise :class:`UsageError` where a copy would replace another file without ``force``.

    A file, or the link to it, may become a copy of its own.
    """
    for path in find(source):
        target = folder / path.name
        if not (target.exists() and target.samefile(path)):
            atomic.refuse_existing(target, force)
