"""The processes of a benchmark: contenders that take turns, and one for each file that is made.

What they are asked and answer is here too, see :mod:`ropeexport.child_process`.  A contender that
waits is stopped, so that the spinning threads of one runtime do not slow down another.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from ropeexport.bench.contenders import Setting
from ropeexport.child_process import Answer, Child, UnforeseenError
from ropeexport.dtypes import numpy_type
from ropeexport.errors import MissingError, RopeExportError, first_line
from ropeexport.manifest import Record
from ropeexport.parity.cases import Sizes

_CONTENDER, _PREPARE = "ropeexport.bench.worker", "ropeexport.bench.prepare"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


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


class ContenderError(RopeExportError):
    """A contender cannot go on: its own failure, or something that it lacks."""

    code = "RX709"

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


class Process(Child):
    """A contender's process, stopped between its turns.

    Parameters
    ----------
    order : SetUp
        What is set up, and where its outputs are saved.
    """

    def __init__(self, order: SetUp) -> None:
        self._order = order
        threads = str(order.setting.threads)
        super().__init__(_CONTENDER, os.environ | dict.fromkeys(_THREADS, threads))

    def ready(self) -> float:
        """Wait until it is set up; return the seconds of that, its first run included."""
        return self._answer(self._order, Ready).load_seconds

    def turn(self, sizes: Sizes, repeats: int) -> Turn:
        """Run so often and return the figures."""
        return self._answer(RunTurn(sizes=sizes, repeats=repeats), Turn)

    def run_at(self, sizes: Sizes, dtypes: dict[str, str]) -> dict[str, NDArray[np.generic]]:
        """Run once and return the outputs."""
        self._answer(RunOnce(sizes=sizes, outputs=self._order.outputs), Saved)
        return self.outputs(dtypes)

    def outputs(self, dtypes: dict[str, str]) -> dict[str, NDArray[np.generic]]:
        """Return what it saved last: at first, what it computed when it was set up."""
        with np.load(self._order.outputs) as saved:
            found = {name: saved[name] for name in saved.files}
        bits = [name for name, x in found.items() if x.dtype.kind == "V"]  # of no type of NumPy's
        return found | {name: found[name].view(numpy_type(dtypes[name])) for name in bits}

    def _answer(self, request: Record, answer: type[Answer]) -> Answer:
        self.resume()
        with _contenders_own():
            found = self.ask(request, answer)
        self.pause()
        return found


def make(order: MakeFile) -> Made:
    """Make a file.

    Raises
    ------
    ContenderError
        With the reason, where it cannot be made.
    """
    with _contenders_own(f"{order.kind} cannot be made: "), Child(_PREPARE) as child:
        return child.ask(order, Made)


@contextmanager
def _contenders_own(what: str = "") -> Iterator[None]:
    """Turn a child's failure into one of its contender, which is a line of the table."""
    try:
        yield
    except UnforeseenError as error:
        raise ContenderError(what + first_line(error)) from error
    except RopeExportError as error:
        raise ContenderError(f"{what}{error}", missing=isinstance(error, MissingError)) from error
