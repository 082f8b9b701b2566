"""README and Makefile agree with what the command does: its commands run, its tables are whole."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT

from ropeexport.cli import main

README = (ROOT / "README.md").read_text()
SMALL = "--heads 2 --head-dim 64 --length 16"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(word: str) -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(word)]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = shlex.split(command)
    assert arguments[0] == "ropeexport"
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.trt
def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(blocks("python")[0])
    listed = commands("ropeexport ")
    assert [shlex.split(c)[1] for c in listed[:5]] == [
        "export", "build", "check", "inspect", "doctor",
    ]  # fmt: skip
    for command in listed:
        if command.startswith("ropeexport export flux-attention"):
            command = f"{command} {SMALL}"  # noqa: PLW2901  # the same road with a small model
        if command.startswith("ropeexport check"):
            command += " --cases 3"  # noqa: PLW2901
        done = run(command, tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "manifest.json", "model.onnx", "model.engine", "parity.json",
    }  # fmt: skip


def test_every_verb_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)[^|]*\|", README, re.MULTILINE)
    assert set(main._COMMANDS) <= set(rows)


def test_make_has_the_two_commands_and_every_target_that_is_named() -> None:
    assert commands("make ") == ["make demo", "make test"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {name.split()[1] for name in re.findall(r"`(make [a-z-]+)`", README)} <= targets


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:docs|plugins|benchmarks)/[\w./-]+\.\w+)`", README)
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name
