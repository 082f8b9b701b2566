"""Contenders as processes that take turns.

One that waits is stopped (SIGSTOP), so that the spinning threads of one runtime do not slow down
another.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ropeexport.bench.turns import Turn
from ropeexport.dtypes import FOREIGN
from ropeexport.errors import RopeExportError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ContenderError(RopeExportError):
    """A contender cannot go on: its own failure, or something that it lacks."""

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


class Process:
    """A contender's process, stopped between its turns.

    Parameters
    ----------
    order : dict
        What :mod:`ropeexport.bench.worker` is asked for.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        threads = str(order["threads"])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ropeexport.bench.worker", json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | dict.fromkeys(_THREADS, threads),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, stopped or not, and give its memory back; a second time does nothing."""
        assert self._process.stdout is not None
        if not self._process.stdout.closed:
            self._process.kill()
            self._process.communicate()

    def ready(self) -> float:
        """Wait until it is set up; return the seconds of that, its first run included."""
        seconds = float(self._read()["load_seconds"])
        self._process.send_signal(signal.SIGSTOP)
        return seconds

    def turn(self, sizes: dict[str, int], repeats: int) -> Turn:
        """Run so often and return the figures."""
        return Turn(**self._ask({"sizes": sizes, "repeats": repeats}))

    def run_at(
        self, sizes: dict[str, int], dtypes: dict[str, str]
    ) -> dict[str, NDArray[np.generic]]:
        """Run once and return the outputs."""
        self._ask({"sizes": sizes, "outputs": self._order["outputs"]})
        return self.outputs(dtypes)

    def outputs(self, dtypes: dict[str, str]) -> dict[str, NDArray[np.generic]]:
        """Return what it saved last: at first, what it computed when it was set up."""
        with np.load(Path(self._order["outputs"])) as saved:
            found = {name: saved[name] for name in saved.files}
        kinds = {name: FOREIGN[dtype] for name, dtype in dtypes.items() if dtype in FOREIGN}
        return found | {n: found[n].view(kind.numpy) for n, kind in kinds.items() if n in found}

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # it was killed meanwhile; reading says so
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        answer = self._read()
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):  # nothing, or what a kill left of it
            raise ContenderError(f"its process ended {_how(self._process.wait())}")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise ContenderError(answer["missing"], missing=True)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer


def _how(code: int) -> str:
    if code == -signal.SIGKILL:
        return "by SIGKILL, as a system ends one where its memory runs out"
    return f"with exit code {code}"
