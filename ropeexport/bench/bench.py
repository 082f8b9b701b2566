"""``bench``: set every contender up, check it, and let them take turns."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import ropeexport
from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.bench.checking import Checker
from ropeexport.bench.contenders import BY_NAME
from ropeexport.bench.contenders.contender import Setting
from ropeexport.bench.device import choose_device
from ropeexport.bench.entrants import Entrant, Say, Setup
from ropeexport.bench.messages import Turn
from ropeexport.bench.options import BenchOptions
from ropeexport.bench.processes import ContenderError
from ropeexport.bench.records import Bench, Group, Timing
from ropeexport.machine import describe, processor
from ropeexport.manifest import Manifest
from ropeexport.models import sources
from ropeexport.models.example import bound
from ropeexport.models.held import handed_over
from ropeexport.parity.space import Sizes, space_of

_CHECK_LENGTH = 64
_HELD = "module.pt"
_WARM_UP = 2
_MEASURED = (
    "exporting/*.py", "fusion/*.py", "models/**/*.py", "ops/*.py", "weights/*.py",
    "onnx_files/contract.py", "modules.py", "reference.py",
)  # fmt: skip


def bench(
    artifact: Artifact, options: BenchOptions | None = None, say: Say = lambda name, text, ok: None
) -> Bench:
    """Measure an output folder's model against what would be run instead.

    Parameters
    ----------
    artifact : Artifact
        An output folder, with or without an engine.
    options : BenchOptions, optional
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
        Where no run can be set up: a module that cannot be rebuilt.
    """
    options = options or BenchOptions()
    device = choose_device(options.device)
    options = replace(options, device=device)
    record = artifact.manifest
    artifact.check_weights()
    sizes = _sizes(record, options.lengths)
    with atomic.ended_cleanly(), TemporaryDirectory() as place, ExitStack() as stack:
        check = _checked_sizes(record)
        longest_last = sorted(sizes, key=partial(_tokens, record))
        module = handed_over(options.module, Path(place) / _HELD)
        example = stack.enter_context(sources.rebuilt(artifact, options.module))
        checker = Checker(artifact, bound(example), options.seed)
        sizes_run = (check, *longest_last)
        folder = artifact.folder.absolute()
        setting = Setting(folder, Path(place), module, options.threads, device)
        run = Setup(artifact, setting, options.seed, checker, check, sizes_run)
        found = [run.open(BY_NAME[name], stack, say) for name in options.names]
        running = [entrant for entrant in found if entrant.process is not None]
        groups = []
        for each in sizes:
            run.check_again(running, each, say)
            groups.append(_group(running, each, _tokens(record, each), options, say))
        contenders = tuple(entrant.record for entrant in found)
    return Bench(
        model=record.model.file,
        source=record.source.name,
        dtype=record.model.dtype,
        model_sha256=artifact.model_sha256,
        code_sha256=code_hash(),
        date=date.today().isoformat(),
        command=options.command(artifact.folder),
        seed=options.seed,
        threads=options.threads,
        rounds=options.rounds,
        repeats=options.repeats,
        device=device,
        processor=processor(device),
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


def _group(
    entrants: list[Entrant], sizes: Sizes, tokens: int, options: BenchOptions, say: Say
) -> Group:
    """Let the contenders take turns at one size."""
    turns: dict[str, list[Turn]] = {}
    for number in range(-1, options.rounds):  # the first turn of each warms it up
        for entrant in entrants:
            name = entrant.record.name
            if entrant.process is None:
                continue
            try:
                repeats = _WARM_UP if number < 0 else options.repeats
                turn = entrant.process.turn(sizes, repeats)
            except ContenderError as error:
                entrant.fail(error)
                turns.pop(name, None)
                say(entrant.record.label, str(error), False)
                continue
            if number >= 0:
                turns.setdefault(name, []).append(turn)
    return Group(
        sizes=sizes, tokens=tokens, timings=tuple(_timing(*each) for each in turns.items())
    )


def _timing(contender: str, turns: Sequence[Turn]) -> Timing:
    """Return the record of a contender's turns at one size."""
    launches = [turn.launch_seconds for turn in turns if turn.launch_seconds is not None]
    return Timing(
        contender=contender,
        turns_ms=tuple(1e3 * statistics.median(turn.seconds) for turn in turns),
        peak_mb=turns[-1].peak_mb,
        launch_ms=1e3 * statistics.median(launches) if launches else None,
        gpu_peak_mb=turns[-1].gpu_peak_mb,
    )


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
    return space.with_length(_sizes(record, ())[0], _CHECK_LENGTH)
