"""A command with a fault for each of its verbs, which attacks must notice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    _VERBS[sys.argv[1]]()


def _raises() -> None:
    raise KeyError("nobody foresaw this")


def _sleeps() -> None:
    time.sleep(60)


def _eats() -> None:
    sys.exit(len(b"1" * (300 << 20)) & 1)


def _dies() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _leaves() -> None:
    Path(".model.onnx.abcd1234.tmp").touch()
    sys.exit("error: a disk is full")


def _leaves_in_tmp() -> None:
    Path(os.environ["TMPDIR"], "half").touch()


def _leaves_a_process() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def _talks() -> None:
    sys.exit("error: one\ntwo\nthree\nfour\nfive")


def _ends_oddly() -> None:
    sys.exit(7)


def _escapes() -> None:
    print("\x1b[31mname")


def _refuses() -> None:
    print("error: x.json: expected an object", file=sys.stderr)
    sys.exit(1)


def _tears() -> None:
    """Write a model and then what says which: a kill in between leaves another one's hash."""
    folder = Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    data = str(time.monotonic_ns()).encode()
    half = folder / f".model.{os.getpid()}.tmp"
    half.write_bytes(data)
    half.rename(folder / "model.onnx")
    model = {"file": "model.onnx", "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"model": model}))


_VERBS = {
    "raises": _raises, "sleeps": _sleeps, "eats": _eats, "dies": _dies, "leaves": _leaves,
    "leaves in tmp": _leaves_in_tmp, "leaves a process": _leaves_a_process, "talks": _talks,
    "ends oddly": _ends_oddly, "escapes": _escapes, "refuses": _refuses, "fine": lambda: None,
    "tears": _tears, "inspect": lambda: None, "check": lambda: None,
}  # fmt: skip
