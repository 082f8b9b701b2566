"""The command line as a user meets it: a process of its own, its exit code and its lines.

What every command imports takes longer than most commands do, so the processes are forked from one
that has imported it and done nothing else.  Variables that a library reads while it is imported are
those of that process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
UNFORESEEN = "[RX003]"  # the code of what would be a traceback
_FORKING = """
import gc, json, os, runpy, sys, tempfile
import onnx.reference, onnx_ir, onnxscript, pydantic, rich
import torch.export._trace, torch.onnx._internal.exporter._core
gc.freeze()
for line in sys.stdin:
    order = json.loads(line)
    if (process := os.fork()) == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
else:
    sys.exit()
os.chdir(order["folder"])
os.environ.clear()
os.environ.update(order["environment"])
tempfile.tempdir = None  # of the environment before
sys.path[0] = order["folder"]
for stream, name in ((0, os.devnull), (1, order["output"]), (2, order["errors"])):
    os.dup2(os.open(name, os.O_RDWR), stream)
sys.argv = ["ropeexport", *order["arguments"]]
runpy.run_module("ropeexport", run_name="__main__")
"""


def ropeexport(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it printed; whatever it is, it was foreseen."""
    words = [str(argument) for argument in arguments]
    forking = _forking_process()
    assert forking.stdin is not None
    assert forking.stdout is not None
    with TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        output.touch()
        errors.touch()
        order = {
            "arguments": words,
            "folder": str(Path(cwd or ".").absolute()),
            "environment": dict(os.environ),
            "output": str(output),
            "errors": str(errors),
        }
        print(json.dumps(order), file=forking.stdin, flush=True)
        code = int(forking.stdout.readline())
        said = errors.read_text()
        assert UNFORESEEN not in said, said
        return subprocess.CompletedProcess(words, code, output.read_text(), said)


@cache
def _forking_process() -> subprocess.Popen[str]:
    """Start the process that all commands of this one are forked from; it ends with this one."""
    command = [sys.executable, "-c", _FORKING]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    """Hold a failure to its exit code and to one line, with a code, that says what is wrong."""
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr
    assert re.fullmatch(r"error: .+ \[RX\d{3}\]\n", done.stderr), done.stderr
