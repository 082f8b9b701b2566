"""The processes of a benchmark: contenders that take turns, and one for each file that is made.

A contender that waits is stopped, so that the spinning threads of one runtime do not slow down
another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ropeexport.bench.messages import Made, MakeFile, Ready, RunOnce, RunTurn, Saved, SetUp, Turn
from ropeexport.child_process import Answer, Child, UnforeseenError
from ropeexport.dtypes import numpy_type
from ropeexport.errors import MissingError, RopeExportError, first_line
from ropeexport.manifest import Record
from ropeexport.parity.space import Sizes

_CONTENDER, _PREPARE = "ropeexport.bench.worker", "ropeexport.bench.prepare"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ContenderError(RopeExportError):
    """A contender cannot go on: its own failure, or something that it lacks."""

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
