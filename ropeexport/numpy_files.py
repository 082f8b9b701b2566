"""Arrays in NumPy's files, whose headers are believed only as far as the files go.

A header of a hundred bytes may claim 10^12 elements, and a compressed member may unpack to more
than the memory holds: what is claimed is compared with what is there before anything is read.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import UsageError
from ropeexport.reading import check_regular

Array = NDArray[Any]

_KINDS = "biufV"  # V: bits of a type that NumPy lacks
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# what the two libraries raise of damaged bytes
_FAULTS = (
    OSError, ValueError, EOFError, RuntimeError, TypeError, SyntaxError, MemoryError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_MOST_UNPACKED = 1 << 30  # bytes of compressed arrays; what lies there as it is has no bound


def read_arrays(path: Path) -> Array | dict[str, Array]:
    """Return the array of a ``.npy`` file, or the arrays of an ``.npz`` by name.

    Raises
    ------
    UsageError
        For another file, one that is cut, or arrays that are no numbers.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return _array(file, path.stat().st_size)
        return _members(path)
    except _FAULTS as error:
        said = str(error) or type(error).__name__
        raise UsageError(
            f"{path}: expected arrays as numpy.save and numpy.savez write them: {said}",
            code="RX618",
        ) from error


def _members(path: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as whole:
        packed = [each for each in whole.infolist() if each.compress_type != zipfile.ZIP_STORED]
        unpacked = sum(each.file_size for each in packed)
        if unpacked > _MOST_UNPACKED:
            raise ValueError(
                f"{unpacked:,} bytes when they are unpacked, at most {_MOST_UNPACKED:,} are; save "
                "them with numpy.savez"
            )
        for each in whole.infolist():
            name = each.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"{name} is there twice")
            with whole.open(each) as member:
                arrays[name] = _array(member, each.file_size)
    return arrays


def _array(file: IO[bytes], size: int) -> Array:
    """Read one array from a file of a size."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in _KINDS or dtype.names is not None or dtype.subdtype is not None:
        raise ValueError(f"its type is {dtype}")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != size - file.tell():
        raise ValueError(f"{size - file.tell()} bytes are no {shape} of {dtype}")
    flat = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C").copy()
