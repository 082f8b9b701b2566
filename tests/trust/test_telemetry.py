"""onnxruntime's telemetry is off where ropeexport loads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT

pytestmark = pytest.mark.hostile

RUN = """
import sys
{first}
import ropeexport
with ropeexport.load(sys.argv[1], runtime="onnxruntime", device="cpu") as model:
    model.run(model.random_inputs())
"""


def left_by(code: str, folder: Path, home: Path) -> set[str]:
    """Return the names of files that a process leaves in its user's home."""
    home.mkdir()
    kept = {n: v for n, v in os.environ.items() if n not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-P", "-c", code, str(folder)]
    subprocess.run(command, env=environment, check=True)
    return {path.name for path in home.rglob("*") if path.is_file()}


def test_no_device_id_is_made(exported, tmp_path) -> None:
    out = exported(dtype="fp32")
    assert "deviceid" not in left_by(RUN.format(first=""), out, tmp_path / "ours")
    bare = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1] + '/model.onnx')"
    if "deviceid" not in left_by(bare, out, tmp_path / "bare"):
        pytest.skip("this onnxruntime has no telemetry")


def test_openvino_tells_nothing_either(exported, tmp_path) -> None:
    out = exported(dtype="fp32")
    code = RUN.format(first="").replace('runtime="onnxruntime"', 'runtime="openvino"')
    assert "openvino_ga_cid" not in left_by(code, out, tmp_path / "ours")
    if "openvino_ga_cid" not in left_by("import openvino", out, tmp_path / "bare"):
        pytest.skip("this OpenVINO has no telemetry")


def test_one_that_is_loaded_already_is_told() -> None:
    code = (
        "import onnxruntime; told = []; "
        "onnxruntime.disable_telemetry_events = lambda: told.append(1); "
        "import ropeexport; assert told == [1]"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-P", "-c", code], env=environment, check=True)
