"""``check``: cases times runtimes to a report.  Only records are kept from case to case.

The reference is eager torch with its float64 copy as the oracle.  A folder that is made of an ONNX
file (``fuse``) is held to that file, and needs no torch.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport import atomic, manifest
from ropeexport.errors import ModelFileError, UsageError
from ropeexport.manifest import Manifest
from ropeexport.parity.cases import select
from ropeexport.parity.contenders import Contender, open_contenders
from ropeexport.parity.judge import Judge
from ropeexport.parity.options import Options
from ropeexport.parity.records import Report
from ropeexport.parity.running import Listener, Silent, run
from ropeexport.parity.summary import Run, report_of
from ropeexport.runners.registry import choices
from ropeexport.weights.integrity import check_weights

if TYPE_CHECKING:
    from ropeexport.models.sources import Module

__all__ = ["Options", "check"]


def check(
    folder: Path,
    module: Module | None = None,
    options: Options | None = None,
    listener: Listener | None = None,
) -> Report:
    """Compare every runtime of an output folder with the float64 oracle.

    Parameters
    ----------
    folder : Path
        An output folder of ``ropeexport export``, with or without an engine.
    module : optional
        Where the model came from the user's own code: the factory to import (a reference), the
        module, or an example.
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
        judge = _open_judge(folder, record, module, options, stack)
        name = record.source.name
        listener.stage("oracle", f"{name} in float64, {len(selection.cases)} cases")
        contenders = open_contenders(
            folder, record, stack, choices(options.runtimes, options.required)
        )
        for contender in contenders:
            _announce(contender, listener)
        outcome = run(judge, selection.cases, contenders, listener)
        command = options.command(folder, module=module)
        made = Run(record, options.seed, command, digest, selection, judge, contenders)
        return report_of(made, outcome)


def _digest(folder: Path, record: Manifest) -> str:
    path = folder / record.model.file
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file, though the manifest names it; export it again")
    return atomic.sha256_of(path)


def _open_judge(
    folder: Path, record: Manifest, module: Module | None, options: Options, stack: ExitStack
) -> Judge:
    if record.source.kind == "onnx":
        return _open_judge_of_file(folder, record, module, options, stack)
    from ropeexport.models import sources
    from ropeexport.models.example import bound
    from ropeexport.parity.oracle import Oracle
    from ropeexport.runners.eager import EagerRunner

    names = [spec.name for spec in record.model.outputs]
    rebuilt = bound(stack.enter_context(sources.rebuilt(record, folder, module)))
    oracle = Oracle(rebuilt, names)
    eager = stack.enter_context(EagerRunner(rebuilt, names))
    return Judge(record, oracle, eager, options.override)


def _open_judge_of_file(
    folder: Path, record: Manifest, module: Module | None, options: Options, stack: ExitStack
) -> Judge:
    """Hold a folder to the file that it is made of."""
    from ropeexport.parity.check_files import open_yardstick
    from ropeexport.parity.onnx_oracle import OnnxOracle

    if module is not None:
        raise UsageError(
            f"--module: {folder} is made of {record.source.name}, the file that it is held to"
        )
    original = manifest.file_of_source(record.source, folder)
    yardstick, _ = open_yardstick(original, record, stack)
    return Judge(record, OnnxOracle(original), yardstick, options.override)


def _announce(contender: Contender, listener: Listener) -> None:
    ran = contender.runner is not None
    text = contender.facts.made_of if ran else f"{contender.status}: {contender.reason}"
    listener.stage(contender.name, text, ok=ran)
