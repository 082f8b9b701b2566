"""The seeded faults: the catalogue is whole, a miss is a miss, and the documents are current."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner
from made_reports import comparison

from mutants import document, trial
from mutants.__main__ import main
from mutants.catalogue import EQUIVALENTS, MUTANTS
from mutants.mutant import OUT, Equivalent, Mutant
from mutants.trial import Court

# faults that a user would fear first
NAMED = (
    "swapped pairing", "sign of sin", "cos for sin", "positions off by one",
    "heads and length of q exchanged", "first key of the batch for all", "bf16 tables",
    "float32 angles at long positions", "missing cast back after the rope",
    "stale length of the table", "dropped tail of D", "softmax without scale", "causal flag",
    "GQA heads tiled", "permuted heads of k", "one wrong element of a million, rope",
    "NaN in one lane",
)  # fmt: skip


def untouched(model) -> None:
    """Break nothing."""


def unloadable(model) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


@pytest.fixture(scope="module")
def court():
    with Court() as made:
        yield made


def test_the_catalogue_holds_what_it_must() -> None:
    names = [mutant.name for mutant in (*MUTANTS, *EQUIVALENTS)]
    assert len(names) == len(set(names))
    assert len(MUTANTS) >= 25
    assert set(NAMED) <= set(names)
    assert {dtype for mutant in MUTANTS for dtype in mutant.dtypes} == {"fp32", "fp16", "bf16"}


@pytest.mark.parametrize(
    "name",
    ["bf16 tables", "float32 angles at long positions", "GQA heads tiled", "NaN in one lane"],
)
def test_a_fault_is_caught_in_each_of_its_types(court: Court, name: str) -> None:
    mutant = next(m for m in MUTANTS if m.name == name)
    outcomes = list(court.trials(mutant))
    assert [outcome.dtype for outcome in outcomes] == list(mutant.dtypes)
    assert all(outcome.as_expected for outcome in outcomes), outcomes


def test_what_changes_nothing_is_not_seen(court: Court) -> None:
    for outcome in court.trials(EQUIVALENTS[0]):
        assert outcome.as_expected, outcome


def test_what_nobody_broke_passes(court: Court) -> None:
    assert court.control("matrices", "fp16") == ""
    [outcome] = court.trials(Mutant("none", "", untouched, dtypes=("fp16",), lengths=(9,)))
    assert not outcome.as_expected
    assert outcome.where == "NOT SEEN at q_rotated, k_rotated, out"


def test_a_file_that_does_not_load_is_no_catch(court: Court) -> None:
    [outcome] = court.trials(Mutant("broken", "", unloadable, dtypes=("fp16",), lengths=(9,)))
    assert not outcome.as_expected
    assert "does not run" in outcome.where


def test_a_fault_must_be_seen_at_every_output_that_it_names() -> None:
    failed = comparison("onnxruntime", 0, fails=True)
    one = Mutant("m", "", untouched, seen_at=(OUT,))
    assert trial.caught(one, "fp16", [failed]).as_expected
    two = Mutant("m", "", untouched, seen_at=(OUT, "q_rotated"))
    assert not trial.caught(two, "fp16", [failed]).as_expected


def test_an_equivalent_that_is_seen_is_none() -> None:
    failed = comparison("onnxruntime", 0, fails=True)
    same = Equivalent("e", "", untouched, unseen_at=(OUT,))
    assert not trial.caught(same, "fp16", [failed]).as_expected
    assert trial.caught(same, "fp16", [comparison("onnxruntime", 0)]).as_expected
    assert not trial.caught(same, "fp16", []).as_expected


@pytest.mark.parametrize(("text", "code"), [("no such fault", 1), ("output missing", 0)])
def test_the_command_ends_with_its_score(text: str, code: int) -> None:
    done = CliRunner().invoke(main, ["--only", text])
    assert done.exit_code == code
    assert re.fullmatch(r"(\d+) of \1 caught", done.output.splitlines()[-1])


def test_the_documents_are_current() -> None:
    score = json.loads(document.SCORE.read_text())
    trials = sum(len(mutant.dtypes) for mutant in MUTANTS)
    again = "write them with: python -m mutants --record"
    assert score == {"caught": trials, "trials": trials, "faults": len(MUTANTS)}, again
    assert document.DOCUMENT.read_text() == document.text(trials, trials), again
