"""``check``: cases times runtimes to a report.  Only records are kept from case to case.

The reference is eager torch with its float64 copy as the oracle.  A folder that is made of an ONNX
file (``fuse``) is held to that file, and needs no torch.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ropeexport.artifact import Artifact
from ropeexport.errors import UsageError
from ropeexport.parity.cases import select
from ropeexport.parity.contenders import open_contenders
from ropeexport.parity.judge import Judge
from ropeexport.parity.options import Options
from ropeexport.parity.records import Report
from ropeexport.parity.running import Listener, Silent
from ropeexport.parity.summary import run_to_report
from ropeexport.runners.registry import choices

if TYPE_CHECKING:
    from ropeexport.models.sources import Module

__all__ = ["Options", "check"]


def check(
    artifact: Artifact,
    module: Module | None = None,
    options: Options | None = None,
    listener: Listener | None = None,
) -> Report:
    """Compare every runtime of an output folder with the float64 oracle.

    Parameters
    ----------
    artifact : Artifact
        An output folder, with or without an engine.
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
        Where no run can be set up: no model, a module that cannot be rebuilt.
    """
    options, listener = options or Options(), listener or Silent()
    record = artifact.manifest
    artifact.check_weights()
    digest = artifact.model_sha256
    selection = select(record, options.seed, options.count, options.lengths)
    with ExitStack() as stack:
        judge = _open_judge(artifact, module, options, stack)
        name = record.source.name
        listener.stage("oracle", f"{name} in float64, {len(selection.cases)} cases")
        contenders = open_contenders(artifact, stack, choices(options.runtimes, options.required))
        command = options.command(artifact.folder, module=module)
        return run_to_report(
            judge, selection, contenders, listener, options, command=command, digest=digest
        )


def _open_judge(
    artifact: Artifact, module: Module | None, options: Options, stack: ExitStack
) -> Judge:
    record = artifact.manifest
    if record.source.kind == "onnx":
        return _open_judge_of_file(artifact, module, options, stack)
    from ropeexport.models import sources
    from ropeexport.models.example import bound
    from ropeexport.parity.oracle import Oracle
    from ropeexport.runners.eager import EagerRunner

    names = [spec.name for spec in record.model.outputs]
    rebuilt = bound(stack.enter_context(sources.rebuilt(artifact, module)))
    oracle = Oracle(rebuilt, names)
    eager = stack.enter_context(EagerRunner(rebuilt, names))
    return Judge(record, oracle, eager, options.override)


def _open_judge_of_file(
    artifact: Artifact, module: Module | None, options: Options, stack: ExitStack
) -> Judge:
    """Hold a folder to the file that it is made of."""
    from ropeexport.onnx_files.specs import output_specs
    from ropeexport.parity.check_files import open_yardstick
    from ropeexport.parity.onnx_oracle import OnnxOracle

    if module is not None:
        raise UsageError(
            f"--module: {artifact.folder} is made of {artifact.manifest.source.name}, the file "
            "that it is held to"
        )
    original, record = artifact.original, artifact.manifest
    yardstick, _ = open_yardstick(original, record, stack)
    roles = {spec.name: spec.role for spec in output_specs(original.graph)}
    oracle = OnnxOracle(original)
    return Judge(record, oracle, yardstick, options.override, reference_roles=roles)
