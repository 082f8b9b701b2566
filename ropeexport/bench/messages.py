"""What a benchmark's processes are asked and answer, see :mod:`ropeexport.child_process`."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import ConfigDict

from ropeexport.bench.contenders.contender import Setting
from ropeexport.manifest import Record
from ropeexport.parity.space import Sizes


class MakeFile(Record):
    """Make one file of a run: ``kind`` is its name among those prepared.

    Engines take all ``sizes`` and are tuned for the last.
    """

    kind: str
    setting: Setting
    sizes: tuple[Sizes, ...]


class Made(Record):
    """A file was made: the seconds that it took, at first and again, and what made it.

    ``again_seconds`` is of another build with a timing cache; None: of one that keeps none.
    """

    seconds: float
    version: str = ""
    again_seconds: float | None = None


class SetUp(Record):
    """Set a contender up, run it once at some sizes, and save its outputs."""

    contender: str
    setting: Setting
    seed: int
    sizes: Sizes
    outputs: Path


class Ready(Record):
    """A contender is set up; the seconds of that, its first run included."""

    load_seconds: float


class RunTurn(Record):
    """Run so often, over inputs that rotate."""

    sizes: Sizes
    repeats: int


class Turn(Record):
    """A contender's turn.

    Parameters
    ----------
    seconds : tuple of float
        Of a run; on a GPU, of a call in each stretch.
    peak_mb : float
        The process's largest resident memory so far.
    launch_seconds : float or None
        What the host takes to enqueue a call; on a GPU only.
    gpu_peak_mb : float or None
        The most of the GPU's memory that the process held at the end of a turn so far.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    seconds: tuple[float, ...]
    peak_mb: float = math.nan
    launch_seconds: float | None = None
    gpu_peak_mb: float | None = None


class RunOnce(Record):
    """Run once, untimed, and save the outputs."""

    sizes: Sizes
    outputs: Path


class Saved(Record):
    """Outputs were saved."""
