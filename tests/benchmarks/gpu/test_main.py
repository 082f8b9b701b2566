"""The command line, the parts one after the other, and the file that they leave."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks.gpu import records
from benchmarks.gpu.__main__ import main, run
from benchmarks.gpu.compiler import ROOT
from benchmarks.gpu.records import Check, Results, Timing, check_of, open_results, verdict_of
from ropeexport.errors import MissingError, PluginError, UsageError
from ropeexport.machine import Gpu, find_gpu

RESULTS = Results(
    date="2026-11-24", commit="c0ffee0123", changed=False, gpu="NVIDIA H100 80GB HBM3",
    compute_capability="9.0", driver="580", machine={},
)  # fmt: skip


def check(verdict: str, name: str = "a", **fields) -> Check:
    return Check(name=name, verdict=verdict, reason=f"why {name}", **fields)


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_without_a_gpu_it_exits_with_3(tmp_path) -> None:
    done = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert done.exit_code == 3
    assert "error: no NVIDIA GPU" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [("--only", "speed"), ("--shapes", "flux,cube"), ("--dtypes", "fp64"), ("--only", "")],
)
def test_usage(arguments) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "expected some of" in done.output


def test_help() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "0 nothing failed, 1 something failed, 2 usage, 3 no GPU" in " ".join(
        done.output.split()
    )


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("PASS", "FAIL", "SKIPPED"), "FAIL"),
        (("PASS", "PASS"), "PASS"),
        (("SKIPPED", "PASS"), "PARTIAL"),  # not the whole part
        (("REFUSED", "REFUSED"), "REFUSED"),
        (("SKIPPED",), "SKIPPED"),
        ((), "SKIPPED"),
    ],
)
def test_one_failure_fails_and_nothing_is_no_pass(verdicts, expected) -> None:
    assert verdict_of([check(verdict) for verdict in verdicts]) == expected


def test_a_check_shows_some_failures_and_counts_the_rest() -> None:
    assert check_of("many", 9, [f"case {i}" for i in range(9)]).reason.endswith(
        "case 4; and 4 more"
    )
    assert check_of("empty", 0, []).verdict == "FAIL"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ({"exactness": "PASS", "bench": "FAIL"}, 1),
        ({"exactness": "PASS", "bench": "SKIPPED"}, 0),
        ({"engines": "REFUSED", "bench": "SKIPPED"}, 0),
        ({"engines": "SKIPPED", "bench": "SKIPPED"}, 3),
    ],
)
def test_exit_codes(tmp_path, verdicts, code) -> None:
    parts = {
        name: lambda verdict=verdict: iter([check(verdict)]) for name, verdict in verdicts.items()
    }
    results = RESULTS.model_copy(deep=True)
    assert run(parts, results, tmp_path / "gpu.json") == code
    assert results.parts == verdicts


def test_a_part_that_breaks_keeps_its_checks_and_leaves_the_next_its_turn(tmp_path) -> None:
    def broken():
        yield check("PASS")
        raise PluginError("nvcc failed: error: x\nmore")

    def missing():
        raise MissingError("no compute-sanitizer")

    path = tmp_path / "gpu.json"
    parts = {"exactness": broken, "sanitizer": missing, "bench": lambda: iter([check("PASS")])}
    assert run(parts, RESULTS.model_copy(deep=True), path) == 1
    found = Results.model_validate_json(path.read_bytes())
    assert found.parts == {"exactness": "FAIL", "sanitizer": "SKIPPED", "bench": "PASS"}
    assert [(c.part, c.name, c.verdict, c.reason) for c in found.checks] == [
        ("exactness", "a", "PASS", "why a"),
        ("exactness", "all", "FAIL", "PluginError: nvcc failed: error: x"),
        ("sanitizer", "all", "SKIPPED", "no compute-sanitizer"),
        ("bench", "a", "PASS", "why a"),
    ]


def test_every_check_is_in_the_file_before_the_next_begins(tmp_path) -> None:
    path = tmp_path / "gpu.json"
    seen: list[tuple[str, int]] = []

    def part():
        for name in "abc":
            found = Results.model_validate_json(path.read_bytes())
            seen.append((found.parts["exactness"], len(found.checks)))
            yield check("PASS", name)

    run({"exactness": part}, RESULTS.model_copy(deep=True), path)
    assert seen == [("UNFINISHED", 0), ("UNFINISHED", 1), ("UNFINISHED", 2)]


def test_a_second_run_goes_on_in_the_same_file(tmp_path) -> None:
    path, results = open_results(tmp_path, RESULTS.model_copy(deep=True))
    assert path.name == "nvidia-h100-80gb-hbm3-2026-11-24-c0ffee01.json"
    run({"exactness": lambda: iter([check("PASS"), check("FAIL", "b")])}, results, path)
    newer = RESULTS.model_copy(deep=True, update={"driver": "590"})
    _, again = open_results(tmp_path, newer)
    assert again.driver == "590"
    run({"exactness": lambda: iter([check("PASS", "b")])}, again, path)
    run({"bench": lambda: iter([check("PASS")])}, again, path)
    found = Results.model_validate_json(path.read_bytes())
    assert [(c.part, c.name, c.verdict) for c in found.checks] == [
        *(("exactness", "a", "PASS"), ("exactness", "b", "PASS"), ("bench", "a", "PASS")),
    ]
    assert found.parts == {"exactness": "PASS", "bench": "PASS"}
    changed = RESULTS.model_copy(update={"changed": True})
    assert open_results(tmp_path, changed)[0].name.endswith("-c0ffee01-changed.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"schema_version": 2})])
def test_another_file_is_not_overwritten(tmp_path, text) -> None:
    path, _ = open_results(tmp_path, RESULTS)
    path.write_text(text)
    with pytest.raises(UsageError, match="move it away"):
        open_results(tmp_path, RESULTS)


def test_files_of_the_checkout_are_named_from_its_root(tmp_path) -> None:
    results = RESULTS.model_copy(update={"driver": f"{ROOT}/build/gpu/model.engine"})
    results.write(tmp_path / "gpu.json")
    assert json.loads((tmp_path / "gpu.json").read_text())["driver"] == "build/gpu/model.engine"


def test_without_git_the_note_tells_the_commit(tmp_path, monkeypatch) -> None:
    gpu = Gpu("NVIDIA L4", "8.9", "13.0")
    assert records.describe(gpu).commit  # of this checkout
    note = tmp_path / "commit.json"
    note.write_text(json.dumps({"date": "d", "commit": "c0ffee", "changed": False}))
    monkeypatch.setattr(records, "NOTE", note)
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    found = records.describe(gpu)
    assert (found.commit, found.changed) == ("c0ffee", False)
    assert found.date != "d"
    note.unlink()
    assert records.describe(gpu).commit is None


def test_times_are_in_the_table(tmp_path, capsys) -> None:
    timings = (
        Timing(name="ours", status="TIMED", time_us=41.234, copy_share=0.93, ratio=1.0),
        Timing(name="Liger", status="SKIPPED", reason="no liger-kernel"),
    )
    part = [check("PASS", "flux fp16, kernel", timings=timings)]
    run({"bench": lambda: iter(part)}, RESULTS.model_copy(deep=True), tmp_path / "gpu.json")
    printed = capsys.readouterr().out
    for text in ("flux fp16, kernel", "41.23", "93.0%", "SKIPPED: no liger-kernel", "written:"):
        assert text in printed
