"""Files of the current folder are no modules: not of a command, and not of what it starts."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from command_line import ROOT

from ropeexport.child_process import safe_environment

pytestmark = pytest.mark.hostile

# what Python itself imports before a command's first line is not among them
NAMES = (
    "numpy", "onnx", "torch", "onnxruntime", "onnx_ir", "pip", "click", "rich", "pydantic",
    "cloudpickle", "matplotlib", "tensorrt_rtx", "json", "pickle", "hashlib", "ropeexport",
    "sitecustomize", "usercustomize",
)  # fmt: skip


@pytest.fixture
def hostile(tmp_path) -> Path:
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')")
    return folder


def run(folder: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command there as its script does."""
    script = "from ropeexport.cli.main import main; main()"
    command = [sys.executable, "-P", "-c", script, *map(str, words)]
    return started(folder, command, PYTHONPATH=str(ROOT), **variables)


def started(folder: Path, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    ran = folder.parent / "ran"
    assert not ran.exists(), ran.read_text()
    return done


def test_the_stand_ins_would_be_seen(hostile) -> None:
    with pytest.raises(AssertionError, match="json"):
        started(hostile, [sys.executable, "-c", "import json"])


def test_an_empty_part_of_the_path_is_left_out_for_children(hostile, monkeypatch) -> None:
    """A shell leaves one where it joins a path that is not set; it is the current folder."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep + str(ROOT))
    safe = safe_environment(os.environ)
    assert safe["PYTHONPATH"] == str(ROOT)
    started(hostile, [sys.executable, "-c", "import json, numpy"], **safe)


def test_no_verb_runs_them(exported, hostile) -> None:
    out = exported(dtype="fp32")
    for words in (
        ["inspect", out],
        ["build", out, "--impl", "decomposed"],
        ["check", out, "--cases", "1", "--runtime", "onnxruntime"],
        ["bench", out, "--against", "plain", "--device", "cpu", "--rounds", "1", "--repeats", "1"],
    ):
        done = run(hostile, *words)
        assert done.returncode == 0, done.stderr


def test_python_m_runs_none_of_them_either(exported, hostile) -> None:
    command = [sys.executable, "-m", "ropeexport", "inspect", str(exported(dtype="fp32"))]
    (hostile / "ropeexport.py").unlink()  # Python's own: it is what was asked for
    done = started(hostile, command, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    """Stand-ins for the compilers; pip reaches no index."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cmake", "nvcc"):
        (folder / name).write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import json'\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("CUDACXX", str(folder / "nvcc"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("TENSORRT_INCLUDE_DIR", raising=False)
    return folder


def test_the_plugins_build_runs_none_of_them(hostile, tools, tmp_path) -> None:
    done = run(hostile, "plugin", "build")
    assert done.returncode == 3, done.stderr
    assert "TensorRT's headers: not on this system" in done.stderr
    (tmp_path / "NvInferRuntime.h").touch()
    done = run(hostile, "plugin", "build", "--tensorrt-include", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "expected libropeexport_plugin.so from CMake, found none" in done.stderr


def test_what_is_downloaded_is_never_built(hostile, tools, tmp_path) -> None:
    with tarfile.open(tmp_path / "kernel_lens-2.0.1.tar.gz", "w:gz") as archive:
        for name, text in (
            ("setup.py", f"open({str(tmp_path / 'ran')!r}, 'a').write('setup.py ')"),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: kernel-lens\nVersion: 2.0.1\n"),
        ):
            entry = tarfile.TarInfo(f"kernel_lens-2.0.1/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    # the user's own settings of pip do not let it in either
    done = run(hostile, "plugin", "build", PIP_FIND_LINKS=str(tmp_path), PIP_NO_BINARY=":all:")
    assert done.returncode == 3, done.stderr
    assert "kernel-lens==2.0.1, which carries them, cannot be downloaded" in done.stderr


def test_a_peers_environment_is_not_looked_for_there(hostile, monkeypatch) -> None:
    from torch import nn

    from ropeexport.bench import peers
    from ropeexport.errors import MissingError

    script = hostile / "build/optimum/bin/optimum-cli"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!/bin/sh\ntouch {hostile.parent / 'ran'}\n")
    script.chmod(0o755)
    monkeypatch.chdir(hostile)
    monkeypatch.delenv(peers.VARIABLE, raising=False)
    if peers._OPTIMUM.is_file():
        pytest.skip("the checkout has the peer's environment")
    with pytest.raises(MissingError, match="make optimum"):
        peers.export_with_optimum(nn.Linear(1, 1), hostile / "optimum.onnx")
    assert not (hostile.parent / "ran").exists()
