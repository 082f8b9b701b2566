"""Contenders side by side on one shape and type: checked, then timed, taking turns in rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch

from benchmarks.gpu.cases import MARK
from benchmarks.gpu.contenders import COPY, Call, Groups, Outputs, Routine
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.records import Check, Timing, guarded, reason_of
from benchmarks.gpu.shapes import Problem, Shape, count_sets, make_problem
from ropeexport.errors import MissingError, UsageError

_ARRAYS = 13  # what all contenders hold together for a set of inputs, in sizes of the inputs

MakeProblem = Callable[[Shape, str, torch.device, int], Problem]


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int = 5  # turns of each contender
    batches: int = 3  # timed stretches of a turn; a turn's figure is their median
    batch_us: float = 20_000.0  # a stretch between two events, at least
    graph_us: float = 5_000.0  # a CUDA graph, about: then the gap between two launches is little
    most_calls: int = 2000  # of a graph


def passes_of(pass_us: float, sets: int, plan: Plan) -> int:
    """Return how often a graph goes round the sets of inputs."""
    wanted = math.ceil(plan.graph_us / max(pass_us, 1e-3))
    return max(1, min(wanted, plan.most_calls // sets))


@dataclass
class Entrant:
    """A contender on its way: its work and its rounds, or why there are none.

    ``calls`` and ``last`` keep the arrays of every call: a CUDA graph knows their addresses but
    does not own them, and memory that is free goes to the next contender.
    """

    routine: Routine
    status: str = "TIMED"
    reason: str = ""
    calls: Sequence[Call] = ()
    last: Sequence[Outputs] = ()
    run: Callable[[], object] = lambda: None
    count: int = 0  # of calls in a run
    repeats: int = 1
    rounds_us: tuple[float, ...] = ()

    @property
    def time_us(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds_us)

    @property
    def bandwidth(self) -> float:
        """Bytes a microsecond."""
        return self.calls[0].moved_bytes / self.time_us


def bench(
    device: CudaDevice,
    groups: Groups,
    cases: Sequence[tuple[Shape, str]],
    plan: Plan,
    make: MakeProblem = make_problem,
) -> Iterator[Check]:
    """Time groups of contenders on each shape and type, one group after the other.

    A run that is cut short, or a rival that breaks the GPU for the whole process, costs what comes
    after it alone.  The first group has the forms of the kernel, which every later group is timed
    beside, as far as they do the same.
    """
    own = [routine for routine in next(iter(groups.values()))() if routine.is_ours]

    def timed(name: str, case: tuple[Shape, str], routines: Callable[[], list[Routine]]) -> Check:
        return measure(device, name, case, beside(routines(), own), plan, make)

    for group, routines in groups.items():
        for shape, dtype in cases:
            name = f"{shape.name} {dtype}, {group}"
            # where the GPU is lost to this process, nothing works any more
            yield guarded(name, partial(timed, name, (shape, dtype), routines))
            device.release()


def beside(routines: Sequence[Routine], own: Sequence[Routine]) -> list[Routine]:
    """Return contenders behind those forms of the kernel that they are compared with."""
    kinds, names = {c.kind for c in routines}, {c.name for c in routines}
    return [*(c for c in own if c.kind in kinds and c.name not in names), *routines]


def measure(
    device: CudaDevice,
    name: str,
    case: tuple[Shape, str],
    routines: Sequence[Routine],
    plan: Plan,
    make: MakeProblem = make_problem,
) -> Check:
    """Return the check of one shape, type and group of contenders, with their times.

    Its verdict is whether the kernel computed what it must; speed is none.

    Raises
    ------
    MissingError
        Where the GPU's memory does not hold it.
    """
    shape, dtype = case
    moved = shape.moved_bytes(dtype)
    sets = count_sets(moved, device.l2_bytes)
    need, free = _ARRAYS * sets * moved, device.free_bytes
    if need > free:
        raise MissingError(f"needs {need / 1e9:.0f} GB of the GPU's memory, {free / 1e9:.0f} free")
    problems = [make(shape, dtype, device.torch, seed) for seed in range(sets)]
    entrants = [Entrant(routine) for routine in routines]
    for entrant in entrants:
        _set_up(device, entrant, problems, plan)
    _time(device, [entrant for entrant in entrants if entrant.status == "TIMED"], plan)
    verdict, culprits = _verdict(entrants)
    return Check(
        name=name,
        verdict=verdict,
        reason="; ".join(f"{e.routine.name}: {e.reason}" for e in culprits),
        cases=sum(entrant.status == "TIMED" for entrant in entrants),
        sizes=asdict(shape) | {"dtype": dtype, "sets": sets, "moved_bytes": moved},
        timings=timings(entrants),
    )


def _verdict(entrants: Sequence[Entrant]) -> tuple[str, Sequence[Entrant]]:
    faults = [e for e in entrants if e.status in ("WRONG", "FAILED") and e.routine.is_ours]
    others = [e for e in entrants if not e.routine.is_ours]
    if not faults and others and all(e.status == "SKIPPED" for e in others):
        return "SKIPPED", others
    if not any(e.status == "TIMED" for e in entrants):
        faults = [*entrants]
    return ("FAIL" if faults else "PASS"), faults


def _set_up(device: CudaDevice, entrant: Entrant, problems: list[Problem], plan: Plan) -> None:
    """Prepare, check, warm up and capture a contender; what goes wrong takes it alone out."""
    try:
        wrong = _prepare(device, entrant, problems, plan)
        if wrong:
            entrant.status, entrant.reason = "WRONG", wrong
    except (MissingError, UsageError) as error:
        entrant.status, entrant.reason = "SKIPPED", str(error)
    except Exception as error:  # another project's code may raise anything
        entrant.status, entrant.reason = "FAILED", reason_of(error)
    finally:
        device.release()


def _prepare(device: CudaDevice, entrant: Entrant, problems: list[Problem], plan: Plan) -> str:
    """Make an entrant ready to be timed, and say what is wrong with its outputs."""
    sets = len(problems)
    entrant.calls = [entrant.routine.prepare(problem) for problem in problems]

    def wrong() -> str:
        device.synchronize()
        said = [entrant.routine.wrong(problems[i], entrant.last[i]) for i in (0, sets - 1)]
        return said[0] or said[1]

    def one_pass() -> None:
        # held, so that a contender that allocates goes round as many outputs as inputs
        entrant.last = [call.run() for call in entrant.calls]

    one_pass()
    if said := wrong():
        return said
    device.warm_up(one_pass)
    passes = passes_of(device.elapsed_us(one_pass, 2) / 2, sets, plan)

    def all_passes() -> None:
        for _ in range(passes):
            one_pass()

    entrant.run = device.capture(all_passes) if entrant.routine.captured else all_passes
    entrant.run()
    entrant.count = passes * sets
    entrant.repeats = math.ceil(plan.batch_us / max(device.elapsed_us(entrant.run, 1), 1e-3))
    if not entrant.calls[0].checked_again:
        return ""
    for output in (output for outputs in entrant.last for output in outputs):
        output.fill_(MARK)
    entrant.run()
    said = wrong()
    return said and f"when repeated: {said}"


def _time(device: CudaDevice, entrants: Sequence[Entrant], plan: Plan) -> None:
    """Time all in turns; where the GPU is lost to this process, what was timed before stays."""
    turns = [(i + j) % len(entrants) for i in range(plan.rounds) for j in range(len(entrants))]
    try:
        for entrant in (entrants[turn] for turn in turns):  # everyone begins and ends sometimes
            times = [device.elapsed_us(entrant.run, entrant.repeats) for _ in range(plan.batches)]
            time_us = statistics.median(times) / (entrant.repeats * entrant.count)
            entrant.rounds_us += (time_us,)
    except Exception as error:
        for entrant in entrants:
            if not entrant.rounds_us:
                entrant.status, entrant.reason = "SKIPPED", f"not timed: {reason_of(error)}"


def timings(entrants: Sequence[Entrant]) -> tuple[Timing, ...]:
    """Return what a result keeps of contenders: time, share of a copy, ratio to the kernel.

    Like is compared with like: with the form of the kernel of the same pairs and coefficients.
    """
    timed = [e for e in entrants if e.rounds_us]
    copies = [e.bandwidth for e in timed if e.routine.name.startswith(COPY)]
    ours = {e.routine.kind: e for e in timed if e.routine.is_ours}
    return tuple(_timing(e, ours.get(e.routine.kind), copies) for e in entrants)


def _timing(entrant: Entrant, ours: Entrant | None, copies: Sequence[float]) -> Timing:
    found = Timing(name=entrant.routine.name, status=entrant.status, reason=entrant.reason)
    if not entrant.rounds_us:
        return found
    found = found.changed(
        time_us=entrant.time_us,
        spread=max(entrant.rounds_us) / min(entrant.rounds_us) - 1,
        rounds_us=entrant.rounds_us,
        moved_bytes=entrant.calls[0].moved_bytes,
        copy_share=entrant.bandwidth / max(copies) if copies else None,
    )
    if ours is None:
        return found
    return found.changed(
        beside=ours.routine.name,
        ratio=entrant.time_us / ours.time_us,
        equal_bytes=ours.bandwidth / entrant.bandwidth,
    )
