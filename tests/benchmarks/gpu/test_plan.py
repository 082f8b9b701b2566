"""Fifteen minutes on a bare machine, rehearsed: its scripts, on stand-ins for what it has.

The scripts run as they would there, in a copy of the files without git, in processes whose Python
has no network.  Stand-ins (``standins/``): the driver's library, nvcc, whose
kernels run on the host, compute-sanitizer, ncu, cmake, and the CPU for torch's GPU.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.gpu.compiler import NATIVE, ROOT

HERE = Path(__file__).parent
STANDINS = HERE / "standins"
SCRIPTS = ("1.sh", "2.sh", "3.sh")
MOST_FILES = 8  # that come back from such a machine after a command

pytestmark = pytest.mark.plugin  # nvcc compiles the kernels for the host


@dataclass(frozen=True)
class Box:
    """The machine: a folder with the files, and what its processes see."""

    files: Path
    out: Path
    environment: dict[str, str]

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command in bash, in a process group of its own."""
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.files,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """Run a command to its end, into an empty ``OUT``, and return what it printed."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        process = self.start(command)
        output, _ = process.communicate(timeout=300)
        assert "Traceback" not in output, output
        return output

    def result(self) -> dict:
        """Read the one result file in ``OUT``."""
        (path,) = self.out.glob("nvidia-stand-in-*.json")
        return json.loads(path.read_text())

    def compiled(self) -> list[str]:
        """Return what nvcc was asked for."""
        path = Path(self.environment["STANDINS"]) / "compiled"
        return path.read_text().split() if path.is_file() else []


@pytest.fixture(scope="module")
def standins(host_build, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(STANDINS, tmp_path_factory.mktemp("standins") / "bin"))
    native = HERE / "native"
    sources = (native / "host_cuda.cpp", NATIVE / "driver.cpp")
    launch = {"options": ("-O1",)}
    shutil.copy(host_build("libhost.so", native / "host_launch.cpp", **launch), folder)
    program = host_build("host-driver", native / "host_launch.cpp", *sources, link=(), **launch)
    shutil.copy(program, folder)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", folder / "cuda.c", "-o", folder / "libcuda.so.1"],
        check=True,
    )
    return folder


@pytest.fixture
def box(standins, tmp_path) -> Box:
    """A machine as it comes: the files with what was taken along, and nothing compiled on it."""
    files = tmp_path / "files"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("benchmarks", "plugins", "ropeexport"):
        shutil.copytree(ROOT / name, files / name, ignore=ignored)
    (files / "tests").mkdir()
    shutil.copy(ROOT / "tests/seed_functions.py", files / "tests")
    shutil.copytree(ROOT / "benchmarks/gpu/plan", files / ".gpu", ignore=ignored)
    headers = files / ".gpu/trt"
    headers.mkdir()
    for name in ("NvInferRuntime.h", "NvInferVersion.h"):
        (headers / name).touch()
    for name in ("sitecustomize.py", "cuda.c"):
        shutil.copy(standins / name, files)
    shutil.copy(ROOT / "tests/cpu_device.py", files)
    (tmp_path / "site").mkdir()
    out, own = tmp_path / "out", tmp_path / "standins"
    shutil.copytree(standins, own)
    path = os.pathsep.join((str(Path(sys.executable).parent), str(own), os.environ["PATH"]))
    environment = dict(os.environ, PATH=path, OUT=str(out), STANDINS=str(own))
    environment |= {"CUDACXX": str(own / "nvcc"), "LD_LIBRARY_PATH": str(own)}
    environment |= {"SITE": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    return Box(files, out, environment)


GROUPS = ("kernel", "torch.compile", "Liger", "flash-attention", "FlashInfer", "max-autotune")
SHAPES = ("flux", "flux-512", "llama-prefill", "llama-decode", "small-heads")
PREPARE = (
    "export PYTHONPATH=$PWD TENSORRT_INCLUDE_DIR=$PWD/.gpu/trt; python3 -m benchmarks.gpu.prepare"
)
COMMIT = "git init -q . && git add . && git -c user.name=a -c user.email=a@b.c commit -qm all"


def prepared(box: Box) -> str:
    """Compile beforehand, in a checkout; the machine then has a copy of its files alone."""
    box.run(f"{COMMIT} && {PREPARE} && rm -r build .git 2>/dev/null; cat .gpu/commit.json")
    Path(box.environment["STANDINS"], "compiled").unlink()
    return json.loads((box.files / ".gpu/commit.json").read_text())["commit"]


def test_the_plan_from_its_first_command_to_its_last(box) -> None:
    commit = prepared(box)
    logs = []
    for script in SCRIPTS:
        logs.append(box.run(f"bash .gpu/{script}"))
        assert len(list(box.out.iterdir())) <= MOST_FILES
        assert all(path.is_file() for path in box.out.iterdir())
        assert "error:" not in re.sub(r"error: no stand-in for \S+", "", logs[-1])
    # kernels, driver and plugin were found by their contents; FlashInfer's were not taken along
    assert set(box.compiled()) <= {"libflashinfer_rope.so"}
    found = box.result()
    # the rivals are not there
    assert found["parts"] == {"exactness": "PASS", "sanitizer": "PASS", "bench": "PARTIAL"}
    assert (found["commit"], found["changed"]) == (commit, False)
    passed = {check["name"]: check for check in found["checks"] if check["verdict"] == "PASS"}
    assert {"random", "unaligned", "in place", "CUDA graph", "the plugin's enqueue"} <= set(passed)
    timed = {check["name"]: check for check in found["checks"] if check["part"] == "bench"}
    assert timed.keys() == {
        f"{shape} {dtype}, {group}"
        for shape in SHAPES
        for dtype in ("fp16", "bf16")
        for group in GROUPS
    }
    for check in timed.values():
        out = {c["name"] for c in check["timings"] if c["status"] != "TIMED"}
        assert out <= {"Liger", "flash-attention", "FlashInfer"}
    times = {timing["name"]: timing for timing in timed["flux fp16, torch.compile"]["timings"]}
    assert times["torch.compile"]["beside"] == "ours"
    assert times["torch.compile"]["ratio"] > 0


def test_norms_are_proven_and_timed(box) -> None:
    prepared(box)
    log = box.run("bash .gpu/4.sh")
    assert "error:" not in log
    found = box.result()
    assert found["parts"] == {"norms": "PARTIAL"}  # Liger is not there
    verdicts = {check["name"]: check["verdict"] for check in found["checks"]}
    forms = ("matrices", "tables", "tables, halves")
    assert [verdicts[f"norm and rope, {form}"] for form in forms] == ["PASS"] * 3
    timed = {check["name"]: check for check in found["checks"] if check["timings"]}
    assert timed.keys() == {
        f"{shape} {dtype}, {group}"
        for shape in ("flux", "flux-512", "video")
        for dtype in ("fp16", "bf16")
        for group in ("kernel", "torch.compile", "Liger")
    }
    times = {timing["name"]: timing for timing in timed["flux fp16, kernel"]["timings"]}
    assert times["norms, then ours"]["beside"] == "ours"


def test_the_sweep_has_every_cut_and_every_copy(box) -> None:
    box.run("bash .gpu/2.sh")
    for name in ("flux", "flux-512"):
        rows = json.loads((box.out / f"tune-{name}.json").read_text())["rows"]
        cuts = {key for _, key, _, _ in rows}
        assert {"copy", "copy, elementwise", "copy, an access a thread"} <= cuts
        assert len([key for key in cuts if key.startswith("ours")]) == 24
    assert {"sanitizer_driver", "libropeexport_launch.so"} <= set(box.compiled())
    assert (box.out / "ncu.log").read_text() == ""  # FLUX's two shapes, launched once


def test_what_was_checked_outlives_a_cut(box) -> None:
    """Killed at any moment, a run leaves every check that it had told of, and proves no more."""
    box.out.mkdir()
    run = ". .gpu/env.sh; exec $G --only sanitizer"
    told = cut(box.start(run), r"PASS sanitizer: (.+)$", 1)
    left = box.result()
    assert [check["name"] for check in left["checks"]][:1] == told
    assert left["parts"] == {"sanitizer": "UNFINISHED"}
    again = box.start(run)
    assert "PASS" in again.communicate(timeout=300)[0]
    assert box.result()["parts"] == {"sanitizer": "PASS"}


def test_a_bench_that_is_cut_keeps_every_shape_before(box) -> None:
    box.out.mkdir()
    run = ". .gpu/env.sh; exec $G --only bench --shapes flux,flux-512 --dtypes fp16,bf16"
    told = cut(box.start(run), r"PASS bench: (\S+ \S+, kernel)$", 3)
    left = box.result()
    assert [check["name"] for check in left["checks"]][:3] == told
    assert all(check["timings"][0]["time_us"] > 0 for check in left["checks"])
    assert left["parts"] == {"bench": "UNFINISHED"}


def cut(process: subprocess.Popen[str], pattern: str, after: int) -> list[str]:
    """Kill a run once it has told of something so often; return what it told of."""
    told = []
    for line in process.stdout:
        match = re.search(pattern, line.rstrip())
        if match:
            told.append(match[1].strip())
        if len(told) == after:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait(timeout=60)
    process.stdout.close()
    assert len(told) == after
    return told
