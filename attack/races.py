"""Two commands or three on one folder at once; afterwards it must fit together."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attack import folders
from attack.finding import Finding, Tally
from attack.trial import complaints
from attack.worker import Ended, Worker, give

PATIENCE = 120.0
_EXPORT = "export flux-attention -o flux --head-dim 8 --length 8 --force --heads"
_CHECK = "check flux --cases 1 --runtime onnxruntime"
_FUSE = "fuse foreign/model.onnx -o flux --force"
TOGETHER = (
    (f"{_EXPORT} 2", f"{_EXPORT} 4"),
    (f"{_EXPORT} 4", "build flux --force"),
    (_FUSE, "fuse script/model.onnx -o flux --force"),
    (_FUSE, f"{_EXPORT} 2"),
    (f"{_EXPORT} 2", _CHECK),
    ("build flux --force", "build flux --force --impl native"),
    ("report flux --html page.html", _CHECK),
    (f"{_EXPORT} 2", "build flux --force", _CHECK),
    ("run flux --random --runtime onnxruntime -o a.npz --force", f"{_EXPORT} 4"),
    (_CHECK, "bench flux --against eager --rounds 1 --repeats 1", "report flux --junit units.xml"),
)


def races(place: Path, bases: Path, count: int, seed: int) -> Iterator[Tally]:
    """Start commands at once, or shortly after each other; a tally each."""
    drawn = random.Random(seed)
    with (
        Worker(place, name="-a") as a,
        Worker(place, name="-b") as b,
        Worker(place, name="-c") as c,
        ThreadPoolExecutor(3) as pool,
    ):
        for number in range(count):
            commands = TOGETHER[number % len(TOGETHER)]
            delays = [drawn.random() * drawn.choice([0.0, 0.3, 1.5]) for _ in commands]
            a.clear()
            for base in ("flux", "foreign", "script"):
                shutil.copytree(bases / base, a.work / base)
            give(a.work)
            ends = list(pool.map(_after, (a, b, c), commands, delays))
            yield _judged(a, commands, delays, ends)


def _after(worker: Worker, command: str, delay: float) -> Ended:
    time.sleep(delay)
    return worker.run(command.split(), PATIENCE)


def _judged(
    worker: Worker, commands: Sequence[str], delays: Sequence[float], ends: Sequence[Ended]
) -> Tally:
    wrong = [fault for ended in ends for fault in complaints(ended)]
    if text := folders.contradiction(worker.work / "flux"):
        wrong.append(("contradiction", text))
    if all(ended.code != 0 for ended in ends):
        wrong.append(("contradiction", f"none did its work: {ends[0].errors.strip()[-200:]}"))
    if left := folders.halves(worker.work, worker.place / "tmp"):
        wrong.append(("leftover", f"{left[0].split('/')[-1][:8]}*"))
    for argv in (["inspect", "flux"], [*_CHECK.split()]):
        ended = worker.run(argv, PATIENCE)
        wrong += [(kind, f"then `{argv[0]}`: {text}") for kind, text in complaints(ended)]
        if ended.code == 1:
            last = ended.errors.strip().splitlines()[-1:]
            wrong.append(("contradiction", f"then `{argv[0]}` exits 1: {last}"))
    how = " & ".join(f"sleep {delay:.2f}; ropeexport {command}"
                     for delay, command in zip(delays, commands, strict=True))  # fmt: skip
    bases = ("flux", "foreign", "script")
    found = tuple(Finding(kind, text, how, bases) for kind, text in wrong)
    verbs = "/".join(command.split()[0] for command in commands)
    return Tally("races", verbs, parsed=True, findings=found)
