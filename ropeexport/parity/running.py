"""A run: case after case through the judge, cheap ones side by side, and what is kept of them.

Only records and surveys are kept, so memory does not grow with a case's arrays.  Cases are heard in
their own order whoever finishes first: the same seed gives the same report.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from ropeexport.parity.cases import Case
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.records import Comparison
from ropeexport.parity.repeat import NotRepeatableError
from ropeexport.parity.space import work_of
from ropeexport.parity.survey import CaseSurvey, Survey

# Multiply-adds.  Below it, threads inside an operator cost more than they bring, so whole cases
# share the cores; above it, one case at a time has all of them, and all the memory.
_SIDE_BY_SIDE = 5e8
_MOST_WORKERS = 8
_WAITING = 2  # cases submitted for each worker


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
        for (runtime, output), heard in judged.surveys.items():
            self.surveys.setdefault((runtime, output), Survey()).add(judged.case.name, heard)


@dataclass
class _Judged:
    case: Case
    comparisons: list[Comparison] = field(default_factory=list)
    surveys: dict[tuple[str, str], CaseSurvey] = field(default_factory=dict)

    def hear(self, comparison: Comparison, survey: CaseSurvey) -> None:
        self.surveys[comparison.runtime, comparison.output] = survey


def run(
    judge: Judge, cases: Sequence[Case], contenders: list[Contender], listener: Listener
) -> Outcome:
    """Judge every case; an interruption keeps what is done.

    Where the reference is no function of its inputs, what was compared with it proves nothing: of
    such a run the reason is kept, and that eager failed.
    """
    outcome = Outcome()
    waiting: _Waiting = deque()
    pool = ThreadPoolExecutor(_workers(), initializer=_one_thread)
    try:
        listener.case(0, len(cases), cases[0].name if cases else "")
        judge.check_references()
        for done, judged in enumerate(_in_order(judge, cases, contenders, pool, waiting), 1):
            outcome.add(judged)
            listener.case(done, len(cases), cases[done].name if done < len(cases) else "")
        outcome.complete = True
    except NotRepeatableError as error:
        pool.shutdown(cancel_futures=True)  # what finds the cause must be alone
        outcome = Outcome(complete=True, not_repeatable=error.explained())
        outcome.comparisons.append(judge.failed(error.output, outcome.not_repeatable))
    except KeyboardInterrupt:
        for judged in _finished(waiting):
            outcome.add(judged)
    finally:
        pool.shutdown(cancel_futures=True)
    return outcome


_Waiting = deque[Future[_Judged]]


def _in_order(
    judge: Judge,
    cases: Sequence[Case],
    contenders: list[Contender],
    pool: ThreadPoolExecutor,
    waiting: _Waiting,
) -> Iterator[_Judged]:
    """Yield the cases in order, a bounded number of cheap ones at work at any time."""
    most = _WAITING * _workers()
    for case in cases:
        cheap = work_of(judge.manifest.model.inputs, case.sizes) <= _SIDE_BY_SIDE
        while waiting and (not cheap or len(waiting) >= most):
            yield _next(waiting)
        if cheap:
            waiting.append(pool.submit(_judge, judge, case, contenders))
        else:
            yield _judge(judge, case, contenders)
    while waiting:
        yield _next(waiting)


def _next(waiting: _Waiting) -> _Judged:
    """Wait for the first of the queue; an interruption leaves it there."""
    judged = waiting[0].result()
    waiting.popleft()
    return judged


def _finished(waiting: _Waiting) -> Iterator[_Judged]:
    """Yield what was done in order when the run was interrupted."""
    for future in waiting:
        if not future.done() or future.exception() is not None:
            return
        yield future.result()


def _judge(judge: Judge, case: Case, contenders: list[Contender]) -> _Judged:
    judged = _Judged(case)
    listening = replace(judge, surveyed=judged.hear)
    judged.comparisons.extend(listening.judge(case, contenders))
    return judged


def _workers() -> int:
    torch = sys.modules.get("torch")
    threads: int = torch.get_num_threads() if torch else (os.cpu_count() or 1)
    return max(1, min(threads, _MOST_WORKERS))


def _one_thread() -> None:
    """Keep torch's operators to the worker that calls them; its setting is of the thread."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
