"""A folder that may not be written: what only reads it works, and no result is lost."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, assert_one_line, ropeexport
from trust.keys import make_keys

import ropeexport as package
from ropeexport.errors import ParityError

pytestmark = pytest.mark.hostile

_DROP_FROM_BOUNDING_SET = 24  # PR_CAPBSET_DROP
_OVERRIDE_PERMISSIONS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def bound_by_permissions() -> None:
    """Let root's child be held to permissions as any user is; without effect for a user."""
    for capability in _OVERRIDE_PERMISSIONS:
        ctypes.CDLL(None).prctl(_DROP_FROM_BOUNDING_SET, capability)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ropeexport", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=bound_by_permissions,
    )  # fmt: skip


@pytest.fixture
def read_only(exported):
    folder = exported(dtype="fp32", head_dim=16)
    files = sorted(folder.rglob("*"))
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    assert sorted(folder.rglob("*")) == files


def test_check_prints_its_result_and_says_that_it_is_not_kept(read_only) -> None:
    done = run("check", read_only, "--cases", "2", "--runtime", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "PASS: 2 cases" in done.stdout
    assert "report: " not in done.stdout
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {read_only / 'parity.json'}: not written: Permission denied"]


def test_a_form_that_was_asked_for_and_cannot_be_written_is_a_failure(read_only, tmp_path) -> None:
    lost, kept = "/dev/full", tmp_path / "j.xml"
    done = run("check", read_only, "--cases", "1", "--json", "--markdown", lost, "--junit", kept)
    assert done.returncode == 1
    assert json.loads(done.stdout)["verdict"] == "PASS"
    assert (
        f"error: {lost}: not written: No space left on device [RX710]" in done.stderr.splitlines()
    )
    assert kept.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    "arguments", [("inspect",), ("inspect", "--lint"), ("run", "--random", "--runtime", "openvino")]
)
def test_what_only_reads(read_only, arguments) -> None:
    done = run(*arguments, read_only)
    assert (done.returncode, done.stderr) == (0, "")


def test_build_and_fuse_say_it_in_a_line(read_only) -> None:
    for words in (("build", read_only), ("fuse", read_only / "model.onnx", "-o", read_only / "new"),
                  ("export", "flux-attention", "-o", read_only, "--force")):  # fmt: skip
        done = run(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "Permission denied" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.fixture
def taken(exported) -> Path:
    """A folder whose records cannot take their places, whoever writes."""
    folder = exported(dtype="fp32", head_dim=16)
    for name in ("parity.json", "bench.json"):
        (folder / name / "kept").mkdir(parents=True)
    return folder


def test_bench_prints_its_result(taken) -> None:
    done = ropeexport(
        "bench", taken, "--against", "eager", "--rounds", "1", "--repeats", "1", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert "eager torch" in done.stdout
    assert "report: " not in done.stdout
    assert f"note: {taken / 'bench.json'}: expected a file to replace, got a folder" in done.stderr
    assert not (taken / "bench.png").exists()
    assert not list(taken.glob(".*"))


def test_the_functions_return_what_they_found(taken) -> None:
    with pytest.warns(UserWarning, match=r"parity\.json: not written: Is a directory"):
        report = package.check(taken, cases=1, runtimes="onnxruntime")
    assert report.verdict == "PASS"
    with pytest.raises(ParityError, match="/dev/full: not written: No space left on device"):
        package.check(taken, cases=1, runtimes="onnxruntime", markdown="/dev/full")


@pytest.mark.parametrize("verb", ["build", "sign"])
def test_a_folder_is_named_and_not_what_was_to_lie_in_it(read_only, tmp_path, verb) -> None:
    private, _ = make_keys(tmp_path)
    done = run(verb, read_only, *(["--key", private] if verb == "sign" else []))
    assert_one_line(done, 1, f"error: {read_only}: Permission denied [RX005]")


def test_a_report_into_a_full_device_is_named(exported, tmp_path) -> None:
    folder = exported(dtype="fp32", head_dim=16)
    package.check(folder, cases=1, runtimes="onnxruntime")
    done = run("report", folder, "--html", "/dev/full")
    assert_one_line(done, 1, "error: /dev/full: No space left on device [RX004]")


def test_a_file_that_may_not_be_read_is_not_called_missing(exported, tmp_path) -> None:
    folder, (private, public) = exported(dtype="fp32", head_dim=16), make_keys(tmp_path)
    package.sign(folder, private)
    (folder / "model.onnx").chmod(0)
    done = run("verify", folder, "--key", public)
    assert_one_line(done, 1, f"error: {folder / 'model.onnx'}: Permission denied [RX005]")


def test_a_link_in_a_report_s_place_stays_and_the_result_is_shown(exported, tmp_path) -> None:
    """As in a hub's cache of a folder that was sent with its reports."""
    folder, blob = exported(dtype="fp32", head_dim=16), tmp_path / "blob"
    blob.write_text("{}")
    (folder / "parity.json").symlink_to(blob)
    done = ropeexport("check", folder, "--cases", "1", "--runtime", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "PASS: 1 case" in done.stdout
    assert f"note: {folder / 'parity.json'}: expected a file or nothing, got a link" in done.stderr
    assert blob.read_text() == "{}"
