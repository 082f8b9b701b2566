"""The records of model classes: when they are stale, what differs, and what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from benchmarks.models import records
from benchmarks.models.__main__ import _changes, _drawn
from benchmarks.models.causes import cause_of
from benchmarks.models.discovery import Class, discovered
from benchmarks.models.page import PAGE, page
from benchmarks.models.records import Parity, Record, key_of, outdated

GOOD = Parity(verdict="PASS", share=0.3, eager=0.2, cases=26)
VALUES = {"hidden_size": 64}


@pytest.fixture
def model(tmp_path: Path) -> Class:
    path = tmp_path / "transformers" / "models" / "modeling_a.py"
    path.parent.mkdir(parents=True)
    path.write_text("class A: ...")
    return Class("transformers", "A", path)


@pytest.fixture
def record(model: Class) -> Record:
    return Record(
        library="transformers", name="A", key=key_of(model, VALUES), found=2, replaced=2,
        dynamic=("batch", "length"), fp32=GOOD, fp16=GOOD, native="1.7: 2 native",
        seconds={"eager": 1.0}, measured={"commit": "0123456789abcdef", "date": "2026-11-30"},
    )  # fmt: skip


def test_a_record_is_stale_when_what_it_is_of_has_changed(model, record, tmp_path) -> None:
    records.write(record, tmp_path)
    known = records.read(tmp_path)
    assert known == {"transformers:A": record}

    def are_outdated(values=VALUES, of=model) -> bool:
        return list(outdated([of], {of.model: key_of(of, values)}, known)) == [of]

    assert not are_outdated()
    assert are_outdated({"hidden_size": 32})
    assert are_outdated(of=replace(model, name="B"))
    model.path.write_text("class A: pass")
    assert are_outdated()
    other = record.key.model_copy(update={"packages": {"torch": "3.0"}})
    assert list(outdated([model], {model.model: other}, known)) == [model]


def test_two_runs_differ_in_what_they_found_and_not_in_times_or_shares(record) -> None:
    slower = record.model_copy(
        update={"seconds": {"eager": 9.0}, "fp32": GOOD.model_copy(update={"share": 0.4})}
    )
    assert record.difference(slower) == {}
    without = record.model_copy(update={"plugin": "MissingError: no plugin library: neither"})
    assert record.difference(without) == {}
    worse = record.model_copy(update={"replaced": 1, "fp16": Parity(verdict="FAIL", share=2.0)})
    assert record.difference(worse) == {
        "replaced": (2, 1),
        "fp16": ({"verdict": "PASS", "fault": ""}, {"verdict": "FAIL", "fault": ""}),
    }


def test_what_is_good_and_what_is_said_of_the_rest(record) -> None:
    assert record.is_good
    assert record.fault() == ""
    faults = {
        "fp32: TypeError: no": {"fp32": Parity(fault="TypeError: no")},
        "fp16: FAIL": {"fp16": Parity(verdict="FAIL", share=2.0, eager=1.0, cases=3)},
        "no rotary application was found": {"found": 0, "replaced": 0},
        "1 of 2 replaced: why": {"replaced": 1, "refused": ("why",)},
        "no axis is dynamic": {"dynamic": ()},
    }
    for fault, fields in faults.items():
        made = record.model_copy(update=fields)
        assert not made.is_good
        assert made.fault() == fault


def test_what_eager_itself_misses_is_told_apart(record) -> None:
    said = "{}: 3 of 20 comparisons failed"
    eagers, both, ours = (
        Parity(verdict="FAIL", share=2.0, eager=2.0, fault=said.format(who))
        for who in ("eager", "eager, onnxruntime", "onnxruntime")
    )
    assert (eagers.is_good, eagers.is_unstable) == (True, False)
    assert (both.is_good, both.is_unstable) == (False, True)
    assert (ours.is_good, ours.is_unstable) == (False, False)
    not_run = Parity(fault="eager: RuntimeError: mat1 and mat2 must have the same dtype")
    assert (not_run.is_good, not_run.is_unstable) == (False, True)
    assert record.difference(record.model_copy(update={"fp16": both})) == {}
    many = ours.model_copy(update={"fault": "onnxruntime: 12 of 20 comparisons failed"})
    few = ours.model_copy(update={"fault": "onnxruntime: 1 of 20 comparisons failed"})
    assert record.difference(record.model_copy(update={"fp16": many})) != {}
    assert record.difference(record.model_copy(update={"fp16": few})) == {}
    made = record.model_copy(update={"fp16": both})
    assert made.is_good_in_float32
    assert not made.is_good
    assert " 0 (0.0%) are so in float16 too" in page([made])
    assert " 1 (100.0%) eager torch itself is" in page([made])
    assert " 1 (100.0%) are exported" in page([made])


def test_the_page_counts_what_eager_runs(record) -> None:
    wrong = record.model_copy(update={"name": "B", "fp16": Parity(fault="a | b"), "native": ""})
    not_run = record.model_copy(update={"name": "C", "eager": "ValueError: no heads"})
    still = record.model_copy(update={"name": "D", "rotates": False, "found": 0})
    text = page([wrong, not_run, record, still])
    assert "Of 4 classes that were tried, eager torch runs 2 with a rotation" in text
    assert " 2 (100.0%) are exported" in text
    assert " 1 (50.0%) are so in float16 too" in text
    assert "- 4 records: commit 0123456789ab, 2026-11-30" in text
    row = "| transformers:A | 2 | 2 | ? | batch, length |  | PASS 30% (20%) | PASS 30% (20%) |"
    assert f"{row} 2 native |" in text
    assert "\n- B: fp16: a | b\n" in text
    assert "\n- C: ValueError: no heads\n" in text
    assert "rotates nothing with its library's default config\n\nD." in text
    assert "| transformers:C |" not in text


def test_the_committed_page_is_of_the_committed_records() -> None:
    known = records.read()
    assert len(known) > 10
    elsewhere = records.read(records.OTHER_RELEASES)
    assert PAGE.read_text() == page(known.values(), elsewhere.values())
    assert {*known} <= {each.model for each in discovered()}


def test_the_classes_that_are_made_again_are_the_commits(record, model) -> None:
    models = [replace(model, name=f"A{number}") for number in range(40)]
    known = {each.model: record for each in models[:30]}
    drawn = _drawn(models, known, 10)
    assert len({each.name for each in drawn}) == 10
    assert drawn == _drawn(models, known, 10)
    assert {each.model for each in drawn} <= {*known}
    assert len(_drawn(models, known, 100)) == 30


@pytest.mark.pipelines
@pytest.mark.parametrize(
    ("name", "norms"), [("transformers:LlamaModel", 0), ("diffusers:WanTransformer3DModel", 2)]
)
def test_a_class_in_a_process_of_its_own_is_as_recorded(name: str, norms: int) -> None:
    command = [sys.executable, "-m", "benchmarks.models.worker", name, "norm-rope"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made = Record.model_validate_json(done.stdout.splitlines()[-1])
    assert made.is_good
    assert made.fp32.cases == 10
    assert made.norms == (norms, norms)
    assert re.fullmatch(r"[\d.]+: 2 native", made.native)
    assert records.read()[name].difference(made) == {}


def test_what_nobody_can_explain_has_no_cause(record) -> None:
    assert cause_of(record) is None
    assert cause_of(record.model_copy(update={"found": 0})) is None
    packed = {
        "name": "Lumina2Transformer2DModel",
        "fp32": Parity(fault="cannot be traced: unhashable type: x"),
    }
    found = cause_of(record.model_copy(update=packed))
    assert found is not None
    assert "captions" in found.text


def test_the_words_of_a_known_cause_are_no_change(record) -> None:
    """torch names the sizes of a set in the order of a run."""

    def made(words: str, **other: Parity) -> Record:
        fault = Parity(
            fault=f"ExportError: LightGlueForKeypointMatching: cannot be traced: {words}"
        )
        update = {"name": "LightGlueForKeypointMatching", "fp32": fault, "fp16": fault, **other}
        return record.model_copy(update=update)

    former = made("data-dependent expression Eq(u0, 0) of u3, u5")
    assert list(_changes(former, made("data-dependent expression Eq(u0, 0) of u3, u7"))) == []
    another = made("data-dependent expression", fp16=Parity(verdict="PASS"))
    assert [line.split(": ")[1] for line in _changes(former, another)] == ["fp16"]
    assert len(list(_changes(former, made("something else")))) == 2
