"""Saved arrays in a runner's place: what somebody else computed, on another machine or day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ropeexport.dtypes import numpy_type
from ropeexport.errors import UsageError
from ropeexport.manifest import TensorSpec
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.runner import Facts, Runner

Specs = tuple[TensorSpec, ...]


class SavedRunner(Runner):
    """Returns arrays that were saved, whatever it is given.

    Parameters
    ----------
    outputs : mapping of str to ndarray
        By name.
    """

    facts = Facts(implementation=("saved arrays",))

    def __init__(self, outputs: Arrays) -> None:
        self._outputs = dict(outputs)

    def call(self, loaded: Arrays) -> Arrays:
        """Return the outputs."""
        return self._outputs


def load(path: Path, inputs: Specs, outputs: Specs) -> tuple[Arrays, Arrays]:
    """Read the inputs and outputs of one run from an ``.npz`` file, each in its own type.

    NumPy has no bfloat16 of its own: such an array may be saved as its bits, or in a wider type
    that holds its very values.

    Raises
    ------
    UsageError
        Where the file is not of arrays, or lacks an input.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: expected arrays as numpy.savez writes them: {error}") from error
    missing = [spec.name for spec in inputs if spec.name not in held]
    if missing:
        raise UsageError(
            f"{path}: expected every input of the model by name, lacks {', '.join(missing)}; "
            f"it holds {', '.join(held) or 'nothing'}"
        )
    return _typed(held, inputs), _typed(held, outputs)


def _typed(held: dict[str, NDArray[np.generic]], specs: Specs) -> Arrays:
    return {spec.name: _as(held[spec.name], spec.dtype) for spec in specs if spec.name in held}


def _as(array: NDArray[np.generic], dtype: str) -> NDArray[np.generic]:
    """Return an array in ``dtype`` if it holds such values, else as it is."""
    wanted = numpy_type(dtype)
    if array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:
        return array.view(wanted)
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = array.astype(wanted)
        same = np.array_equal(narrow.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")
    return narrow if same else array
