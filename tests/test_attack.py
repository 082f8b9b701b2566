"""The attacks: what is wrong with a command is counted, and the same inputs come of a seed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from attack import __main__ as command
from attack import edits, folders, inputs, kills, session, trial
from attack.bases import control_flow
from attack.finding import Finding, Tally
from attack.recipe import Edit, Recipe, read
from attack.session import Session, corpus, planned
from attack.worker import Worker

pytestmark = pytest.mark.hostile

FAULTS = Path(__file__).parent / "made_faults.py"


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    place = tmp_path_factory.mktemp("attacks") / "worker"
    with Worker(place, entry=f"{FAULTS}:main", preloaded=()) as made:
        yield made


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("raises", "traceback"), ("sleeps", "hang"), ("eats", "memory"), ("dies", "crash"),
        ("leaves", "leftover"), ("leaves in tmp", "leftover"), ("leaves a process", "leftover"),
        ("talks", "traceback"), ("ends oddly", "traceback"), ("escapes", "escape"),
    ],
)  # fmt: skip
def test_a_fault_is_counted_once_by_its_kind(worker, tmp_path, monkeypatch, verb, kind) -> None:
    monkeypatch.setattr(trial, "MEGABYTES", 200)
    counted = Session(lambda line: None)
    recipe = Recipe("arguments", (verb,), deadline=1.0)
    counted.add(session.tally(worker, tmp_path, recipe))
    [((_, found), row)] = counted.rows.items()
    assert (found, row.tried, dict(row.wrong)) == (verb, 1, {kind: 1})
    assert [finding.kind for finding in counted.found.values()] == [kind]


@pytest.mark.parametrize("verb", ["fine", "refuses"])
def test_what_ends_as_it_should_is_no_finding(worker, tmp_path, verb) -> None:
    assert session.tally(worker, tmp_path, Recipe("arguments", (verb,))).findings == ()


def test_a_worker_goes_on_after_each_of_them(worker, tmp_path) -> None:
    for verb in ("dies", "sleeps", "fine"):
        last = trial.tried(worker, tmp_path, Recipe("arguments", (verb,), deadline=0.2))
    assert (last.ended.code, last.wrong) == (0, ())


def test_a_kill_between_two_files_is_a_contradiction(worker, tmp_path) -> None:
    torn = kills.Writing(("tears", "new"), "new", again=())
    worker.clear()
    operations = worker.run(torn.argv, 10.0).operations
    assert operations >= 4  # a folder, a file, its name, the manifest
    found = [
        finding
        for last in range(1, operations + 1)
        for finding in kills.killed(worker, tmp_path, torn, last, signal.SIGKILL).findings
    ]
    assert {finding.kind for finding in found} == {"leftover"}
    again = kills.Writing(("tears", "twice"), "twice", again=())
    found = []
    for last in range(1, operations + 1):
        worker.clear()
        worker.run(again.argv, 10.0)
        worker.run(again.argv, 10.0, kill=(last, signal.SIGKILL))
        found.append(folders.contradiction(worker.work / "twice"))
    assert "model.onnx is another one" in found


def test_the_same_inputs_come_of_a_seed() -> None:
    for part in inputs.PARTS:
        first, again = (inputs.recipes(part, 3, 20) for _ in range(2))
        assert list(map(Recipe.text, first)) == list(map(Recipe.text, again))
        assert [recipe.text() for recipe in inputs.recipes(part, 4, 20)] != [
            recipe.text() for recipe in first
        ]


def test_every_part_has_its_turn(monkeypatch) -> None:
    monkeypatch.setattr(session, "BATCH", 10)
    recipes = planned(0)
    drawn = {next(recipes).part for _ in range(sum(session.SHARES.values()))}
    assert drawn == set(inputs.PARTS) == set(session.SHARES)


def test_a_recipe_is_read_as_it_was_written() -> None:
    recipe = Recipe("graphs", ("inspect", "a"), ("flux",), (Edit("a", "json", 3, ["set", 1]),))
    assert read(recipe.text()) == recipe
    assert all(recipe.part == "corpus" for recipe in corpus())


@pytest.mark.parametrize("how", sorted(edits.protos.EDITS))
def test_an_edited_graph_is_read_as_one_still(how: str) -> None:
    data = control_flow()
    changed = 0
    for at in range(8):
        value = ["../x", 0, 4] if how == "onnx external" else 1 << 40
        edited = edits.EDITS[how](data, Edit("x.onnx", how, at * 104_729, value))
        onnx.load_model_from_string(edited)
        changed += edited != data
    assert changed > 0 or how == "onnx external"  # this file has no weight


def test_what_the_first_parser_rejects_is_known(tmp_path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"schema_version": 99}')
    assert not trial.past_the_first_parser(tmp_path, Recipe("x", (), (), (Edit("a.json", "cut"),)))
    assert trial.past_the_first_parser(tmp_path, Recipe("x", (), (), (Edit("b.json", "cut"),)))


def test_the_command_fails_on_a_finding_and_on_inputs_that_go_nowhere(monkeypatch) -> None:
    def found(session: Session, *_: object) -> None:
        session.add(Tally("graphs", "inspect", True, (Finding("hang", "[/y]", "\x1b"),)))

    def rejected(session: Session, *_: object) -> None:
        session.add(Tally("graphs", "inspect", False))

    def passed(session: Session, *_: object) -> None:
        session.add(Tally("graphs", "inspect", True))

    codes = []
    for attack in (found, rejected, passed):
        monkeypatch.setattr(command, "attack", attack)
        done = CliRunner().invoke(command.main, ["--json"])
        codes.append(done.exit_code)
        [row] = json.loads(done.stdout)
        assert (row["part"], row["tried"]) == ("graphs", 1)
    assert codes == [1, 1, 0]
