"""``bench``: set every contender up, check it, and let them take turns."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import ropeexport
from ropeexport import atomic, manifest
from ropeexport.bench.checking import Checker
from ropeexport.bench.contenders import BY_NAME, OPTIMISED, PLAIN, Contender
from ropeexport.bench.options import Options
from ropeexport.bench.processes import ContenderError, Process
from ropeexport.bench.records import Bench, ContenderRecord, Group, Timing
from ropeexport.manifest import Manifest
from ropeexport.parity.environment import describe
from ropeexport.parity.space import Sizes, space_of
from ropeexport.weights.integrity import check_weights

Say = Callable[[str, str, bool], None]  # contender, what became of it, whether it runs
_CHECK_LENGTH = 64
_WARM_UP = 2
_MEASURED = (
    "exporting/*.py", "fusion/*.py", "onnx_ops/*.py", "modules.py", "op.py", "reference.py",
)  # fmt: skip


def bench(
    folder: Path, options: Options | None = None, say: Say = lambda name, text, ok: None
) -> Bench:
    """Measure an output folder's model against what would be run instead.

    Parameters
    ----------
    folder : Path
        An output folder of ``ropeexport export``, with or without an engine.
    options : Options, optional
        Contenders, lengths, turns, threads.
    say : callable
        Told of each contender.

    Returns
    -------
    Bench
        Every contender: TIMED, or WRONG, SKIPPED or FAILED with its reason.

    Raises
    ------
    RopeExportError
        Where no run can be set up: no manifest, a module that cannot be rebuilt.
    """
    options = options or Options()
    record = manifest.read(folder)
    check_weights(folder, record.model.weights)
    sizes = _sizes(record, options.lengths)
    with TemporaryDirectory() as place, ExitStack() as stack:
        run = _Setup(folder, record, options, Path(place), _checked_sizes(record))
        found = [run.open(BY_NAME[name], stack, say) for name in options.names]
        running = [entrant for entrant in found if entrant.process is not None]
        groups = [_group(running, each, _tokens(record, each), options, say) for each in sizes]
        contenders = tuple(entrant.record for entrant in found)
    return Bench(
        model=record.model.file,
        source=record.source.name,
        dtype=record.model.dtype,
        model_sha256=atomic.sha256_of(folder / record.model.file),
        code_sha256=code_hash(),
        date=date.today().isoformat(),
        command=options.command(folder),
        seed=options.seed,
        threads=options.threads,
        rounds=options.rounds,
        repeats=options.repeats,
        processor=_processor(),
        cores=os.cpu_count() or 1,
        environment=describe(),
        contenders=contenders,
        groups=tuple(groups),
    )


def code_hash() -> str:
    """Return a hash of the sources that shape an exported file: what a result measures."""
    root = Path(ropeexport.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _MEASURED for path in root.glob(pattern)):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass
class _Entrant:
    record: ContenderRecord
    process: Process | None = None

    def fail(self, error: ContenderError) -> None:
        status = "SKIPPED" if error.missing else "FAILED"
        self.record = self.record.model_copy(update={"status": status, "reason": str(error)})
        self.process = None


@dataclass
class _Setup:
    folder: Path
    manifest: Manifest
    options: Options
    prepared: Path
    check_sizes: Sizes

    def __post_init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._checker = Checker(self.folder, self.manifest, self.options.module, self.options.seed)

    def open(self, contender: Contender, stack: ExitStack, say: Say) -> _Entrant:
        """Start a contender and check it; one that cannot run keeps the reason."""
        entrant = _Entrant(
            ContenderRecord(name=contender.name, label=contender.label, status="TIMED")
        )
        try:
            self._enter(contender, entrant, stack)
        except ContenderError as error:
            entrant.fail(error)
        record = entrant.record
        say(record.label, record.reason or f"{record.status}", entrant.process is not None)
        return entrant

    def _enter(self, contender: Contender, entrant: _Entrant, stack: ExitStack) -> None:
        update: dict[str, object] = {}
        if contender.file:
            if contender.file == OPTIMISED:
                self._prepare(PLAIN)
            update["prepare_seconds"] = self._prepare(contender.file)
            update["file_mb"] = _megabytes(self.prepared, contender.file)
        elif contender.name == "ropeexport":
            update["file_mb"] = _megabytes(self.folder, self.manifest.model.file)
        order = {
            "contender": contender.name,
            "folder": str(self.folder.absolute()),
            "prepared": str(self.prepared),
            "module": self.options.module,
            "threads": self.options.threads,
            "seed": self.options.seed,
            "check": self.check_sizes,
            "outputs": str(self.prepared / f"{contender.name}.npz"),
        }
        process = stack.enter_context(Process(order))
        update["load_seconds"] = process.ready()
        entrant.record = entrant.record.model_copy(update=update)
        dtypes = {spec.name: spec.dtype for spec in self.manifest.model.outputs}
        wrong = None
        if not contender.floor:
            wrong = self._checker.wrong(contender.name, process.outputs(dtypes), self.check_sizes)
        if wrong is not None:
            changed = {"status": "WRONG", "reason": wrong}
            entrant.record = entrant.record.model_copy(update=changed)
            return
        entrant.process = process

    def _prepare(self, kind: str) -> float:
        if kind in self._seconds:
            return self._seconds[kind]
        command = [sys.executable, "-m", "ropeexport.bench.prepare", kind, str(self.folder)]
        command += [str(self.prepared), self.options.module or ""]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        answer = json.loads(lines[-1]) if lines else {"error": f"exit code {done.returncode}"}
        if "error" in answer:
            text = f"{kind} cannot be made: {answer['error']}"
            raise ContenderError(text, missing=bool(answer.get("missing")))
        self._seconds[kind] = float(answer["seconds"])
        return self._seconds[kind]


def _group(
    entrants: list[_Entrant], sizes: Sizes, tokens: int, options: Options, say: Say
) -> Group:
    """Let the contenders take turns at one size."""
    turns: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for number in range(-1, options.rounds):  # the first turn of each warms it up
        for entrant in entrants:
            name = entrant.record.name
            if entrant.process is None:
                continue
            try:
                repeats = _WARM_UP if number < 0 else options.repeats
                seconds, peaks[name] = entrant.process.turn(sizes, repeats)
            except ContenderError as error:
                entrant.fail(error)
                turns.pop(name, None)
                say(entrant.record.label, str(error), False)
                continue
            if number >= 0:
                turns.setdefault(name, []).append(1e3 * statistics.median(seconds))
    timings = (Timing(contender=n, turns_ms=tuple(t), peak_mb=peaks[n]) for n, t in turns.items())
    return Group(sizes=sizes, tokens=tokens, timings=tuple(timings))


def _sizes(record: Manifest, lengths: tuple[int, ...]) -> list[Sizes]:
    """Return the sizes that are timed: batch 1, every axis that broadcasts at 1."""
    space = space_of(record)
    smallest = {name: record.axes[name].min for name in space.batches}
    base = space.broadcasts({**space.at("opt"), **smallest})[0]
    return [{**base, **dict.fromkeys(space.lengths, n)} for n in lengths] or [base]


def _tokens(record: Manifest, sizes: Sizes) -> int:
    space = space_of(record)
    batch = math.prod(sizes[name] for name in space.batches)
    return batch * (sum(sizes[name] for name in space.lengths) or 1)


def _checked_sizes(record: Manifest) -> Sizes:
    space = space_of(record)
    return space.broadcasts(space.with_length(space.at("opt"), _CHECK_LENGTH))[0]


def _megabytes(folder: Path, name: str) -> float:
    """Return the size of a model file with the external data that is named after it."""
    files = [p for p in folder.iterdir() if p.name == name or p.name.startswith(f"{name}.")]
    return sum(path.stat().st_size for path in files) / 1e6


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
