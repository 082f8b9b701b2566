"""One contender in a process of its own, driven by :mod:`ropeexport.bench.processes`.

It takes its setting as JSON, sets up, saves its outputs of the first sizes for the parity check,
and then does what each line of its input asks: it runs so often, over inputs that rotate, or once
and saves its outputs again.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ropeexport.artifact import Artifact
from ropeexport.bench.clocks import make_clock
from ropeexport.bench.contenders import BY_NAME
from ropeexport.bench.contenders.contender import Arrays, Setting
from ropeexport.bench.inputs import InputSets
from ropeexport.dtypes import FOREIGN
from ropeexport.errors import MissingError
from ropeexport.runners.registry import import_runners

_MOST_LINES = 4  # of a failure's text
_PLACES = ("Exception from ", "Check 'false' failed at ")  # in OpenVINO's own sources


def main(order: dict[str, Any], answers: Any) -> None:
    """Set up, say so, then run as often as each line of the input asks."""
    setting = Setting(
        Artifact.read(Path(order["folder"])),
        Path(order["prepared"]),
        order["module"],
        order["threads"],
        order["device"],
    )
    record = setting.artifact.manifest
    inputs = cache(lambda size: InputSets(record, json.loads(size), order["seed"]))
    try:
        import_runners()  # our own modules: their time is nobody's load
        clock = make_clock(setting.device)
        start = time.perf_counter()
        run = BY_NAME[order["contender"]].set_up(setting)
        outputs = run.run(inputs(json.dumps(order["check"]))[0])
    except MissingError as error:
        return _answer(answers, {"missing": str(error)})
    except Exception as error:  # a peer's own failure is a line of the table, not ours
        return _answer(answers, {"error": _cause(error)})
    seconds = time.perf_counter() - start
    clock.settle()
    run.keep()
    _save(order["outputs"], outputs)
    _answer(answers, {"load_seconds": seconds})
    for line in sys.stdin:
        asked = json.loads(line)
        sets = inputs(json.dumps(asked["sizes"]))
        try:
            if "outputs" in asked:
                _save(asked["outputs"], clock.once(run, sets[0]))
                answer: dict[str, object] = {}
            else:
                turn = clock.turn(run, sets, asked["repeats"])
                answer = asdict(turn) | {"peak_mb": _peak_mb()}
        except Exception as error:
            return _answer(answers, {"error": _cause(error)})
        _answer(answers, answer)
    return None


def _cause(error: Exception) -> str:
    """Return a failure in one line: its class and the first lines of its text."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(_PLACES)]
    return f"{type(error).__name__}: {'; '.join(lines[:_MOST_LINES])}"


def _peak_mb() -> float:
    """Return the largest resident memory of this process; getrusage would count its parent's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _save(path: str, outputs: Arrays) -> None:
    saved: dict[str, Any] = {name: _saved(x) for name, x in outputs.items()}
    np.savez(path, **saved)


def _saved(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    kind = FOREIGN.get(str(x.dtype))
    return x if kind is None else x.view(kind.bits)  # NumPy's files know NumPy's types alone


def _answer(answers: Any, value: object) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    said, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not break the talk
    main(json.loads(sys.argv[1]), said)
