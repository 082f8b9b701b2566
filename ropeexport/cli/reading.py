"""``inspect`` and ``doctor``: the verbs that only look, and what they print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ropeexport.cli.making import cache_line, rope_lines, spec_line
from ropeexport.cli.terminal import echo, echo_json
from ropeexport.cli.types import PATH

if TYPE_CHECKING:
    from ropeexport.doctor import Diagnosis
    from ropeexport.lint.rule import Finding
    from ropeexport.manifest import Profile
    from ropeexport.onnx_files.inspection import Engine, Inspection, Model


@click.command(name="inspect")
@click.argument("path", type=PATH)
@click.option("--lint", is_flag=True, help="Hold the file to the rules of docs/lint.md.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect_command(path: Path, lint: bool, as_json: bool) -> None:
    """Show the rotary ops of PATH, and what implements each in the engine.

    PATH is an output folder, an .onnx file, or an engine with its manifest beside it.  With --lint,
    what costs accuracy or speed is said with its mend, and errors exit with 1.
    """
    if lint:
        _lint(path, as_json)
        return
    import ropeexport

    found = ropeexport.inspect(path)
    if as_json:
        echo_json(found.model_dump_json(indent=2))
    else:
        echo(*_lines(found))


def _lint(path: Path, as_json: bool) -> None:
    import json

    import ropeexport
    from ropeexport.errors import EXIT_FAILURE

    found = ropeexport.lint(path)
    if as_json:
        records = [finding.model_dump() for finding in found.findings]
        whole = found.inspection.model_dump(mode="json") | {"findings": records}
        echo_json(json.dumps(whole, indent=2))
    else:
        echo(*_finding_lines(found.findings))
    if found.errors:
        raise SystemExit(EXIT_FAILURE)


def _finding_lines(findings: tuple[Finding, ...]) -> Iterator[str]:
    marks = {"error": "✗", "warning": "!", "note": "-"}
    for finding in findings:
        yield f"{marks[finding.severity]} {finding.severity:8} {finding.rule}: {finding.text}"
        if finding.mend:
            yield f"  mend: {finding.mend}"
    errors, warnings = (sum(f.severity == s for f in findings) for s in ("error", "warning"))
    yield f"lint: {errors} errors, {warnings} warnings"


def _lines(found: Inspection) -> Iterator[str]:
    yield from _model_lines(found.model)
    if found.model.record is not None:
        yield from rope_lines(found.model.record)
    yield f"rotary ops: {len(found.ropes)}"
    for rope in found.ropes:
        yield f"  {rope.node}  {rope.op}({', '.join(rope.inputs)}) -> {', '.join(rope.outputs)}"
        for name, value in rope.attributes.items():
            yield f"    {name} = {value!r}"
        yield f"    implementation: {rope.implementation or 'unknown (no engine of this file)'}"
    yield from _engine_lines(found.engine) if found.engine else ("engine: none",)


def _model_lines(model: Model) -> Iterator[str]:
    state = {
        True: "the exported file",
        False: "NOT the file that was exported",
        None: "no manifest beside it",
    }[model.is_exported_file]
    opset = f"opset {model.opset}" if model.opset else "no opset of ONNX's own operators"
    yield f"model: {model.file}, {opset}, {state}"
    for label, specs in (("in", model.inputs), ("out", model.outputs)):
        yield from (f"  {label:3} {spec_line(spec)}" for spec in specs)
    if model.cache is not None:
        yield cache_line(model.cache)


def _engine_lines(engine: Engine) -> Iterator[str]:
    from rich.filesize import decimal

    record = engine.record
    state = "as built" if engine.is_built_file else "NOT the engine that was built"
    yield (
        f"engine: {record.file}, {record.flavour} {record.version}, "
        f"{decimal(engine.size_bytes)}, {state}"
    )
    yield f"  attention: {record.attention}"
    gpus = ", ".join(record.compute_capabilities) or "any that the flavour supports"
    yield f"  compute capability: {gpus}"
    if record.plugin is not None:
        plugin = record.plugin
        where = "embedded" if plugin.embedded else f"needs {plugin.file} beside it"
        yield f"  plugin: {plugin.namespace}::{plugin.name} version {plugin.version}, {where}"
    if record.refittable:
        where = "come from the ONNX file" if record.stripped else "are in it"
        counts = f"{len(record.refits)} can be exchanged, {len(record.fixed)} not"
        yield f"  weights: {counts}; they {where}"
    if record.weight_streaming:
        yield "  weights: streamed from the host's memory where a load is bounded"
    if record.in_place:
        yield f"  cache: {len(record.in_place)} tensors, updated in place"
    names = ("profile",) if record.decode is None else ("profile 0, prefill", "profile 1, decode")
    for name, profile in zip(names, record.profiles, strict=True):
        yield f"  {name} (min, opt, max):"
        yield from _profile_lines(profile)


def _profile_lines(profile: Profile) -> Iterator[str]:
    for name in profile.opt:
        points = (profile.min[name], profile.opt[name], profile.max[name])
        yield f"    {name}  " + "  ".join("x".join(map(str, shape)) for shape in points)


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def doctor_command(context: click.Context, as_json: bool) -> None:
    """Show versions and what is missing, with the command that brings it.

    Exit code 0 where export, onnxruntime and one TensorRT are there, else 3.
    """
    import ropeexport
    from ropeexport.errors import EXIT_MISSING, EXIT_PASS

    diagnosis = ropeexport.doctor()
    if as_json:
        echo_json(diagnosis.model_dump_json(indent=2))
    else:
        echo(*_doctor_lines(diagnosis))
    context.exit(EXIT_PASS if diagnosis.ok else EXIT_MISSING)


def _doctor_lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield f"ropeexport {diagnosis.ropeexport}"
    for item in diagnosis.items:
        mark = "✓" if item.found else "✗" if item.name in diagnosis.missing else "-"
        state = item.found or f"not here (for {item.purpose}); {item.cure}"
        yield f"{mark} {item.name:13} {state}"
    if diagnosis.missing:
        yield f"missing: {', '.join(diagnosis.missing)}"
    else:
        yield "export, check and build can run here"
