"""docs/benchmarks.md is what the committed results say, and says where we are behind."""

from __future__ import annotations

import copy
import json
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from benchmarks.cpu import runs
from benchmarks.cpu.runs import held
from benchmarks.machine import measured
from benchmarks.page import __main__ as page
from benchmarks.page import other_lines

READ = runs.load()
PART = "attention"
BUILT = {"status": "BUILT", "cold_seconds": 2.0, "again_seconds": 1.5, "engine_mb": 3.0,
         "timing_cache": False, "flavour": "tensorrt-rtx", "version": "1.7"}  # fmt: skip


def changed(run: runs.Run, contender: str, times: float) -> runs.Run:
    """Return a run in which a contender took so many times as long; ``all``: every one."""
    made = copy.deepcopy(run)
    for group in made["parts"][PART]["bench"]["groups"]:
        for timing in group["timings"]:
            if contender in (timing["contender"], "all"):
                timing["turns_ms"] = [times * x for x in timing["turns_ms"]]
    return made


def test_the_page_and_the_readme_are_current() -> None:
    assert page.render(READ) == page.PAGE.read_text(), "python -m benchmarks.page"
    text = page.README.read_text()
    assert page.with_table(text, READ) == text, "python -m benchmarks.page"
    assert "| ropeexport, onnxruntime |" in text


def test_every_run_has_every_part() -> None:
    assert len(READ.measured) == len(runs.MEASURED)
    for run in (*READ.measured, READ.check):
        assert list(run["parts"]) == READ.parts


def test_a_result_of_older_sources_is_marked() -> None:
    old = copy.deepcopy(READ.measured[1])
    old["parts"][PART]["bench"]["code_sha256"] = "older"
    read = replace(READ, measured=(READ.measured[0], old))
    assert PART in page.stale(read)
    assert "**Older than the code it measures.**" in "\n".join(page.part_lines(read, PART))


def test_who_is_faster_or_lighter_is_named() -> None:
    run = changed(READ.measured[0], "eager", 0.01)
    for timing in run["parts"][PART]["bench"]["groups"][0]["timings"]:
        timing["peak_mb"] = {"ropeexport": 200.0, "plain": 100.0}.get(timing["contender"], 300.0)
    said = "\n".join(page.behind(PART, replace(READ, measured=(run,)).benches(PART)))
    assert "attention, batch 1, length 256: eager torch takes 0.0" in said
    assert "the peak memory is 2.00 of the plain export's" in said


def test_a_run_that_repeats_one_of_the_others_holds() -> None:
    said = "\n".join(page.repeated_lines(replace(READ, check=READ.measured[0])))
    count = said.split(" of its ")[1].split(" ratios")[0]
    assert f"{count} of its {count} ratios" in said
    assert "- outside" not in said


def test_a_contender_that_moved_is_named() -> None:
    said = "\n".join(
        page.repeated_lines(replace(READ, check=changed(READ.measured[0], "plain", 9.0)))
    )
    assert "- outside: attention, batch 1, length 256: plain torch.onnx.export" in said
    assert "eager" not in said.split("- outside", 1)[1]


def test_a_machine_that_is_slower_as_a_whole_moves_no_ratio() -> None:
    read = replace(READ, check=changed(READ.measured[0], "all", 9.0))
    said = "\n".join(page.repeated_lines(read))
    assert "- outside" not in said
    found = [each for each in held(read) if each.part == PART]
    assert found
    assert not any(each.row.time_ms.holds(each.time_ms) for each in found)


def test_builds_and_the_reason_of_one_that_is_missing() -> None:
    skipped = {"status": "SKIPPED", "reason": "no library"}
    said = "\n".join(other_lines.build_lines({"rope": {"builds": {"a": BUILT, "b": skipped}}}))
    assert "| rope | a | 2.0 | 1.5 | 3.0 |" in said
    assert "rope, b: SKIPPED: no library" in said
    assert "no timing cache" in said
    cached = {"rope": {"builds": {"a": BUILT | {"timing_cache": True}}}}
    assert "no timing cache" not in "\n".join(other_lines.build_lines(cached))


def test_a_run_without_a_part_is_no_run_of_it(tmp_path) -> None:
    (tmp_path / "run-1.json").write_text(json.dumps(READ.measured[0]))
    other = {"parts": {PART: READ.measured[1]["parts"][PART]}}
    (tmp_path / "run-2.json").write_text(json.dumps(other))
    read = runs.load(tmp_path)
    assert read.parts == [PART]
    assert len(read.benches(PART)) == 2
    assert read.check is None


@pytest.mark.parametrize("name", ["nobody", "rope,nobody"])
def test_an_unknown_part_is_a_usage_error(name: str) -> None:
    from click.testing import CliRunner

    from benchmarks.cpu.__main__ import main

    done = CliRunner().invoke(main, ["--only", name])
    assert done.exit_code == 2
    assert "got nobody" in done.output


def test_a_result_names_its_commit_and_what_was_changed(tmp_path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", tmp_path, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    for name in ("ropeexport/op.py", "benchmarks/models/configs.py", "docs/models.md"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    git("add", ".")
    git("commit", "-qm", "first")
    expected = {"date": date.today().isoformat(), "commit": git("rev-parse", "HEAD")}
    for changed, is_changed in (
        ("docs/models.md", False), ("benchmarks/models/configs.py", True),
    ):  # fmt: skip
        (tmp_path / changed).write_text("written")
        found = measured("benchmarks/models", root=tmp_path)
        assert found == expected | {"changed": is_changed}
    elsewhere = measured(root=Path("/"))
    assert (elsewhere["commit"], elsewhere["changed"]) == (None, None)
