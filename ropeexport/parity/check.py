"""``check``: a folder's runtimes, or a file, held to a float64 oracle, case by case, to a report.

The reference is eager torch with its float64 copy as the oracle.  A folder that is made of an ONNX
file (``fuse``) is held to that file, and needs no torch; nor does a file that is compared with
another one, or with saved arrays: the first file's graph in float64 is the oracle, and the file
itself, run in its own types, is the yardstick that eager torch is elsewhere.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.axes import axis_sizes
from ropeexport.errors import ModelFileError, NotComparableError, UsageError
from ropeexport.manifest import Manifest
from ropeexport.onnx_files.contract import input_specs, output_specs
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.parity.cases import Case, Selection, select, space_of
from ropeexport.parity.contenders import Contender, SavedRunner, load_saved, open_contenders
from ropeexport.parity.judge import Judge
from ropeexport.parity.onnx_reference import (
    OnnxOracle,
    draws,
    manifest_of,
    onnx_of,
    open_file,
    open_yardstick,
)
from ropeexport.parity.options import Options
from ropeexport.parity.records import Report
from ropeexport.parity.running import Listener, Silent, proves, run_to_report
from ropeexport.parity.text_inputs import text_of
from ropeexport.parity.text_runs import TextRunner, count_tokens
from ropeexport.parity.texts import as_texts, probes_of_texts, select_texts
from ropeexport.reading import check_regular
from ropeexport.runners.registry import choices
from ropeexport.runners.runner import Arrays

if TYPE_CHECKING:
    from ropeexport.models.sources import Module


__all__ = ["ARRAYS", "CANDIDATE", "Options", "check", "check_files"]

ARRAYS = ".npz"
CANDIDATE = "candidate"  # what files' reports call the other one


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
    artifact.check_interface(outputs=False)
    digest = artifact.model_sha256
    if record.cache is None and options.tokens is not None:
        raise UsageError(
            f"--tokens: expected an export with a cache, {artifact.folder} has none", code="RX611"
        )
    with ExitStack() as stack:
        judge, selection = _opened(artifact, module, options, stack)
        name = record.source.name
        listener.stage("oracle", f"{name} in float64, {_counted(selection)}")
        contenders = open_contenders(artifact, stack, choices(options.runtimes, options.required))
        if record.cache is not None:
            contenders = [
                replace(c, runner=TextRunner(c.runner, record)) if c.runner else c
                for c in contenders
            ]
        command = options.command(artifact.folder, module=module)
        return run_to_report(
            judge, selection, contenders, listener, options, command=command, digest=digest
        )


def _opened(
    artifact: Artifact, module: Module | None, options: Options, stack: ExitStack
) -> tuple[Judge, Selection]:
    """Return the judge of a folder, and its cases."""
    record = artifact.manifest
    if record.cache is not None:
        return _open_texts(artifact, module, options, stack)
    selection = select(record, options.seed, options.count, options.lengths)
    return _open_judge(artifact, module, options, stack), selection


def _open_texts(
    artifact: Artifact, module: Module | None, options: Options, stack: ExitStack
) -> tuple[Judge, Selection]:
    from ropeexport.models import sources
    from ropeexport.models.hub.cached import CachedDecoder
    from ropeexport.parity.oracle import Oracle
    from ropeexport.parity.rows_alone import RowsAlone
    from ropeexport.runners.eager import EagerRunner

    record, cache = artifact.manifest, artifact.manifest.cache
    assert cache is not None
    texts = as_texts(record)
    names = [spec.name for spec in texts.model.outputs]
    made = stack.enter_context(sources.rebuilt(artifact, module)).module
    if not isinstance(made, CachedDecoder):
        raise UsageError(
            f"module: expected the decoder that {artifact.folder} was exported from, or what makes "
            f"it, got a {type(made).__name__}",
            code="RX107",
        )
    alone = RowsAlone(made.decoder, cache, names)
    selection = select_texts(
        record,
        sum(x.numel() for x in alone.parameters()),
        seed=options.seed,
        count=options.count,
        lengths=options.lengths,
        tokens=options.tokens,
    )
    oracle, eager = Oracle(alone, names), EagerRunner(alone, names)
    stack.enter_context(eager)

    def inputs(case: Case) -> Arrays:
        with eager.calls.turn:
            return text_of(case, texts.model.inputs[0], cache, alone.continued)

    probes = [inputs(case) for case in probes_of_texts(record)]
    judge = Judge(
        texts, oracle, eager, options.override, inputs=inputs, probes=probes, tokens=count_tokens
    )
    return judge, selection


def _open_judge(
    artifact: Artifact, module: Module | None, options: Options, stack: ExitStack
) -> Judge:
    record = artifact.manifest
    if record.source.kind == "onnx":
        if module is not None:
            raise UsageError(
                f"--module: {artifact.folder} is made of {record.source.name}, the file that it is "
                "held to",
                code="RX108",
            )
        original = artifact.original
        yardstick, _ = open_yardstick(original, record, stack)
        roles = {spec.name: spec.role for spec in output_specs(original.graph)}
        return Judge(
            record, OnnxOracle(original), yardstick, options.override, reference_roles=roles
        )
    from ropeexport.models import sources
    from ropeexport.models.example import bound
    from ropeexport.parity.oracle import Oracle
    from ropeexport.runners.eager import EagerRunner

    names = [spec.name for spec in record.model.outputs]
    rebuilt = bound(stack.enter_context(sources.rebuilt(artifact, module)))
    oracle = Oracle(rebuilt, names)
    eager = stack.enter_context(EagerRunner(rebuilt, names))
    return Judge(record, oracle, eager, options.override)


def check_files(
    reference: Path,
    candidate: Path,
    options: Options | None = None,
    listener: Listener | None = None,
) -> Report:
    """Compare an ONNX file, or saved arrays, with a reference.

    Parameters
    ----------
    reference : Path
        An ONNX file, or an output folder that holds one.
    candidate : Path
        An ONNX file of the same inputs and outputs (or an output folder that holds one), or an
        ``.npz`` of one run's inputs and outputs.
    options, listener : optional
        As for :func:`ropeexport.parity.check.check`.

    Returns
    -------
    Report
        Its runtimes are ``reference`` and ``candidate``.

    Raises
    ------
    RopeExportError
        Where no run can be set up.
    """
    options, listener = options or Options(), listener or Silent()
    file = onnx_of(reference)
    if random := draws(file):
        raise NotComparableError(f"{file.path}: nothing to compare with: {random}", code="RX702")
    record = manifest_of(file)
    with ExitStack() as stack:
        oracle = OnnxOracle(file)
        yardstick, runtime = open_yardstick(file, record, stack)
        other = onnx_of(candidate)
        path, model = other.path, record.model
        saved: dict[str, Any] = {}
        check_regular(path, ModelFileError)
        if path.suffix == ARRAYS:
            inputs, outputs = load_saved(path, model)
            selection = Selection((_saved_case(record, inputs, options),))
            saved = {"inputs": lambda _: inputs, "probes": [inputs]}
            contender = Contender(CANDIDATE, SavedRunner(outputs))
        else:
            expected, found = (
                {f"{spec.name} ({spec.dtype})": None for spec in specs}
                for specs in (model.inputs, input_specs(other.graph, any_type=True))
            )
            if found != expected:
                raise UsageError(
                    f"{path}: expected the inputs {', '.join(expected)}, got {', '.join(found)}",
                    code="RX605",
                )
            selection = select(record, options.seed, options.count, options.lengths)
            contender = open_file(CANDIDATE, other, runtime, stack)
        listener.stage("oracle", f"{file.path.name} in float64, {_counted(selection)}")
        judge = Judge(record, oracle, yardstick, options.override, of_file=True, **saved)
        command, digest = options.command(reference, candidate), atomic.sha256_of(file.path)
        report = run_to_report(
            judge, selection, [contender], listener, options, command=command, digest=digest
        )
    return _with_what_was_skipped(file, report)


def _counted(selection: Selection) -> str:
    count = len(selection.cases)
    return f"{count} case{'s' * (count != 1)}"


def _with_what_was_skipped(file: OnnxFile, report: Report) -> Report:
    """Return a report with the cases that the reference has no result for among its notes.

    Raises
    ------
    NotComparableError
        Where nothing was compared, and no difference found.
    """
    found = [each for each in report.comparisons if each.runtime == CANDIDATE and each.case]
    skipped = {c.case.name: c.reason for c in found if c.case and c.status == "SKIPPED"}
    first = next(iter(skipped.values()), "")
    if found and all(each.status in ("PASS", "SKIPPED") and not proves(each) for each in found):
        empty = (
            f"{file.path}: nothing to compare with: every output is empty or not finite at the "
            f"inputs that were drawn; saved arrays ({ARRAYS}) bring others"
        )
        raise NotComparableError(first or empty, code="RX702")
    notes = [f"cases SKIPPED: {len(skipped)}, the first for: {first}"] if skipped else []
    return report.changed(notes=(*report.notes, *notes))


def _saved_case(record: Manifest, inputs: Arrays, options: Options) -> Case:
    shapes = {name: x.shape for name, x in inputs.items()}
    for spec in record.model.inputs:
        if len(spec.shape) != len(shapes[spec.name]):
            raise UsageError(
                f"{spec.name}: expected an array of shape {spec.shape}, got {shapes[spec.name]}",
                code="RX601",
            )
    sizes = axis_sizes(record.model.inputs, shapes, "saved arrays")
    kind = space_of(record).kinds[-1]
    return Case("saved arrays", kind, sizes, options.seed)
