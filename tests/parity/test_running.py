"""A run of cases: side by side or not, in order, interrupted, and the same again."""

from __future__ import annotations

import threading
import time

import pytest

from ropeexport.artifact import Artifact
from ropeexport.parity import running
from ropeexport.parity.check import Options, check
from ropeexport.parity.judge import Judge


def test_the_same_seed_gives_the_same_report(exported) -> None:
    folder = exported()
    options = Options(seed=3, count=40)
    assert check(Artifact.read(folder), options=options) == check(
        Artifact.read(folder), options=options
    )


def test_cases_side_by_side_are_reported_in_their_own_order(exported, monkeypatch) -> None:
    monkeypatch.setattr(running, "_workers", lambda: 4)
    original, threads, late = Judge.judge, set(), []

    def slow_at_first(self, case, contenders):
        threads.add(threading.current_thread().name)
        if not late:
            late.append(case)
            time.sleep(0.2)
        return original(self, case, contenders)

    monkeypatch.setattr(Judge, "judge", slow_at_first)
    folder = exported()
    side_by_side = check(Artifact.read(folder), options=Options(count=20))
    monkeypatch.undo()
    monkeypatch.setattr(running, "_SIDE_BY_SIDE", -1.0)  # one after the other
    assert len(threads) > 1
    alone = check(Artifact.read(folder), options=Options(count=20))
    names = [c.case.name for c in side_by_side.comparisons if c.case]
    assert names == [c.case.name for c in alone.comparisons if c.case]


def test_the_reports_command_gives_the_report_again(exported) -> None:
    options = Options(seed=7, count=2, lengths=(3, 5), atol=1e-3)
    report = check(Artifact.read(exported()), options=options)
    assert report.command.endswith("--seed 7 --cases 2 --lengths 3,5 --atol 0.001")
    assert report.command.startswith("ropeexport check ")


@pytest.mark.parametrize("count", [4, 30])
def test_lengths_and_a_count_repeat_the_lengths_with_other_numbers(exported, count: int) -> None:
    report = check(Artifact.read(exported()), options=Options(count=count, lengths=(5,)))
    cases = {c.case.name: c.case for c in report.comparisons if c.case}
    assert len(cases) == count
    assert len({case.seed for case in cases.values()}) == count
    assert {case.sizes["length"] for case in cases.values()} == {5}


def test_surveys_hold_every_runtime_and_every_element(exported) -> None:
    report = check(Artifact.read(exported()), options=Options(count=6, runtimes=("onnxruntime",)))
    runtimes = {survey.runtime for survey in report.surveys}
    assert runtimes == {"eager", "onnxruntime"}
    for survey in report.surveys:
        counted = sum(
            c.numbers.elements
            for c in report.comparisons
            if c.numbers and c.runtime == survey.runtime
        )
        assert sum(position.elements for position in survey.positions) == counted
        assert survey.worst is not None
