"""The forms of a report on the command line, and an interruption that loses nothing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from command_line import ROOT, assert_one_line, ropeexport
from made_workers import HEARS_SIGNALS

import ropeexport as api
from ropeexport import machine
from ropeexport.cli.main import cli


def test_check_writes_every_form_and_report_writes_the_same_again(exported, tmp_path) -> None:
    folder = exported(dtype="fp32")
    forms = ("html", "markdown", "junit")

    def paths(where: str) -> list[str]:
        return [word for form in forms for word in (f"--{form}", str(tmp_path / where / form))]

    assert ropeexport("check", folder, "--cases", "3", *paths("a")).returncode == 0
    assert ropeexport("report", folder, *paths("b")).returncode == 0
    for form in forms:
        written = (tmp_path / "a" / form).read_text(encoding="utf-8")
        assert written == (tmp_path / "b" / form).read_text(encoding="utf-8")
    assert (tmp_path / "a" / "html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert ElementTree.parse(tmp_path / "a" / "junit").getroot().attrib["failures"] == "0"


def test_forms_leave_the_json_on_standard_output_alone(exported, tmp_path) -> None:
    done = ropeexport("check", exported(), "--cases", "1", "--json", "--junit", tmp_path / "j.xml")
    assert json.loads(done.stdout)["verdict"] == "PASS"
    assert "junit: " in done.stderr


def test_a_missing_package_is_said_before_the_run(exported, tmp_path, monkeypatch) -> None:
    find = machine.find_spec
    monkeypatch.setattr(machine, "find_spec", lambda n: None if n == "matplotlib" else find(n))
    folder = exported()
    done = CliRunner().invoke(cli, ["check", str(folder), "--html", str(tmp_path / "a.html")])
    assert done.exception is not None
    assert "pip install 'ropeexport[report]'" in str(done.exception)
    assert not (folder / "parity.json").exists()


def test_the_schema_is_printed(tmp_path) -> None:
    published = (ROOT / "docs/parity.schema.json").read_text(encoding="utf-8")
    assert ropeexport("check", "--schema").stdout == published


def test_a_folder_without_a_report_is_one_line(tmp_path) -> None:
    assert_one_line(ropeexport("report", tmp_path), 1, "run 'ropeexport check DIR' first")


BROKEN = {
    "uneven rows": (("surveys", 0, "worst", "rows", 0), [0.5], "columns in each"),
    "more heads than columns": (("surveys", 0, "worst", "heads"), 10**9, "multiple of 1000000000"),
    "a position below 0": (("surveys", 0, "positions", 0, "first"), -3, "greater than or equal"),
    "another runtime": (("surveys", 0, "runtime"), "mine", "one of .*got 'mine'"),
    "another runtime's case": (("comparisons", 0, "runtime"), "mine", "one of .*got 'mine'"),
}


@pytest.mark.parametrize(("place", "value", "said"), BROKEN.values(), ids=BROKEN)
def test_a_report_whose_parts_disagree_is_one_line(exported, tmp_path, place, value, said) -> None:
    folder = exported(dtype="fp32")
    api.check(folder, cases=1, runtimes="onnxruntime")
    path = folder / "parity.json"
    report = json.loads(path.read_text())
    part = report
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    path.write_text(json.dumps(report))
    done = ropeexport("report", folder, "--html", tmp_path / "page.html")
    assert_one_line(done, 1, "parity.json")
    assert re.search(said, done.stderr)
    assert not (tmp_path / "page.html").exists()


def test_cases_without_the_reports_length_have_no_plot_of_it(exported, tmp_path) -> None:
    folder = exported(dtype="fp32")
    api.check(folder, cases=1, runtimes="onnxruntime")
    path = folder / "parity.json"
    path.write_text(path.read_text().replace('"lengths": [', '"lengths": ["of another", '))
    assert ropeexport("report", folder, "--html", tmp_path / "page.html").returncode == 0
    assert "Error against position" in (tmp_path / "page.html").read_text()


def test_ctrl_c_leaves_the_finished_cases_in_the_report(exported) -> None:
    folder = exported()
    code = f"{HEARS_SIGNALS}\nfrom ropeexport.cli.main import main\nmain()"
    command = [sys.executable, "-c", code, "check", str(folder), "--cases", "100000"]
    with subprocess.Popen(
        [*command, "--lengths", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:  # the runtimes are announced before the first case
            if "tensorrt" in line:
                break
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "FAIL: interrupted" in output
    report = json.loads((folder / "parity.json").read_text())
    assert report["complete"] is False
    cases = {c["case"]["name"] for c in report["comparisons"] if c["case"]}
    assert 0 < len(cases) < 100_000
    assert {c["status"] for c in report["comparisons"] if c["case"]} == {"PASS"}


def test_a_report_of_another_model_is_said_to_be_one(exported) -> None:
    folder = exported(dtype="fp32")
    api.check(folder, cases=1, runtimes="onnxruntime")
    assert ropeexport("report", folder).stderr == ""
    api.export("flux-attention", out=folder, heads=4, head_dim=8, length=8, force=True)
    done = ropeexport("report", folder)
    assert done.returncode == 0
    assert done.stderr.startswith("note: the report is of another model.onnx than the one that is")
