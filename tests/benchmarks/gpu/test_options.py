"""The command line without a GPU: it says so and exits with 3, and needs no torch for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import options
from benchmarks.gpu.cases import DTYPES
from benchmarks.gpu.compiler import ROOT
from benchmarks.gpu.options import Options, parse
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.shapes import SHAPES


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # a machine whose torch would fail to import must still get its answer
    guard = "import sys; sys.modules['torch'] = None; import runpy; "
    code = guard + "runpy.run_module('benchmarks.gpu', run_name='__main__')"
    process = [sys.executable, "-c", code, *arguments]
    return subprocess.run(process, cwd=ROOT, capture_output=True, text=True, check=False)


def test_without_a_gpu_it_exits_with_3(monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "find_gpu", lambda: None)
    assert command.main([]) == 3
    assert "error: no NVIDIA GPU" in capsys.readouterr().err


def test_without_torch_it_exits_with_3(monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "find_gpu", object)
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main([]) == 3
    assert "torch is not installed" in capsys.readouterr().err


def test_help_loads_no_torch() -> None:
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert "exit codes: 0 nothing failed, 1 something failed, 2 usage, 3 no GPU" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--only", "speed"), ("--shapes", "flux,cube"), ("--dtypes", "fp64"), ("--only", "")],
)
def test_usage(arguments) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "expected" in done.stderr


def test_choices_are_those_of_the_modules() -> None:
    assert tuple(PARTS) == options.PARTS
    assert tuple(DTYPES) == options.DTYPES
    assert tuple(shape.name for shape in SHAPES) == options.SHAPE_NAMES


def test_defaults_and_choices() -> None:
    assert parse([]) == Options()
    chosen = parse(["--only", "bench,exactness", "--dtypes", "bf16", "--out", "x", "--quick"])
    assert chosen.only == ("exactness", "bench")
    assert chosen.dtypes == ("bf16",)
    assert (chosen.out, chosen.quick) == (Path("x"), True)
