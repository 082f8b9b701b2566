"""The command line as a user meets it: in a process of its own, by its exit codes and its lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, assert_one_line, ropeexport

SMALL = ["--heads", "2", "--head-dim", "16", "--length", "8"]


def test_export_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    done = ropeexport("export", "flux-attention", "-o", tmp_path / "out", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "✓ export" in done.stdout
    assert "(pe_batch, pe_heads, length, 8, 2, 2)" in done.stdout
    assert f"next: ropeexport build {tmp_path / 'out'}" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "model.onnx"]


def test_json_is_the_manifest(tmp_path: Path) -> None:
    done = ropeexport("export", "flux-attention", "-o", tmp_path, *SMALL, "--json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "manifest.json").read_text())


def test_a_second_export_needs_force(tmp_path: Path) -> None:
    arguments = ("export", "flux-attention", "-o", tmp_path, *SMALL)
    assert ropeexport(*arguments).returncode == 0
    refused = ropeexport(*arguments)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--force" in refused.stderr
    assert ropeexport(*arguments, "--force").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["flux"], "MODEL: expected one of"),
        (["flux-attention", "--head-dim", "7"], "head_dim: expected an even number"),
        (["flux-attention", "--opset", "20"], "opset: expected 23"),
        (["flux-attention", "--dtype", "fp8"], "fp8"),
        (["tests/user_models.py:grouped_attention", "--heads", "3"], "--heads: only for"),
        (["tests/user_models.py:fails"], "your code failed: RuntimeError: no such weights"),
        (["tests/user_models.py:list_of_axes"], "dynamic axes: expected"),
        (["tests/user_models.py:axes_in_a_list"], "axes: x: expected {axis: name}, {0: 'batch'} s"),
        (["tests/user_models.py:axes_in_a_word"], "dynamic axes: x: expected {axis: name}"),
        (["tests/user_models.py:number_for_a_name"], "x: expected a name like batch"),
        (["tests/user_models.py:no_inputs"], "example inputs: expected a dict by the names"),
        (["tests/user_models.py:number_for_inputs"], "or a tuple in their order, got int"),
        (["tests/user_models.py:odd_name"], "expected a name like batch"),
        (["tests/user_models.py:float64"], "got float64"),
        (["tests/user_models.py:array_input"], "x: expected a tensor, got ndarray"),
    ],
)
def test_usage_errors_are_one_clear_line(tmp_path: Path, arguments, words: str) -> None:
    done = ropeexport("export", *arguments, "-o", tmp_path / "out", cwd=ROOT)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_factory_of_the_users(tmp_path: Path) -> None:
    done = ropeexport("export", "tests/user_models.py:grouped_attention", "-o", tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "2 found, 2 replaced, 0 refused" in done.stdout


@pytest.mark.parametrize("script", ["export", "build", "check"])
def test_scripts_are_the_verbs(script: str) -> None:
    path = ROOT / "scripts" / f"{script}.py"
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"ropeexport {script} [OPTIONS]" in done.stdout


def test_a_factory_in_a_package_and_one_with_a_sibling(tmp_path: Path) -> None:
    package = tmp_path / "pk" / "sub"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    source = (ROOT / "tests" / "user_models.py").read_text()
    (package / "layers.py").write_text(source)
    (package / "model.py").write_text("from .layers import grouped_attention as factory\n")
    (tmp_path / "layers2.py").write_text(source)
    (tmp_path / "alone.py").write_text("from layers2 import grouped_attention as factory\n")
    for model in ("pk.sub.model:factory", "pk/sub/model.py:factory", "alone.py:factory"):
        done = ropeexport("export", model, "-o", "out", "--force", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_an_output_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = ropeexport("export", "flux-attention", "-o", tmp_path / "file", *SMALL)
    assert_one_line(done, 2, str(tmp_path / "file"))
