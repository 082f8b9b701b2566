"""From comparisons to the status of a runtime and the verdict of a run."""

from __future__ import annotations

from collections.abc import Sequence

from ropeexport.parity.records import Comparison, RuntimeRecord, Status, Verdict
from ropeexport.runners.registry import EAGER
from ropeexport.runners.runner import Facts


def status_of(comparisons: Sequence[Comparison]) -> Status:
    """Return the status of comparisons together: one failure fails, and PASS needs a comparison."""
    found = {comparison.status for comparison in comparisons}
    order: tuple[Status, ...] = ("FAIL", "PASS", "EMULATED", "NOT_SUPPORTED")
    return next((status for status in order if status in found), "SKIPPED")


def runtime_record(name: str, facts: Facts, comparisons: Sequence[Comparison]) -> RuntimeRecord:
    """Return the record of one runtime over all comparisons of the run."""
    mine = [comparison for comparison in comparisons if comparison.runtime == name]
    status = status_of(mine)
    return RuntimeRecord(
        name=name,
        implementation=facts.made_of,
        implementations=facts.implementation,
        version=facts.version,
        device=facts.device,
        provider=facts.provider,
        precision=facts.precision,
        status=status,
        reason="" if status in ("PASS", "EMULATED") else _first_reason(mine, status),
    )


def verdict_of(
    comparisons: Sequence[Comparison],
    complete: bool,
    yardstick: str = EAGER,
    not_repeatable: str = "",
) -> tuple[Verdict, str]:
    """Return the verdict of a run and, for a failure, its reason in one line.

    Eager, or what stands in its place, is a yardstick: where it alone was compared, nothing was
    proven.  Where it is no function of its inputs, ``not_repeatable`` says so, and why.
    """
    failed = [comparison for comparison in comparisons if comparison.status == "FAIL"]
    if not_repeatable:
        return "FAIL", not_repeatable
    if failed:
        runtimes = ", ".join(dict.fromkeys(comparison.runtime for comparison in failed))
        return "FAIL", f"{runtimes}: {len(failed)} of {len(comparisons)} comparisons failed"
    if not complete:
        return "FAIL", "interrupted: the cases that were left have not been compared"
    if not any(_proves(c) and c.runtime != yardstick for c in comparisons):
        alone = "eager torch" if yardstick == EAGER else f"the {yardstick}"
        ran = f"no runtime besides {alone} ran"
        return "FAIL", f"nothing was compared: {ran}{_emulated(comparisons)}"
    return "PASS", ""


def _proves(comparison: Comparison) -> bool:
    """Say whether a comparison passed, and with some number that was compared."""
    numbers = comparison.numbers
    all_nan = numbers is not None and numbers.nans == numbers.elements
    return comparison.status == "PASS" and not all_nan


def _emulated(comparisons: Sequence[Comparison]) -> str:
    """Say that a stand-in was within its bounds, which proves the graph and no runtime."""
    if not any(comparison.status == "EMULATED" for comparison in comparisons):
        return ""
    return "; the EMULATED twin is within every bound, which is no runtime's own PASS"


def _first_reason(comparisons: Sequence[Comparison], status: Status) -> str:
    first = next((c for c in comparisons if c.status == status), None)
    if first is None:
        return "no case was run"
    where = f"{first.output} in {first.case.name!r}: " if first.case and status == "FAIL" else ""
    return where + first.reason
