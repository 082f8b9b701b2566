"""What a contender is: its name, what it is made of, and what runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ropeexport.artifact import Artifact
from ropeexport.manifest import ENGINE_NAME
from ropeexport.models.held import Held
from ropeexport.runners.registry import Device
from ropeexport.runners.runner import Runner

PLAIN, WITHOUT_ROPE, OPTIMISED, INLINED, OPTIMUM = (
    "plain.onnx", "without_rope.onnx", "optimised.onnx", "inlined.onnx", "optimum.onnx",
)  # fmt: skip


def engine_file(made_of: str) -> str:
    """Return the prepared file of an engine: of an implementation, or of the plain export."""
    return f"{made_of}/{ENGINE_NAME}"


@dataclass(frozen=True)
class Setting:
    """What a contender is made of.

    Parameters
    ----------
    folder : Path
        The output folder.
    prepared : Path
        The folder of the files that were made for the run.
    module : str, Held or None
        The factory to import where the model is the user's own code, or what they hold of it.
    threads : int
        For the runtime's own pool.
    device : str
        ``cpu`` or ``cuda``.
    """

    folder: Path
    prepared: Path
    module: str | Held | None
    threads: int
    device: Device = "cpu"

    @cached_property
    def artifact(self) -> Artifact:
        """The output folder, read once."""
        return Artifact.read(self.folder)

    @property
    def outputs(self) -> list[str]:
        """Names of the model's outputs, in order."""
        return [spec.name for spec in self.artifact.manifest.model.outputs]


def _nothing(device: Device) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """How a contender is made: its name, its line in the table, and its function.

    Parameters
    ----------
    name, label : str
        For the command line and for the table.
    set_up : callable
        Returns its runner, entered, in its own process: what a user pays once is paid.
    files : tuple of str
        The prepared files that it needs, in the order in which they are made; the last is its own.
    needs : callable
        Raises :class:`ropeexport.errors.MissingError` where this machine, or the device, lacks
        something: before any file is made.
    floor : bool
        It computes less on purpose, and is timed without a parity check.
    """

    name: str
    label: str
    set_up: Callable[[Setting], Runner]
    files: tuple[str, ...] = ()
    needs: Callable[[Device], None] = _nothing
    floor: bool = False
