"""The pytest plugin in suites of their own, with the very examples of docs/testing.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
FAILING = """
import numpy as np
import pytest
from ropeexport.testing import assert_parity

pytestmark = pytest.mark.parity(atol=0.5)


def test_within_the_marker(parity):
    parity(np.array([1.4]), np.ones(1))


@pytest.mark.parity(atol=0.1)
def test_beyond_the_nearest_marker(parity):
    parity(np.array([1.4]), np.ones(1), name="logits")


def test_of_its_own(parity):
    parity(np.array([2.0]), np.ones(1), atol=1.5)


def test_nan(parity):
    parity(np.array([np.nan]), np.ones(1))
"""


def run(folder: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", *options, "test_it.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def example(heading: str) -> str:
    section = PAGE.read_text().partition(f"## {heading}\n")[2]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def summary_of(output: str) -> str:
    return re.search(r"=+ ropeexport parity =+\n(.*)", output, re.DOTALL)[1]


def test_the_documented_example(tmp_path) -> None:
    done = run(tmp_path, example("Arrays"))
    assert done.returncode == 0, done.stdout
    lines = summary_of(done.stdout).splitlines()
    assert lines[0] == "2 comparisons in 2 tests: 2 PASS"
    assert re.match(r"  \d+% of its bound: out in test_it.py::test_softmax", lines[1])


def test_the_documented_export(tmp_path) -> None:
    done = run(tmp_path, example("Exports"))
    assert done.returncode == 0, done.stdout
    summary = summary_of(done.stdout)
    assert "onnxruntime out in test_it.py::test_export" in summary
    assert re.search(r"SKIPPED tensorrt out in test_it.py::test_export: no engine", summary)


def test_a_required_runtime_that_there_is_not_is_no_pass(export_once) -> None:
    from ropeexport.errors import UsageError
    from ropeexport.testing import assert_export_parity

    folder = export_once()
    with pytest.raises(UsageError, match="'onxruntime': expected a runtime, one of onnxruntime"):
        assert_export_parity(folder, cases=1, require=["onxruntime"])
    with pytest.raises(UsageError, match="require: not for a comparison of files"):
        assert_export_parity(folder, folder / "model.onnx", cases=1, require=["onnxruntime"])
    with pytest.raises(AssertionError, match="tensorrt was required: SKIPPED: no engine"):
        assert_export_parity(folder, cases=1, require=["tensorrt"])


def test_an_export_that_is_broken_fails(tmp_path, export_once) -> None:
    code = f"""
import onnx
from ropeexport.testing import assert_export_parity

def test_broken(tmp_path):
    model = onnx.load("{export_once()}/model.onnx")
    node = next(n for n in model.graph.node if n.op_type == "Attention")
    next(a for a in node.attribute if a.name == "is_causal").i = 1
    onnx.save(model, "broken.onnx")
    assert_export_parity("{export_once()}/model.onnx", "broken.onnx", cases=6)
"""
    done = run(tmp_path, code)
    assert done.returncode == 1
    assert re.search(r"candidate out, .*: root mean square error", done.stdout)
    assert "again: ropeexport check" in done.stdout


def test_markers_and_failures(tmp_path) -> None:
    done = run(tmp_path, FAILING)
    assert "2 failed, 2 passed" in done.stdout
    summary = summary_of(done.stdout)
    assert summary.startswith("4 comparisons in 4 tests: 2 FAIL, 2 PASS")
    assert "beyond all of its bound: out in test_it.py::test_nan: not finite: 1 NaN" in summary
    assert "400% of its bound: logits in test_it.py::test_beyond_the_nearest_marker" in summary


@pytest.mark.parametrize("options", [(), ("-p", "no:ropeexport")])
def test_a_suite_without_parity_sees_nothing(tmp_path, options) -> None:
    code = "import sys\ndef test_light():\n    assert not {'numpy', 'torch'} & set(sys.modules)\n"
    done = run(tmp_path, code, *options)
    assert done.returncode == 0, done.stdout
    assert "parity" not in done.stdout
