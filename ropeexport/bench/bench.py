"""``bench``: set every contender up, check it, and let them take turns."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

import ropeexport
from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.bench.contenders import BY_NAME, CONTENDERS, GROUPS, Setting
from ropeexport.bench.device import choose_device
from ropeexport.bench.entrants import Checker, Entrant, Say, Setup
from ropeexport.bench.processes import ContenderError, Turn
from ropeexport.bench.records import Bench, Group, Timing
from ropeexport.errors import ModelFileError, UsageError
from ropeexport.given import THREADS, TURNS, WORD, check_memory, whole
from ropeexport.locking import scratch
from ropeexport.machine import processor
from ropeexport.manifest import Manifest
from ropeexport.models import sources
from ropeexport.models.example import bound
from ropeexport.models.held import handed_over
from ropeexport.parity.cases import Sizes, elements_of, space_of
from ropeexport.parity.options import again, lengths_of
from ropeexport.parity.records import describe
from ropeexport.runners.registry import Device

ALWAYS = ("eager", "ropeexport")  # the reference of the check, and what is measured
_CHECK_LENGTH = 64
_HELD = "module.pt"
_WARM_UP = 2
_MEASURED = (
    "exporting/*.py", "fusion/*.py", "models/**/*.py", "ops/*.py", "weights/*.py",
    "onnx_files/contract.py", "onnx_files/ort_layout.py", "onnx_files/variants.py",
    "runners/ort.py", "modules.py",
    "reference.py",
)  # fmt: skip


@dataclass(frozen=True)
class BenchOptions:
    """Contenders by name, lengths (none: the profile's optimum), turns and runs in a turn.

    ``device`` is ``cpu`` or ``cuda``; None takes the GPU where torch sees one.
    """

    against: tuple[str, ...] = tuple(contender.name for contender in CONTENDERS)
    lengths: tuple[int, ...] = ()
    rounds: int = 7
    repeats: int = 5
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    seed: int = 0
    module: sources.Module | None = None
    device: Device | None = None

    def __post_init__(self) -> None:
        checked = {
            "lengths": lengths_of(self.lengths),
            "rounds": whole("rounds", self.rounds, 1, TURNS),
            "repeats": whole("repeats", self.repeats, 1, TURNS),
            "threads": whole("threads", self.threads, 1, THREADS),
            "seed": whole("seed", self.seed, 0, WORD),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        unknown = [name for name in self.against if name not in BY_NAME | GROUPS]
        if unknown:
            raise UsageError(
                f"--against: expected names among {', '.join(BY_NAME | GROUPS)}, "
                f"got {', '.join(unknown)}",
                code="RX110",
            )

    @property
    def names(self) -> list[str]:
        """The contenders in the order of the table."""
        wanted = {one for name in self.against for one in GROUPS.get(name, (name,))}
        return [name for name in BY_NAME if name in wanted.union(ALWAYS)]

    def command(self, folder: Path) -> str:
        """Return what runs it again, see :func:`ropeexport.parity.options.again`."""
        names = ("device", "against", "lengths", "rounds", "repeats", "threads", "seed")
        given = {name: getattr(self, name) for name in names}
        return again("bench", [folder], {"module": self.module}, given)


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
        Where no run can be set up: a module that cannot be rebuilt, a length that the export is not
        for, a cache.
    """
    options = options or BenchOptions()
    device = choose_device(options.device)
    options = replace(options, device=device)
    record = artifact.manifest
    if record.cache is not None:
        raise UsageError(
            f"{artifact.folder}: expected an export without a cache, whose calls are alike, got "
            "one with: a prompt and the steps after it are measured by python -m "
            "benchmarks.decoding, in the project's checkout",
            code="RX611",
        )
    artifact.check_weights()
    with suppress(ModelFileError):  # of a file that cannot be read, contenders fail one by one
        artifact.check_interface()
    # engines are made for the sizes of the run, so the profile of one that is there does not count
    space_of(record.model_copy(update={"engine": None})).check_lengths(options.lengths)
    sizes = timed_sizes(record, options.lengths)
    with atomic.ended_cleanly(), scratch("bench") as place, ExitStack() as stack:
        check = checked_sizes(record)
        module = handed_over(options.module, place / _HELD)
        example = stack.enter_context(sources.rebuilt(artifact, options.module))
        checker = Checker(artifact, bound(example), options.seed)
        longest_last = (check, *sorted(sizes, key=partial(_tokens, record)))
        folder = artifact.folder.absolute()
        trusts_code = artifact.trust.code
        setting = Setting(folder, place, module, options.threads, device, trusts_code)
        run = Setup(artifact, setting, options.seed, checker, check, longest_last)
        found = [run.open(BY_NAME[name], stack, say) for name in options.names]
        groups = []
        for each in sizes:
            run.check_again(found, each, say)
            groups.append(_group(found, each, _tokens(record, each), options, say))
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
    """Return a hash of the sources that shape an exported file, or run it: what is measured."""
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
    timings = tuple(_timing(*each) for each in turns.items())
    return Group(sizes=sizes, tokens=tokens, timings=timings)


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


def timed_sizes(record: Manifest, lengths: tuple[int, ...]) -> list[Sizes]:
    """Return the sizes that are timed: batch 1, every axis that broadcasts at 1."""
    space = space_of(record)
    smallest = {name: record.axes[name].min for name in space.batches}
    base = space.broadcasts({**space.at("opt"), **smallest})[0]
    found = [{**base, **dict.fromkeys(space.lengths, n)} for n in lengths] or [base]
    for sizes in found:
        check_memory("--lengths", elements_of(space.specs, sizes))
    return found


def _tokens(record: Manifest, sizes: Sizes) -> int:
    space = space_of(record)
    batch = math.prod(sizes[name] for name in space.batches)
    return batch * (sum(sizes[name] for name in space.lengths) or 1)


def checked_sizes(record: Manifest) -> Sizes:
    """Return the sizes at which outputs are held to the bound before anything is timed."""
    space = space_of(record)
    return space.with_length(timed_sizes(record, ())[0], _CHECK_LENGTH)
