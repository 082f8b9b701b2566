"""One command after another in a worker's process, and what became of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ENTRY = "ropeexport.cli.main:main"
# imported once, before the forks; what starts threads by its import is not among them
PRELOADED = (
    "ropeexport.cli.making", "ropeexport.cli.proving", "ropeexport.cli.reading",
    "ropeexport.cli.running", "ropeexport.api.making", "ropeexport.api.proving",
    "ropeexport.lint", "ropeexport.fusion", "ropeexport.exporting",
    "ropeexport.parity", "ropeexport.report", "torch.export._trace",
    "torch.onnx._internal.exporter._core", "onnxscript", "onnx.reference", "onnx.shape_inference",
    "onnxruntime", "rich.table", "matplotlib.pyplot", "jinja2",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto",
    "diffusers.models.transformers.transformer_wan",
)  # fmt: skip
NOBODY = 65534


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int  # below 0: by that signal
    hung: bool
    seconds: float
    megabytes: int
    left: bool  # a process of its own outlived it
    operations: int  # how often it changed files
    output: str
    errors: str


def as_ordinary_user(command: Sequence[str]) -> list[str]:
    """Return a command that writes as nobody, where this process is root's.

    The interpreter may lie in root's home, so the command may read what root may.
    """
    if os.getuid() != 0:
        return list(command)
    if shutil.which("setpriv") is None:
        sys.exit("attacks never run as root: install setpriv (util-linux), or be another user")
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    reads = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    return ["setpriv", *user, *reads, "--bounding-set=-all,+dac_read_search", *command]


def environment(place: Path) -> dict[str, str]:
    """Return the variables of a command whose folders all lie in one place."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1",
        "MPLCONFIGDIR": str(place / "matplotlib"),
        "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100",
    }  # fmt: skip


class Worker:
    """A worker's process with a place of its own: ``work`` (where commands run), ``home``, ``tmp``.

    Parameters
    ----------
    place : Path
        A folder that the worker's user may write.
    entry : str
        What is entered, ``package.module:function``; another one than ours, ``file.py:function``,
        in tests.
    preloaded : sequence of str
        Modules that are imported before the first command.
    name : str
        Of this worker, where several have one place.
    """

    def __init__(
        self,
        place: Path,
        entry: str = ENTRY,
        preloaded: Sequence[str] = PRELOADED,
        name: str = "",
    ) -> None:
        self.place = place
        self._name = name
        self._entry, self._preloaded = entry, preloaded
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        self.place.mkdir(parents=True, exist_ok=True)
        give(self.place)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def work(self) -> Path:
        """Where commands run."""
        return self.place / "work"

    def clear(self) -> None:
        """Empty the folders."""
        for name in ("work", "home", "tmp"):
            shutil.rmtree(self.place / name, ignore_errors=True)
            (self.place / name).mkdir(parents=True)
            give(self.place / name)

    def run(
        self,
        argv: Sequence[str],
        deadline: float,
        kill: tuple[int, int] = (-1, 0),
        alone: bool = False,
    ) -> Ended:
        """Run a command line to its end, or until its n-th change of a file and then a signal.

        Where it is ``alone``, an interpreter of its own is started, as a shell does.
        """
        output = self.place / f"output{self._name}"
        errors = self.place / f"errors{self._name}"
        for path in (output, errors):
            path.write_bytes(b"")
            give(path)
        order = {
            "argv": list(argv), "kill": kill, "alone": alone,
            "folder": str(self.work), "deadline": deadline,
            "output": str(output), "errors": str(errors),
            "environment": environment(self.place),
        }  # fmt: skip
        answer = self._asked(order)
        texts = [path.read_bytes()[: 1 << 20].decode(errors="replace") for path in (output, errors)]
        return Ended(**answer, output=texts[0], errors=texts[1])

    def _asked(self, order: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended by itself, {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> None:
        server = [sys.executable, "-P", str(Path(__file__).parent / "server.py")]
        self._process = subprocess.Popen(
            as_ordinary_user([*server, self._entry, *self._preloaded]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(self.place),
            cwd=self.place,
        )


def give(path: Path) -> None:
    """Give a file, or a folder with all that is in it, to the user that commands run as."""
    if os.getuid() != 0:
        return
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            give(child)
