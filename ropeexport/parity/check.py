"""``check``: cases times runtimes to a report.  Only records are kept from case to case."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ropeexport import atomic, manifest, sources
from ropeexport.errors import ModelFileError
from ropeexport.manifest import Manifest
from ropeexport.parity import tolerance
from ropeexport.parity.cases import Selection, select
from ropeexport.parity.contenders import Contender, open_contenders
from ropeexport.parity.environment import describe
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.records import Comparison, Report, survey_of
from ropeexport.parity.running import Listener, Outcome, Silent, run
from ropeexport.parity.space import space_of
from ropeexport.parity.verdict import runtime_record, verdict_of
from ropeexport.runners.eager import EagerRunner
from ropeexport.weights.integrity import check_weights


@dataclass(frozen=True)
class Options:
    """What a run is asked for, see :func:`check`."""

    seed: int = 0
    count: int | None = None
    lengths: tuple[int, ...] = ()
    atol: float | None = None
    rtol: float | None = None

    @property
    def override(self) -> tolerance.Bound | None:
        """The user's own bound, if one was given."""
        if self.atol is None and self.rtol is None:
            return None
        return tolerance.override(self.atol or 0.0, self.rtol or 0.0)

    def command(self, folder: Path, module_reference: str | None = None) -> str:
        """Return the command line that makes the report again."""
        given = {
            "module": module_reference,
            "seed": self.seed,
            "cases": self.count,
            "lengths": ",".join(map(str, self.lengths)) or None,
            "atol": self.atol,
            "rtol": self.rtol,
        }
        words = ["ropeexport", "check", str(folder)]
        for name, value in given.items():
            words += [] if value is None else [f"--{name}", str(value)]
        return shlex.join(words)


def check(
    folder: Path,
    module_reference: str | None = None,
    options: Options | None = None,
    listener: Listener | None = None,
) -> Report:
    """Compare every runtime of an output folder with the float64 oracle.

    Parameters
    ----------
    folder : Path
        An output folder of ``ropeexport export``, with or without an engine.
    module_reference : str, optional
        The factory to import where the model came from the user's own code.
    options : Options, optional
        Seed, number of cases, lengths, and bounds in place of the derived ones.
    listener : Listener, optional
        Told of each stage and case.

    Returns
    -------
    Report
        With a verdict; a difference is no error.

    Raises
    ------
    RopeExportError
        Where no run can be set up: no manifest, no model, a module that cannot be rebuilt.
    """
    options, listener = options or Options(), listener or Silent()
    record = manifest.read(folder)
    check_weights(folder, record.model.weights)
    digest = _digest(folder, record)
    selection = select(record, options.seed, options.count, options.lengths)
    with ExitStack() as stack:
        judge = _open_judge(folder, record, module_reference, options, stack)
        listener.stage("oracle", f"{record.source.name} in float64, {len(selection.cases)} cases")
        contenders = open_contenders(folder, record, stack)
        for contender in contenders:
            _announce(contender, listener)
        outcome = run(judge, selection.cases, contenders, listener)
        command = options.command(folder, module_reference)
        return _report(
            _Run(record, options, command, digest, selection, judge, contenders), outcome
        )


@dataclass(frozen=True)
class _Run:
    manifest: Manifest
    options: Options
    command: str
    digest: str
    selection: Selection
    judge: Judge
    contenders: list[Contender]


def _digest(folder: Path, record: Manifest) -> str:
    path = folder / record.model.file
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file, though the manifest names it; export it again")
    return atomic.sha256_of(path)


def _open_judge(
    folder: Path, record: Manifest, reference: str | None, options: Options, stack: ExitStack
) -> Judge:
    names = [spec.name for spec in record.model.outputs]
    module = sources.rebuild(record, folder, reference)
    oracle = Oracle(module, names)
    eager = stack.enter_context(EagerRunner(module, names))
    return Judge(record, oracle, eager, options.override)


def _announce(contender: Contender, listener: Listener) -> None:
    ran = contender.runner is not None
    text = contender.implementation if ran else f"{contender.status}: {contender.reason}"
    listener.stage(contender.name, text, ok=ran)


def _report(run: _Run, outcome: Outcome) -> Report:
    absent = [c for contender in run.contenders for c in _absent(contender, run.manifest)]
    comparisons = (*outcome.comparisons, *absent)
    verdict, reason = verdict_of(comparisons, outcome.complete)
    eager = Contender("eager", run.judge.eager)
    model = run.manifest.model
    return Report(
        verdict=verdict,
        reason=reason,
        complete=outcome.complete,
        model=model.file,
        model_sha256=run.digest,
        dtype=model.dtype,
        source=run.manifest.source.name,
        seed=run.options.seed,
        command=run.command,
        lengths=space_of(run.manifest).lengths,
        notes=_notes(run.manifest, run.digest),
        left_out=run.selection.left_out,
        environment=describe(),
        runtimes=tuple(runtime_record(c, comparisons) for c in (eager, *run.contenders)),
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
