#!/usr/bin/env python3
"""Run onnx's own test cases through fuse, inspect, lint and check; count what becomes of each.

Every operator of the standard is in them, with inputs and outputs: files that nobody here wrote.
Each verb runs in a worker, which is started anew where it dies or hangs; a sample of the cases runs
through the command line too.  The result is ``docs/node_cases.md``.  The exit code is 1 where
anything is a traceback, a false verdict or a death.
"""

from __future__ import annotations

import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import model as model_cases
from onnx.backend.test.case import node as node_cases

import ropeexport
from ropeexport.errors import EXIT_MISSING, RopeExportError, first_line

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "node_cases.md"
VERBS = ("fuse", "inspect", "lint", "check")
RUNTIME = "onnxruntime"  # what is asked first: whether it runs the case at all
OK, REFUSED, SKIPPED, RIGHTLY = "ok", "refused", "SKIPPED", "FAIL, rightly"
TRACEBACK, FALSE, DIED = "traceback", "false verdict", "died"
FAULTS = (TRACEBACK, FALSE, DIED)
OUTCOMES = (OK, REFUSED, SKIPPED, RIGHTLY, *FAULTS)
SAMPLE, SEED = 100, 0
_LIMIT_S = 60.0  # of one verb
_MEMORY = 8 << 30  # of one worker
_ROPE = "rotary"  # in the names of the cases that have one
# why something was refused or skipped: what its message says, in the words of the page
_REASONS = {
    "are refused: ": "onnxruntime refuses the inputs that are drawn for it",
    "onnx's reference evaluator cannot run": "the reference in float64 cannot run an operator",
    "draws random numbers": "it draws random numbers, so it has no one result",
    "every output is empty or not finite": "no output has a number that is finite",
    "which alone are compared; got": "an input or output of another type than check compares",
    "EMULATED": "bfloat16, which onnxruntime has no kernels for: EMULATED",
    "has no kernel|NOT_IMPLEMENTED|NotImplemented": "onnxruntime has no kernel for an operator",
    "does not know what is in it|is not a registered": "onnxruntime does not know an operator",
    "expected a tensor of numbers": "an input or output that is no tensor of numbers",
    "expected 11 or later": "an opset before 11",
    "comparisons failed": "onnxruntime departs from what the case says",
    "": "onnxruntime cannot load or run it for another reason",
}
_TEXT = """\
# onnx's own test cases

<!-- made by `python scripts/node_cases.py`, part of `make long` -->

`python scripts/node_cases.py` runs the cases that onnx generates of its operators, and its simple
models, through the verbs that take anybody's file: {count} files of every operator of the standard,
each with inputs and outputs. All run in process, in workers that are started anew where one dies;
a sample of {sample}, drawn by seed {seed}, runs through the command line as well. onnx {onnx},
onnxruntime {onnxruntime}, onnx-ir {ir}, {date}.

| verb | {heads} |
| --- | {rules} |
{rows}

- **ok**: `inspect` and `lint` answer; `check` of the file with itself is PASS; `fuse` has nothing
  to replace, or what it wrote computes the case's own outputs in onnxruntime.
- **refused**: one line says why. **SKIPPED**: the same, where there is nothing to compare with.
- **FAIL, rightly**: onnxruntime computes something else than the case's own outputs, and `check`
  says that the file in onnxruntime is not what its graph means.
- **false verdict**: a file that differs from itself, a rope where there is none, or a fused file
  that computes something else. It is a fault, as a traceback and a death are: the command exits
  with 1.

## Why not

| verb | outcome | reason | cases |
| --- | --- | --- | --- |
{reasons}

## Faults

{faults}
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a case in one verb, and why."""

    case: str
    verb: str
    outcome: str
    reason: str = ""

    @property
    def why(self) -> str:
        """The reason, in the words of the page."""
        return next(words for found, words in _REASONS.items() if re.search(found, self.reason))


def all_cases() -> list[Any]:
    """Return onnx's generated node cases, and its simple models, each with its data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simple = [case for case in model_cases.collect_testcases() if case.kind == "simple"]
        return [*node_cases.collect_testcases(None), *simple]


def drawn(cases: Sequence[Any], count: int, seed: int = SEED) -> list[Any]:
    """Return a fixed sample of the cases."""
    names = random.Random(seed).sample(sorted(case.name for case in cases), count)
    return [case for case in cases if case.name in names]


def outcome_of(case: Any, verb: str, trouble: str, folder: Path) -> Outcome:
    """Run one verb on a case; ``trouble``: why onnxruntime cannot run it, empty where it can."""
    path = folder / "case.onnx"
    onnx.save(case.model, path)
    try:
        outcome, reason = _verdict(case, verb, trouble, path)
    except RopeExportError as error:
        # what the runtime does not take is nobody's verdict
        skipped = error.exit_code == EXIT_MISSING or (verb == "check" and trouble)
        outcome, reason = SKIPPED if skipped else REFUSED, str(error)
    except Exception as error:
        outcome, reason = TRACEBACK, f"{type(error).__name__}: {first_line(error)}"
    return Outcome(case.name, verb, outcome, reason)


def _verdict(case: Any, verb: str, trouble: str, path: Path) -> tuple[str, str]:
    if verb == RUNTIME:
        wrong = difference(path, case, compared=False)
        return (SKIPPED, wrong) if wrong else (OK, "")
    if verb == "fuse":
        return _fused(case, trouble, path)
    if verb == "check":
        return _checked(path, case)
    getattr(ropeexport, verb)(path)
    return OK, ""


def _checked(path: Path, case: Any) -> tuple[str, str]:
    report = ropeexport.check(path, path)
    if report.verdict == "PASS":
        return OK, ""
    failed = [each.reason for each in report.comparisons if each.status == "FAIL"]
    if not failed and any(each.status == "EMULATED" for each in report.runtimes):
        return SKIPPED, report.reason
    departs = difference(path, case)  # of the runtime from what the case itself says
    return RIGHTLY if departs else FALSE, "; ".join([report.reason, *failed[:1]])


def _fused(case: Any, trouble: str, path: Path) -> tuple[str, str]:
    made = ropeexport.fuse(path, path.parent / "fused")
    if made.found and _ROPE not in case.name:
        return FALSE, f"{made.found} ropes found, expected none"
    written = path.parent / "fused" / "model.onnx"
    if not written.is_file():
        return OK, ""
    if trouble:
        return SKIPPED, trouble
    wrong = difference(written, case)
    return (FALSE, wrong) if wrong else (OK, "")


def difference(path: Path, case: Any, *, compared: bool = True) -> str:
    """Return why onnxruntime cannot run a file on a case's inputs, or how its outputs differ."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in case.model.graph.input]
        for inputs, outputs in case.data_sets:
            given = dict(zip(names, map(_value, inputs), strict=False))
            results = session.run(None, given)
            for got, expected in zip(results, map(_value, outputs), strict=True):
                if compared:
                    np.testing.assert_allclose(got, expected, case.rtol, case.atol)
    except Exception as error:  # onnxruntime's own classes, and NumPy's
        return first_line(error)
    return ""


def _value(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return numpy_helper.to_list(value) if isinstance(value, onnx.SequenceProto) else value


def _work(requests: Connection, cases: Sequence[Any]) -> None:
    """Answer a request, a case's number, a verb and the runtime's trouble, after the other."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("ignore")
    while True:
        number, verb, trouble = requests.recv()
        with tempfile.TemporaryDirectory() as folder:
            requests.send(outcome_of(cases[number], verb, trouble, Path(folder)))


class Worker:
    """A process that runs verbs on cases, started anew where it dies or hangs."""

    def __init__(self, cases: Sequence[Any]) -> None:
        self._cases = cases
        self._start()

    def run(self, number: int) -> list[Outcome]:
        """Run all verbs on a case."""
        trouble = self._ask(number, RUNTIME, "")
        text = trouble.reason if trouble.outcome != OK else ""
        return [self._ask(number, verb, text) for verb in VERBS]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = get_context("fork")  # it has the cases
        self._requests, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._cases), daemon=True)
        self._process.start()
        theirs.close()

    def _ask(self, number: int, verb: str, trouble: str) -> Outcome:
        self._requests.send((number, verb, trouble))
        try:
            if self._requests.poll(_LIMIT_S):
                answer: Outcome = self._requests.recv()
                return answer
            how = f"no answer within {_LIMIT_S:.0f} s"
        except (EOFError, ConnectionError):
            self._process.join()
            how = f"ended with exit code {self._process.exitcode}"
        self.close()
        self._start()
        return Outcome(self._cases[number].name, verb, DIED, how)


def run_all(cases: Sequence[Any], workers: int) -> list[Outcome]:
    """Run every case through every verb, in so many workers."""
    pool = [Worker(cases) for _ in range(workers)]

    def share(at: int) -> list[Outcome]:
        done = (pool[at].run(number) for number in range(at, len(cases), workers))
        return [outcome for outcomes in done for outcome in outcomes]

    with ThreadPoolExecutor(workers) as threads:
        outcomes = [one for part in threads.map(share, range(workers)) for one in part]
    for worker in pool:
        worker.close()
    return sorted(outcomes, key=lambda one: one.case)


def by_command(case: Any) -> list[Outcome]:
    """Run a case through the command line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "case.onnx")
        onnx.save(case.model, path)
        verbs = {
            "fuse": ["fuse", path, "-o", Path(folder, "fused")],
            "inspect": ["inspect", path],
            "lint": ["inspect", path, "--lint"],
            "check": ["check", path, path],
        }
        return [_by_command(case, verb, words) for verb, words in verbs.items()]


def _by_command(case: Any, verb: str, words: Sequence[str | Path]) -> Outcome:
    """Return what a command came to; it refuses in one line of standard error."""
    command = [sys.executable, "-m", "ropeexport", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().rpartition("\n")[2]
    if "Traceback" in done.stderr or last.endswith("[RX003]"):  # which nobody foresaw
        return Outcome(case.name, verb, TRACEBACK, last)
    if done.returncode not in (0, 1, 2, 3):
        return Outcome(case.name, verb, DIED, f"exit code {done.returncode}")
    refused = last.startswith("error: ")
    if verb == "check" and done.returncode == 1 and not refused and "EMULATED" not in done.stdout:
        return Outcome(case.name, verb, FALSE, done.stdout.strip().rpartition("\n")[2])
    return Outcome(case.name, verb, REFUSED if refused else OK, last)


def page(outcomes: Sequence[Outcome], faults: Sequence[Outcome], sample: int) -> str:
    """Return the text of the page."""
    counts = Counter((one.verb, one.outcome) for one in outcomes)
    not_ok = [one for one in outcomes if one.outcome in (REFUSED, SKIPPED, RIGHTLY)]
    reasons = Counter((one.verb, one.outcome, one.why) for one in not_ok)
    ordered = sorted(reasons.items(), key=lambda row: (VERBS.index(row[0][0]), -row[1]))
    lines = [f"- {one.case}, {one.verb}: {one.outcome}: {one.reason}" for one in faults]
    return _TEXT.format(
        count=len(outcomes) // len(VERBS),
        sample=sample,
        seed=SEED,
        onnx=version("onnx"),
        onnxruntime=version("onnxruntime"),
        ir=version("onnx-ir"),
        date=time.strftime("%Y-%m-%d"),
        heads=" | ".join(OUTCOMES),
        rules=" | ".join("---" for _ in OUTCOMES),
        rows="\n".join(
            f"| {verb} | {' | '.join(str(counts[verb, each]) for each in OUTCOMES)} |"
            for verb in VERBS
        ),
        reasons="\n".join(f"| {' | '.join(key)} | {count} |" for key, count in ordered),
        faults="\n".join(lines) or "None.",
    )


@click.command()
@click.argument("names", default="")
@click.option("--sample", default=SAMPLE, show_default=True, help="Cases for the command line.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--verbose", is_flag=True, help="Print all that is not ok.")
def main(names: str, sample: int, workers: int, verbose: bool) -> None:
    """Run onnx's cases and write docs/node_cases.md; with NAMES, a pattern, print the counts."""
    cases = [case for case in all_cases() if re.search(names, case.name)]
    outcomes = run_all(cases, workers)
    with ThreadPoolExecutor(workers) as threads:
        chosen = drawn(cases, min(sample, len(cases)))
        commands = [one for each in threads.map(by_command, chosen) for one in each]
    faults = [one for one in (*outcomes, *commands) if one.outcome in FAULTS]
    shown = [one for one in outcomes if one.outcome != OK] if verbose else faults
    for one in shown:
        click.echo(f"{one.case}\t{one.verb}\t{one.outcome}\t{one.reason}")
    click.echo(str(Counter((one.verb, one.outcome) for one in outcomes)))
    if not names:
        PAGE.write_text(page(outcomes, faults, sample))
        click.echo(f"written to {PAGE}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
