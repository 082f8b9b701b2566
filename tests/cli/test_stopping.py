"""Ctrl-C and SIGTERM while a runtime computes what never ends: the command ends within seconds."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import endless_models as endless
import numpy as np
import onnx
import pytest

from ropeexport.errors import ParityError
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.runners.registry import Opening, find

pytestmark = pytest.mark.hostile

X = {"x": np.ones((1, 4), np.float32)}
# a shell that starts something in the background has it ignore Ctrl-C
HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
COMMAND = f"{HEARS}; from ropeexport.cli.main import main; main()"
COMPUTING = f"""
{HEARS}
import hashlib
from ropeexport import stopping
with stopping.heard(stopping.end_now, patience=1.0):
    print("computing", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", (1 << 31) - 1)  # many minutes
"""
HOLDING = """
import sys
from pathlib import Path
import numpy as np
from ropeexport import stopping
from ropeexport.locking import locked
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.runners.registry import Opening, find
path = Path(sys.argv[1])
with stopping.heard(stopping.end_now), locked(path.parent, "check"):
    print("computing", flush=True)
    with find(sys.argv[2]).open(Opening(OnnxFile(path))) as runner:
        runner.run({"x": np.ones((1, 4), np.float32)})
"""
WORKING = f"""
{HEARS}
import time
from ropeexport import stopping
with stopping.heard(stopping.end_now, patience=1.0):
    print("computing", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            sum(range(1000))
    print("cleared")
"""


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-P", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def computes(process: subprocess.Popen[str], said: str) -> None:
    """Wait until a process has said something and computes."""
    assert process.stdout is not None
    for line in process.stdout:
        if said in line:
            break
    time.sleep(1.0)  # to the call


@pytest.fixture
def never(tmp_path: Path) -> Path:
    """A file with a loop that ends by what it computes, which it never does."""
    onnx.save(endless.loop(until="r >= z"), tmp_path / "never.onnx")
    return tmp_path / "never.onnx"


def test_a_check_ends_in_the_midst_of_a_call(never: Path) -> None:
    arguments = ("-c", COMMAND, "check", str(never), str(never), "--cases", "1")
    with started(*arguments) as process:
        computes(process, "candidate")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "interrupted" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_who_holds_a_lock_lets_go_of_it_in_the_midst_of_a_call(never: Path, runtime: str) -> None:
    with started("-c", HOLDING, str(never), runtime) as process:
        computes(process, "computing")
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (128 + signal.SIGTERM, "")
    assert [path.name for path in never.parent.iterdir()] == ["never.onnx"]


def test_a_library_that_does_not_stop_is_not_waited_for() -> None:
    with started("-c", COMPUTING) as process:
        computes(process, "computing")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 128 + signal.SIGINT


def test_a_command_that_clears_up_has_the_time_for_it() -> None:
    with started("-c", WORKING) as process:
        computes(process, "computing")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "cleared\n")


def test_a_runner_stops_from_another_thread_and_for_good(never: Path) -> None:
    with find("onnxruntime").open(Opening(OnnxFile(never))) as runner:
        threading.Timer(0.5, runner.stop).start()
        for _ in range(2):
            with pytest.raises(ParityError, match="terminate") as error:
                runner.run(X)
            assert error.value.code == "RX609"
