"""A run and what it found, as its report: every runtime's status, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from ropeexport.machine import describe
from ropeexport.manifest import Manifest
from ropeexport.parity.cases import Selection
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.options import Options
from ropeexport.parity.records import (
    Comparison,
    Report,
    RuntimeRecord,
    Status,
    Verdict,
    survey_of,
)
from ropeexport.parity.running import Listener, run
from ropeexport.parity.space import space_of
from ropeexport.runners.registry import EAGER
from ropeexport.runners.runner import Facts


def run_to_report(
    judge: Judge,
    selection: Selection,
    contenders: list[Contender],
    listener: Listener,
    options: Options,
    *,
    command: str,
    digest: str,
) -> Report:
    """Judge every case and return the report.

    Parameters
    ----------
    judge : Judge
        With the references.
    selection : Selection
        The cases.
    contenders : list of Contender
        Those that did not open are in the report too.
    listener : Listener
        Told what each contender is, and of each case.
    options : Options
        Of the run.
    command : str
        What makes the report again.
    digest : str
        The hash of the model file.
    """
    for contender in contenders:
        ran = contender.runner is not None
        text = contender.facts.made_of if ran else f"{contender.status}: {contender.reason}"
        listener.stage(contender.name, text, ok=ran)
    outcome = run(judge, selection.cases, contenders, listener)
    record, eager = judge.manifest, judge.eager
    absent = [c for contender in contenders for c in _absent(contender, record)]
    comparisons = (*outcome.comparisons, *absent)
    verdict, reason = verdict_of(comparisons, outcome.complete, eager.name, outcome.not_repeatable)
    facts = {eager.name: eager.facts, **{each.name: each.facts for each in contenders}}
    return Report(
        verdict=verdict,
        reason=reason,
        complete=outcome.complete,
        model=record.model.file,
        model_sha256=digest,
        dtype=record.model.dtype,
        source=record.source.name,
        seed=options.seed,
        command=command,
        lengths=space_of(record).lengths,
        notes=_notes(record, digest),
        left_out=selection.left_out,
        environment=describe(),
        runtimes=tuple(_runtime_record(name, each, comparisons) for name, each in facts.items()),
        comparisons=comparisons,
        surveys=tuple(survey_of(*key, survey) for key, survey in outcome.surveys.items()),
    )


def _absent(contender: Contender, record: Manifest) -> list[Comparison]:
    """Return a comparison for each output of a runtime that did not run, so that none is silent."""
    if contender.runner is not None:
        return []
    return [
        Comparison(
            runtime=contender.name,
            implementation="",
            output=spec.name,
            case=None,
            status=contender.status,
            reason=contender.reason,
        )
        for spec in record.model.outputs
    ]


def _notes(record: Manifest, digest: str) -> tuple[str, ...]:
    notes = []
    if digest != record.model.sha256:
        notes.append(f"{record.model.file} is not the file that was exported: its hash differs")
    if record.engine is not None and record.engine.model_sha256 != digest:
        notes.append(f"{record.engine.file} was built from another {record.model.file}")
    return tuple(notes)


def status_of(comparisons: Sequence[Comparison]) -> Status:
    """Return the status of comparisons together: one failure fails, and PASS needs a comparison."""
    found = {comparison.status for comparison in comparisons}
    order: tuple[Status, ...] = ("FAIL", "PASS", "EMULATED", "NOT_SUPPORTED")
    return next((status for status in order if status in found), "SKIPPED")


def _runtime_record(name: str, facts: Facts, comparisons: Sequence[Comparison]) -> RuntimeRecord:
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
