"""From what a run has found to its report."""

from __future__ import annotations

from dataclasses import dataclass

from ropeexport.machine import describe
from ropeexport.manifest import Manifest
from ropeexport.parity.cases import Selection
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.records import Comparison, Report, survey_of
from ropeexport.parity.running import Outcome
from ropeexport.parity.space import space_of
from ropeexport.parity.verdict import runtime_record, verdict_of


@dataclass(frozen=True)
class Run:
    """What a run was made of."""

    manifest: Manifest
    seed: int
    command: str
    digest: str
    selection: Selection
    judge: Judge
    contenders: list[Contender]


def report_of(run: Run, outcome: Outcome) -> Report:
    """Return the report of a run."""
    absent = [c for contender in run.contenders for c in _absent(contender, run.manifest)]
    comparisons = (*outcome.comparisons, *absent)
    eager = run.judge.eager
    verdict, reason = verdict_of(comparisons, outcome.complete, eager.name, outcome.not_repeatable)
    facts = {eager.name: eager.facts, **{each.name: each.facts for each in run.contenders}}
    model = run.manifest.model
    return Report(
        verdict=verdict,
        reason=reason,
        complete=outcome.complete,
        model=model.file,
        model_sha256=run.digest,
        dtype=model.dtype,
        source=run.manifest.source.name,
        seed=run.seed,
        command=run.command,
        lengths=space_of(run.manifest).lengths,
        notes=_notes(run.manifest, run.digest),
        left_out=run.selection.left_out,
        environment=describe(),
        runtimes=tuple(runtime_record(name, each, comparisons) for name, each in facts.items()),
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
