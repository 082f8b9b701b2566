"""Inputs and outputs of a run in NumPy's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ropeexport import atomic, targets
from ropeexport.dtypes import held_in
from ropeexport.errors import UsageError
from ropeexport.manifest import TensorSpec
from ropeexport.numpy_files import read_arrays
from ropeexport.runners.runner import Array

_SUFFIXES = (".npy", ".npz")


def read_inputs(given: Sequence[str], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return arrays by the names of inputs.

    Parameters
    ----------
    given : sequence of str
        ``NAME=FILE.npy``, or ``FILE.npz`` with arrays by name.
    specs : sequence of TensorSpec
        Of the inputs that there are.

    Raises
    ------
    UsageError
        For a file that has no arrays, or an array that is no input.
    """
    known = {spec.name: spec.dtype for spec in specs}
    arrays: dict[str, Array] = {}
    for text in given:
        name, equals, path = text.rpartition("=")
        content = _read(Path(path))
        named = {name: content} if isinstance(content, np.ndarray) else content
        if bool(equals) is not isinstance(content, np.ndarray):
            raise UsageError(
                f"input: expected NAME=FILE.npy or FILE.npz, got {text!r}", code="RX110"
            )
        arrays.update(named)
    unknown = next((name for name in arrays if name not in known), None)
    if unknown is not None:
        raise UsageError(
            f"input: {unknown!r}: no input of the file, which has {', '.join(known)}", code="RX605"
        )
    return {name: held_in(array, known[name]) for name, array in arrays.items()}


def _read(path: Path) -> Any:
    if path.suffix not in _SUFFIXES or not path.exists():
        raise UsageError(
            f"input: expected a .npy or .npz file that is there, got {str(path)!r}", code="RX618"
        )
    return read_arrays(path)


def check_output(path: Path, force: bool, inputs: Sequence[str] = ()) -> None:
    """Raise :class:`UsageError` unless outputs can be written there: before anything runs."""
    if path.suffix != ".npz":
        raise UsageError(f"output: expected FILE.npz, got {str(path)!r}", code="RX110")
    atomic.refuse_existing(path, force)
    targets.check(path, "output", *(Path(text.rpartition("=")[2]) for text in inputs))


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write arrays by name into an ``.npz`` file, bfloat16 as its bits."""
    with targets.writing(path) as file:
        save: Any = np.savez  # whose own arguments an output's name may be
        save(file, **outputs)


def summary(array: Array) -> str:
    """Return what an array is, and how its numbers lie, in a line."""
    line = f"{array.dtype!s:9} {array.shape}"
    if not array.size or array.dtype.kind not in "fiuV":
        return line
    wide = array.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    if finite.size:
        low, high, mean = finite.min(), finite.max(), finite.mean()
        line += f"  min {low:.6g}  max {high:.6g}  mean {mean:.6g}"
    lost = wide.size - finite.size
    return line + (f"  {lost} of {wide.size} are not finite" if lost else "")
