"""A module that the caller holds, handed to a process of its own, which takes no objects."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropeexport.errors import UsageError
from ropeexport.machine import require


@dataclass(frozen=True)
class Held:
    """A module, a factory or an example in a file, for another process of this machine.

    Parameters
    ----------
    file : Path
        Holds it with its weights.
    search_path : tuple of str
        Where the modules of its code are imported from; code of a script or a function's own is in
        the file.
    """

    file: Path
    search_path: tuple[str, ...]

    def taken(self) -> Any:
        """Return it, its tensors in the CPU's memory."""
        import torch

        sys.path += [place for place in self.search_path if place not in sys.path]
        try:
            return torch.load(self.file, map_location="cpu", weights_only=False)
        except Exception as error:  # its own code runs here
            raise UsageError(_refusal(error), code="RX120") from error


def handed_over(module: Any, file: Path) -> str | Held | None:
    """Write what the caller holds to a file; the reference of a factory, or nothing, is no object.

    Raises
    ------
    MissingError
        Without cloudpickle.
    UsageError
        Where it holds something that is of this process alone, such as a lock or an open file.
    """
    if module is None or isinstance(module, str):
        return module
    require("cloudpickle")
    import cloudpickle
    import torch

    try:
        torch.save(module, file, pickle_module=cloudpickle)
    except (pickle.PicklingError, TypeError, AttributeError, RuntimeError) as error:
        raise UsageError(_refusal(error), code="RX120") from error
    return Held(file, tuple(sys.path))


def _refusal(error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"module: expected one that pickles, for processes of their own ({reason}): pass a "
        "factory's reference, 'path/to/file.py:factory'"
    )
