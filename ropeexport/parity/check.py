"""``check``: cases times runtimes to a report.  Only records are kept from case to case."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ropeexport import atomic, manifest
from ropeexport.errors import ModelFileError
from ropeexport.manifest import Manifest
from ropeexport.models import sources
from ropeexport.parity.cases import select
from ropeexport.parity.contenders import Contender, open_contenders
from ropeexport.parity.judge import Judge
from ropeexport.parity.options import Options
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.records import Report
from ropeexport.parity.running import Listener, Silent, run
from ropeexport.parity.summary import Run, report_of
from ropeexport.runners.eager import EagerRunner
from ropeexport.runners.registry import choices
from ropeexport.weights.integrity import check_weights

__all__ = ["Options", "check"]


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
        contenders = open_contenders(
            folder, record, stack, choices(options.runtimes, options.required)
        )
        for contender in contenders:
            _announce(contender, listener)
        outcome = run(judge, selection.cases, contenders, listener)
        command = options.command(folder, module=module_reference)
        made = Run(record, options.seed, command, digest, selection, judge, contenders)
        return report_of(made, outcome)


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
    text = contender.facts.made_of if ran else f"{contender.status}: {contender.reason}"
    listener.stage(contender.name, text, ok=ran)
