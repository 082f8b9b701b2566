"""Commands ended by a signal at one of their changes of files; the next ones must understand."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attack import folders
from attack.finding import Finding, Tally
from attack.trial import complaints
from attack.worker import Ended, Worker, give

PATIENCE = 120.0
CLEAN = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_SIZES = "--heads 2 --head-dim 8 --length 8"
_CHECK = "--cases 1 --runtime onnxruntime"


@dataclass(frozen=True)
class Writing:
    """A command that writes into ``folder``, and how it is said once more where that exists."""

    argv: tuple[str, ...]
    folder: str
    bases: tuple[str, ...] = ()
    again: tuple[str, ...] = ("--force",)
    then: tuple[str, ...] = ()  # what has to succeed once it was done again


def _writing(
    command: str,
    folder: str,
    *bases: str,
    again: tuple[str, ...] = ("--force",),
    then: str = "",
) -> Writing:
    return Writing(tuple(command.split()), folder, bases, again, tuple(then.split()))


WRITING = (
    _writing(f"export flux-attention -o new {_SIZES}", "new"),
    _writing("export flux-attention -o engine --heads 4 --head-dim 8 --length 8 --force",
             "engine", "engine", again=()),
    _writing("export transformers:llama -o llama --cache grow", "llama", "llama"),
    _writing("export transformers:llama -o new --copy-weights", "new", "llama"),
    _writing("fuse foreign/model.onnx -o new", "new", "foreign"),
    _writing("fuse foreign/model.onnx -o flux --force", "flux", "foreign", "flux", again=()),
    _writing("build flux", "flux", "flux"),
    _writing("build engine --impl native --force", "engine", "engine", again=()),
    _writing(f"check flux {_CHECK} --html flux/page.html --junit flux/units.xml", "flux", "flux",
             again=()),
    _writing("report flux --html flux/page.html --markdown flux/page.md", "flux", "flux", again=()),
    _writing("run flux --random --runtime onnxruntime -o flux/new.npz", "flux", "flux"),
    _writing("sign signed/folder --key signed/private.pem --force", "signed/folder", "signed",
             again=(), then="verify signed/folder --key signed/public.pem"),
    _writing("bench flux --against eager --rounds 1 --repeats 1", "flux", "flux", again=()),
)  # fmt: skip


def kills(worker: Worker, bases: Path, count: int, seed: int) -> Iterator[Tally]:
    """Kill commands, spread over the verbs and over what each does; a tally each."""
    drawn = random.Random(seed)
    operations: dict[Writing, int] = {}
    turn = drawn.sample(WRITING, len(WRITING))  # a few are not always of the first
    for number in range(count):
        writing = turn[number % len(turn)]
        if writing not in operations:
            _prepare(worker, bases, writing)
            operations[writing] = worker.run(writing.argv, PATIENCE).operations
        last = drawn.randint(1, max(1, operations[writing]))
        ending = signal.SIGKILL if drawn.random() < 0.6 else drawn.choice(CLEAN)
        yield killed(worker, bases, writing, last, ending)


def _prepare(worker: Worker, bases: Path, writing: Writing) -> None:
    worker.clear()
    for base in writing.bases:
        shutil.copytree(bases / base, worker.work / base)
    give(worker.work)


def killed(
    worker: Worker, bases: Path, writing: Writing, last: int, ending: signal.Signals
) -> Tally:
    """Kill one command at one of its changes, and judge what is left and what comes next."""
    _prepare(worker, bases, writing)
    others = {
        name: sha
        for name, sha in folders.hashes(worker.work).items()
        if name.endswith((".safetensors", "config.json", "foreign/model.onnx"))
    }
    ended = worker.run(writing.argv, PATIENCE, kill=(last, ending))
    wrong = [*_after(worker, writing, ended, ending), *_next(worker, writing)]
    now = folders.hashes(worker.work)
    if changed := [name for name, sha in others.items() if now.get(name) != sha]:
        wrong.append(("contradiction", f"files of the user's were changed: {changed}"))
    how = f"{ending.name} at change {last} of `ropeexport {' '.join(writing.argv)}`"
    found = tuple(Finding(kind, text, how, writing.bases) for kind, text in wrong)
    return Tally("kills", writing.argv[0], parsed=True, findings=found)


def _after(
    worker: Worker, writing: Writing, ended: Ended, ending: signal.Signals
) -> list[tuple[str, str]]:
    """Judge what a killed command leaves by itself."""
    folder, wrong = worker.work / writing.folder, []
    if ended.hung:
        wrong.append(("hang", "the signal did not end it"))
    if ended.left:
        wrong.append(("leftover", "a process outlived the killed command"))
    if text := folders.contradiction(folder):
        wrong.append(("contradiction", text))
    if ending != signal.SIGKILL:
        if left := folders.halves(worker.work, worker.place / "tmp"):
            wrong.append(("leftover", f"after {ending.name}: {left[0].split('/')[0][:9]}*"))
        if "Traceback" in ended.errors:
            wrong.append(("traceback", f"at {ending.name}"))
    return wrong


def _next(worker: Worker, writing: Writing) -> list[tuple[str, str]]:
    """Judge the commands after it: a reader, the same again, with --force, and what reads it."""
    folder, wrong = worker.work / writing.folder, []
    steps = [("inspect", writing.folder), writing.argv, (*writing.argv, *writing.again)]
    steps += [("check", writing.folder, *_CHECK.split())] if writing.folder != "llama" else []
    steps += [writing.then] if writing.then else []
    for number, argv in enumerate(steps):
        ended = worker.run(argv, PATIENCE)
        wrong += [(kind, f"then `{argv[0]}`: {text}") for kind, text in complaints(ended)]
        if number >= 2 and ended.code != 0:
            last = ended.errors.strip().splitlines()[-1:]
            wrong.append(("contradiction", f"then `{' '.join(argv)}` exits {ended.code}: {last}"))
        if text := folders.contradiction(folder):
            wrong.append(("contradiction", f"then `{argv[0]}`: {text}"))
    if left := folders.halves(worker.work):
        wrong.append(("leftover", f"never removed: {left[0][:9]}*"))
    return wrong
