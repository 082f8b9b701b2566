"""A run to its report: case after case through the judge, every runtime's status, the verdict.

Cheap cases run side by side.  Only records and surveys are kept, so memory does not grow with a
case's arrays.  Cases are heard in their own order whoever finishes first: the same seed gives the
same report.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Protocol

from ropeexport.manifest import Manifest
from ropeexport.parity.cases import Case, Selection, space_of, work_of
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge, comparison_of
from ropeexport.parity.options import Options
from ropeexport.parity.records import (
    Comparison,
    PictureRecord,
    Report,
    RuntimeRecord,
    Status,
    Verdict,
    describe,
    survey_of,
    tokens_of,
)
from ropeexport.parity.references import NotRepeatableError
from ropeexport.parity.survey import CaseSurvey, Survey
from ropeexport.runners.registry import EAGER
from ropeexport.runners.runner import Facts

# Multiply-adds.  Below it, threads inside an operator cost more than they bring, so whole cases
# share the cores; above it, one case at a time has all of them, and all the memory.
_SIDE_BY_SIDE = 5e8
_MOST_WORKERS = 8
_WAITING = 2  # cases submitted for each worker
# a stand-in that is within its bounds proves the graph and no runtime
_EMULATED = "the EMULATED twin is within every bound, which is no runtime's own PASS"


class Listener(Protocol):
    """Hears how far a run is; the command line prints it."""

    def stage(self, name: str, text: str, ok: bool = True) -> None:
        """Hear that a stage is done."""
        return

    def case(self, done: int, total: int, name: str) -> None:
        """Hear that a case begins, after ``done`` of ``total``."""
        return


class Silent(Listener):
    """A listener that says nothing."""


@dataclass
class Outcome:
    """What a run has found so far."""

    comparisons: list[Comparison] = field(default_factory=list)
    surveys: dict[tuple[str, str], Survey] = field(default_factory=dict)
    complete: bool = False
    not_repeatable: str = ""  # why the reference is no function of its inputs; empty: it is one

    def add(self, judged: _Judged) -> None:
        """Keep the records of a case and add up its surveys."""
        self.comparisons.extend(judged.comparisons)
        for comparison, heard in judged.surveys:
            key = (comparison.runtime, comparison.output)
            self.surveys.setdefault(key, Survey()).add(judged.case.name, heard)


@dataclass(frozen=True)
class _Judged:
    case: Case
    comparisons: list[Comparison]
    surveys: list[tuple[Comparison, CaseSurvey]]


def run(
    judge: Judge, cases: Sequence[Case], contenders: list[Contender], listener: Listener
) -> Outcome:
    """Judge every case; an interruption keeps what is done.

    Where the reference is no function of its inputs, what was compared with it proves nothing: of
    such a run the reason is kept, and that eager failed.
    """
    outcome = Outcome()
    queue: _Queue = deque()
    pool = ThreadPoolExecutor(_workers(), initializer=_one_thread)
    try:
        listener.case(0, len(cases), cases[0].name if cases else "")
        judge.check_references()
        for done, judged in enumerate(_in_order(judge, cases, contenders, pool, queue), 1):
            outcome.add(judged)
            listener.case(done, len(cases), cases[done].name if done < len(cases) else "")
        outcome.complete = True
    except NotRepeatableError as error:
        pool.shutdown(cancel_futures=True)  # what finds the cause must be alone
        outcome = Outcome(complete=True, not_repeatable=error.explained())
        outcome.comparisons.append(judge.failed(error.output, outcome.not_repeatable))
    except KeyboardInterrupt:
        for future in takewhile(lambda f: f.done() and f.exception() is None, queue):
            outcome.add(future.result())
    finally:
        pool.shutdown(cancel_futures=True)
    return outcome


_Queue = deque[Future[_Judged]]


def _in_order(
    judge: Judge, cases: Sequence[Case], contenders: list[Contender], pool: Executor, queue: _Queue
) -> Iterator[_Judged]:
    """Yield the cases in order, a bounded number of cheap ones at work at any time."""
    most = _WAITING * _workers()
    for case in cases:
        cheap = work_of(judge.manifest.model.inputs, case.sizes) <= _SIDE_BY_SIDE
        while queue and (not cheap or len(queue) >= most):
            yield _next(queue)
        if cheap:
            queue.append(pool.submit(_judge, judge, case, contenders))
        else:
            yield _judge(judge, case, contenders)
    while queue:
        yield _next(queue)


def _next(queue: _Queue) -> _Judged:
    """Wait for the first of the queue; an interruption leaves it there."""
    judged = queue[0].result()
    queue.popleft()
    return judged


def _judge(judge: Judge, case: Case, contenders: list[Contender]) -> _Judged:
    surveys: list[tuple[Comparison, CaseSurvey]] = []
    listening = replace(judge, surveyed=lambda *heard: surveys.append(heard))
    return _Judged(case, list(listening.judge(case, contenders)), surveys)


def _workers() -> int:
    torch = sys.modules.get("torch")
    threads: int = torch.get_num_threads() if torch else (os.cpu_count() or 1)
    return max(1, min(threads, _MOST_WORKERS))


def _one_thread() -> None:
    """Keep torch's operators to the worker that calls them; its setting is of the thread."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def run_to_report(
    judge: Judge,
    selection: Selection,
    contenders: list[Contender],
    listener: Listener,
    options: Options,
    *,
    command: str,
    digest: str,
) -> Report:
    """Judge every case and return the report.

    Parameters
    ----------
    judge : Judge
        With the references.
    selection : Selection
        The cases.
    contenders : list of Contender
        Those that did not open are in the report too.
    listener : Listener
        Told what each contender is, and of each case.
    options : Options
        Of the run.
    command : str
        What makes the report again.
    digest : str
        The hash of the model file.
    """
    for contender in contenders:
        ran = contender.runner is not None
        text = contender.facts.made_of if ran else f"{contender.status}: {contender.reason}"
        listener.stage(contender.name, text, ok=ran)
    outcome = run(judge, selection.cases, contenders, listener)
    record, eager = judge.manifest, judge.eager
    absent = [  # an output each, so that none is silent
        comparison_of(each.name, each.facts, spec.name, each.status, each.reason)
        for each in contenders
        if each.runner is None
        for spec in record.model.outputs
    ]
    comparisons = (*outcome.comparisons, *absent)
    verdict, reason = _verdict(outcome, comparisons, eager.name)
    facts = {eager.name: eager.facts, **{each.name: each.facts for each in contenders}}
    return begun(record, digest, options, command).changed(
        verdict=verdict,
        reason=reason,
        complete=outcome.complete,
        lengths=space_of(record).lengths,
        left_out=selection.left_out,
        runtimes=tuple(_runtime_record(name, each, comparisons) for name, each in facts.items()),
        comparisons=comparisons,
        surveys=tuple(survey_of(*key, survey) for key, survey in outcome.surveys.items()),
    )


def begun(record: Manifest, digest: str, options: Options, command: str) -> Report:
    """Return the report of a folder with which nothing has been compared."""
    return Report(
        verdict="FAIL",
        reason="nothing was compared",
        model=record.model.file,
        model_sha256=digest,
        dtype=record.model.dtype,
        source=record.source.name,
        seed=options.seed,
        command=command,
        notes=_notes(record, digest),
        environment=describe(),
        runtimes=(),
        comparisons=(),
    )


def _notes(record: Manifest, digest: str) -> tuple[str, ...]:
    file, engine, notes = record.model.file, record.engine, []
    if digest != record.model.sha256:
        notes.append(f"{file} is not the file that was exported: its hash differs")
    if engine is not None and engine.model_sha256 != digest:
        notes.append(f"{engine.file} was built from another {file}")
    return tuple(notes)


def status_of(comparisons: Sequence[Comparison | PictureRecord | RuntimeRecord]) -> Status:
    """Return the status of comparisons together: one failure fails, and PASS needs a comparison."""
    found = {comparison.status for comparison in comparisons}
    order: tuple[Status, ...] = ("FAIL", "PASS", "EMULATED", "NOT_SUPPORTED")
    return next((status for status in order if status in found), "SKIPPED")


def _runtime_record(name: str, facts: Facts, comparisons: Sequence[Comparison]) -> RuntimeRecord:
    """Return the record of one runtime over all comparisons of the run."""
    mine = [comparison for comparison in comparisons if comparison.runtime == name]
    status = status_of(mine)
    reason = "" if status in ("PASS", "EMULATED") else _first_reason(mine, status)
    return runtime_record(name, facts, status, reason).changed(tokens=tokens_of(mine))


def runtime_record(name: str, facts: Facts, status: Status, reason: str) -> RuntimeRecord:
    """Return the record of a runtime with what was found of it."""
    return RuntimeRecord(
        name=name,
        implementation=facts.made_of,
        implementations=facts.implementation,
        version=facts.version,
        device=facts.device,
        provider=facts.provider,
        precision=facts.precision,
        status=status,
        reason=reason,
    )


def _verdict(
    outcome: Outcome, comparisons: Sequence[Comparison], yardstick: str
) -> tuple[Verdict, str]:
    """Return the verdict of a run and, for a failure, its reason in one line.

    Eager, or what stands in its place, is a yardstick: where it alone was compared, nothing was
    proven.
    """
    failed = [comparison for comparison in comparisons if comparison.status == "FAIL"]
    if outcome.not_repeatable:
        return "FAIL", outcome.not_repeatable
    if failed:
        runtimes = ", ".join(dict.fromkeys(comparison.runtime for comparison in failed))
        return "FAIL", f"{runtimes}: {len(failed)} of {len(comparisons)} comparisons failed"
    if not outcome.complete:
        return "FAIL", "interrupted: the cases that were left have not been compared"
    if not any(proves(c) and c.runtime != yardstick for c in comparisons):
        alone = "eager torch" if yardstick == EAGER else f"the {yardstick}"
        reason = f"nothing was compared: no runtime besides {alone} ran"
        if any(comparison.status == "EMULATED" for comparison in comparisons):
            reason += f"; {_EMULATED}"
        return "FAIL", reason
    return "PASS", ""


def proves(comparison: Comparison) -> bool:
    """Say whether a comparison passed, and with some number that was compared."""
    numbers = comparison.numbers
    compared = numbers is not None and numbers.nans < numbers.elements
    return comparison.status == "PASS" and compared


def _first_reason(comparisons: Sequence[Comparison], status: Status) -> str:
    first = next((c for c in comparisons if c.status == status), None)
    if first is None:
        return "no case was run"
    where = f"{first.output} in {first.case.name!r}: " if first.case and status == "FAIL" else ""
    return where + first.reason
