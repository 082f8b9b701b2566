"""A fixed sample of onnx's own cases through every verb, and what runs them all."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from scripts import node_cases
from scripts.node_cases import (
    DIED,
    FAULTS,
    OK,
    REFUSED,
    RUNTIME,
    SKIPPED,
    VERBS,
    Outcome,
    Worker,
    all_cases,
    drawn,
    outcome_of,
    page,
)

pytestmark = pytest.mark.tools
COUNT = 40


@pytest.fixture(scope="module")
def cases():
    return all_cases()


def test_a_sample_of_the_cases_has_no_fault(cases, tmp_path) -> None:
    assert len(cases) > 1900
    for case in drawn(cases, COUNT):
        runs = outcome_of(case, RUNTIME, "", tmp_path)
        for verb in VERBS:
            folder = tmp_path / case.name / verb
            folder.mkdir(parents=True)
            found = outcome_of(case, verb, runs.reason, folder)
            assert found.outcome not in FAULTS, found
            # the verbs that only look take any file
            assert verb in ("fuse", "check") or found.outcome == OK, found


class Ends:
    """A case whose model cannot be had: its process ends, or never answers."""

    name = "ends"

    def __init__(self, end) -> None:
        self._end = end

    @property
    def model(self) -> object:
        return self._end()


def test_a_worker_that_dies_or_hangs_is_started_anew(cases, monkeypatch) -> None:
    sound = next(case for case in cases if case.name == "test_abs")
    worker = Worker([Ends(lambda: os._exit(7)), Ends(lambda: time.sleep(60)), sound])
    dead = worker.run(0)
    with monkeypatch.context() as patched:
        patched.setattr(node_cases, "_LIMIT_S", 5.0)
        late = worker._ask(1, "check", "")
    assert [(one.outcome, one.reason) for one in dead] == [(DIED, "ended with exit code 7")] * 4
    assert (late.outcome, late.reason) == (DIED, "no answer within 5 s")
    assert {one.verb: one.outcome for one in worker.run(2)} == {
        "fuse": OK, "inspect": OK, "lint": OK, "check": OK,
    }  # fmt: skip
    worker.close()


def test_a_false_verdict_is_noticed(cases, monkeypatch, tmp_path) -> None:
    case = next(case for case in cases if case.name == "test_reshape_negative_dim")
    made = SimpleNamespace(found=1)
    monkeypatch.setattr(node_cases.ropeexport, "fuse", lambda *_: made, raising=False)
    assert outcome_of(case, "fuse", "", tmp_path).outcome == "false verdict"
    failed = SimpleNamespace(status="FAIL", reason="too far")
    report = SimpleNamespace(verdict="FAIL", reason="1 failed", comparisons=[failed], runtimes=[])
    monkeypatch.setattr(node_cases.ropeexport, "check", lambda *_: report, raising=False)
    found = outcome_of(case, "check", "", tmp_path)
    assert (found.outcome, found.reason) == ("false verdict", "1 failed; too far")
    monkeypatch.setattr(node_cases.ropeexport, "inspect", lambda _: 1 / 0, raising=False)
    assert outcome_of(case, "inspect", "", tmp_path).outcome == "traceback"


def test_the_page_counts_by_verb_and_reason() -> None:
    outcomes = [
        Outcome("a", "check", OK),
        Outcome("b", "check", SKIPPED, "x: its graph draws random numbers (Bernoulli y)"),
        Outcome("b", "fuse", REFUSED, "opset 9: expected 11 or later"),
    ]
    text = page(outcomes, [], 100)
    assert "| check | 1 | 0 | 1 | 0 | 0 | 0 | 0 |" in text
    assert "| check | SKIPPED | it draws random numbers, so it has no one result | 1 |" in text
    assert "| fuse | refused | an opset before 11 | 1 |" in text
