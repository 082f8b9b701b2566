"""Contenders side by side on one shape and type: checked, then timed, taking turns in rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.gpu.contenders import Call, Contender
from benchmarks.gpu.correct import Outputs
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.shapes import Problem, Shape, count_sets, make_problem
from benchmarks.gpu.standings import ERROR, SKIPPED, WRONG, Entrant, Work, records
from benchmarks.gpu.timing import Plan, passes_of, repeats_of, turns
from benchmarks.gpu.verdict import Skipped
from ropeexport.errors import first_line

_MARK = -7.0
_ARRAYS = 13  # what all contenders hold together for a set of inputs, in sizes of the inputs


def measure(
    device: CudaDevice,
    shape: Shape,
    dtype: str,
    contenders: Sequence[Contender],
    plan: Plan,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the entry of a result file for one shape, type and group of contenders.

    :class:`Skipped` where the GPU's memory does not hold it.
    """
    moved = shape.moved_bytes(dtype)
    sets = count_sets(moved, device.l2_bytes)
    need = _ARRAYS * sets * moved
    if need > device.free_bytes:
        free = device.free_bytes / 1e9
        raise Skipped(f"needs about {need / 1e9:.0f} GB of the GPU's memory, {free:.0f} are free")
    problems = [make_problem(shape, dtype, device.torch, seed) for seed in range(sets)]
    entrants = [Entrant(contender) for contender in contenders]
    for entrant in entrants:
        say(f"bench: {shape.name} {dtype}: {entrant.contender.name}")
        _set_up(device, entrant, problems, plan)
    _time(device, [entrant for entrant in entrants if entrant.work], plan)
    return {
        "shape": shape.record(),
        "dtype": dtype,
        "sets": sets,
        "moved_bytes": moved,
        "contenders": records(entrants),
    }


def _set_up(device: CudaDevice, entrant: Entrant, problems: list[Problem], plan: Plan) -> None:
    """Prepare, check, warm up and capture a contender; what goes wrong takes it alone out."""
    contender = entrant.contender
    try:
        calls = [contender.prepare(problem) for problem in problems]
        entrant.moved_bytes = calls[0].moved_bytes
        wrong = _wrong(device, contender, problems, [call.run for call in calls])
        if wrong:
            entrant.out(WRONG, wrong)
            return
        entrant.work, last = _work(device, contender, calls, plan)
        if calls[0].checked_again:
            wrong = _wrong_again(device, contender, entrant.work, problems, last)
        if wrong:
            entrant.out(WRONG, f"when repeated: {wrong}")
    except Skipped as error:
        entrant.out(SKIPPED, str(error))
    except Exception as error:  # another project's code may raise anything
        entrant.out(ERROR, f"{type(error).__name__}: {first_line(error)[:300]}")
    finally:
        device.release()


def _work(
    device: CudaDevice, contender: Contender, calls: Sequence[Call], plan: Plan
) -> tuple[Work, dict[int, Outputs]]:
    """Return the work, and a place where the outputs of its last pass are."""
    last: dict[int, Outputs] = {}

    def one_pass() -> None:
        for index, call in enumerate(calls):
            # held, so that a contender that allocates goes round as many outputs as inputs
            last[index] = call.run()

    device.warm_up(one_pass)
    passes = passes_of(device.elapsed_us(one_pass, 2) / 2, len(calls), plan)

    def all_passes() -> None:
        for _ in range(passes):
            one_pass()

    run = device.capture(all_passes) if contender.captured else all_passes
    run()
    repeats = repeats_of(device.elapsed_us(run, 1), plan)
    return Work(run, passes * len(calls), repeats, held=(calls, last)), last


def _wrong_again(
    device: CudaDevice,
    contender: Contender,
    work: Work,
    problems: Sequence[Problem],
    last: dict[int, Outputs],
) -> str:
    """Spoil the outputs, run what will be timed, and check that it wrote them."""
    for outputs in last.values():
        for output in outputs:
            output.fill_(_MARK)
    work.run()
    return _wrong(device, contender, problems, [partial(last.__getitem__, i) for i in sorted(last)])


def _wrong(
    device: CudaDevice,
    contender: Contender,
    problems: Sequence[Problem],
    outputs: Sequence[Callable[[], Outputs]],
) -> str:
    """Say what is wrong with the outputs of the first and of the last set of inputs."""
    for index in (0, len(problems) - 1):
        got = outputs[index]()
        device.synchronize()
        wrong = contender.wrong(problems[index], got)
        if wrong:
            return wrong
    return ""


def _time(device: CudaDevice, entrants: Sequence[Entrant], plan: Plan) -> None:
    """Time all in turns; where the GPU is lost to this process, what was timed before stays."""
    for order in turns(len(entrants), plan.rounds):
        for place in order:
            entrant = entrants[place]
            work = entrant.work
            if work is None:
                continue
            try:
                batches = [device.elapsed_us(work.run, work.repeats) for _ in range(plan.batches)]
            except Exception as error:
                _lose(entrants, f"not timed: {type(error).__name__}: {first_line(error)}")
                return
            entrant.rounds_us += (statistics.median(batches) / (work.repeats * work.calls),)


def _lose(entrants: Sequence[Entrant], reason: str) -> None:
    for entrant in entrants:
        if not entrant.rounds_us:
            entrant.out(SKIPPED, reason)
