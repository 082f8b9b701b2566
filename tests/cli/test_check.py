"""``check`` as a user meets it: the table, the exit codes, the report."""

from __future__ import annotations

import json

import pytest
from command_line import assert_one_line, ropeexport

from ropeexport.machine import find_gpu


def test_a_pass_says_what_ran_and_where_the_worst_sits(exported) -> None:
    folder = exported(dtype="fp32")
    done = ropeexport("check", folder, "--cases", "6")
    assert done.returncode == 0, done.stderr
    for words in ("eager", "onnxruntime", "function body", "6/6", "worst at out[", "PASS: 6 cases"):
        assert words in done.stdout
    assert "SKIPPED" in done.stdout  # there is no engine
    assert (folder / "parity.json").is_file()


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_a_required_runtime_that_did_not_run_is_exit_code_3(exported) -> None:
    done = ropeexport("check", exported(), "--cases", "1", "--require", "tensorrt")
    assert done.returncode == 3
    assert "tensorrt was required: SKIPPED" in done.stderr


def test_json_is_the_report_and_reports_are_overwritten(exported) -> None:
    folder = exported()
    for _ in range(2):
        done = ropeexport("check", folder, "--cases", "2", "--json")
        assert json.loads(done.stdout) == json.loads((folder / "parity.json").read_text())
    assert json.loads(done.stdout)["verdict"] == "PASS"


def test_a_difference_is_exit_code_1(exported) -> None:
    done = ropeexport("check", exported(), "--cases", "2", "--atol", "0")
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert "largest error" in done.stdout


def test_nothing_compared_is_no_pass(exported) -> None:
    done = ropeexport(
        "check", exported(dtype="bf16"), "--cases", "1", "--runtime", "onnxruntime", "--json"
    )
    report = json.loads(done.stdout)
    if any(r["status"] == "PASS" for r in report["runtimes"] if r["name"] != "eager"):
        pytest.skip("a GPU ran bfloat16 here")
    assert (done.returncode, report["verdict"]) == (3, "FAIL")


@pytest.mark.parametrize("lengths", ["0", "a", "1,,2"])
def test_lengths_that_are_none_are_usage(exported, lengths: str) -> None:
    done = ropeexport("check", exported(), "--lengths", lengths)
    assert done.returncode == 2
    assert "lengths: expected" in done.stderr


def test_lengths_beyond_the_profile_are_one_line(exported) -> None:
    assert_one_line(ropeexport("check", exported(), "--lengths", "999999"), 2, "expected 1 to")
