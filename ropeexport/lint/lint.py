"""``inspect --lint``: every rule over a folder or a file.

The rules here ask what an export and a build have recorded of a folder, and the recognition of
``fuse``; those over a graph alone are in :mod:`ropeexport.lint.graph_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ropeexport.errors import first_line
from ropeexport.lint.graph_rules import GRAPH_RULES, Graph, is_rotary
from ropeexport.lint.rule import Finding, Rule, Severity, rule
from ropeexport.onnx_files.inspection import Inspection, Subject, inspect
from ropeexport.onnx_files.onnx_file import OnnxFile, is_rope
from ropeexport.ops.forms import form_of

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@rule(
    "rope-refused",
    "warning",
    "what looks like a rotary application was left as it is",
    "see the reason; ropeexport.apply_rope or apply_rope of cosines and sines is always an op",
)
def _refused(found: Inspection) -> Iterator[str]:
    record = found.model.record
    if record is not None:
        yield from (f"{refusal.node} ({refusal.reason})" for refusal in record.recognition.refused)


@rule(
    "changed-file",
    "warning",
    "the ONNX file is not the one that its manifest describes",
    "export it again, or prove what was changed with 'ropeexport check'",
)
def _changed(found: Inspection) -> Iterator[str]:
    if found.model.is_exported_file is False:
        yield found.model.file


@rule(
    "rope-decomposed",
    "warning",
    "the engine rotates with plain layers",
    "build with --impl plugin (any matrices), or --impl native (rotations)",
)
def _decomposed_ropes(found: Inspection) -> Iterator[str]:
    return (rope.node for rope in found.ropes if rope.implementation == "decomposed")


@rule(
    "attention-decomposed",
    "warning",
    "the engine was allowed to build attention from plain layers: TensorRT has no fused kernel "
    "for float32 or small heads",
    "export with --dtype fp16 or bf16 and a head size of 64 or 128",
)
def _decomposed_attention(found: Inspection) -> Iterator[str]:
    if found.engine is not None and found.engine.record.attention == "decomposed":
        yield found.engine.record.file


@rule(
    "stale-engine",
    "error",
    "the engine, or the file it was built from, is not what the manifest describes",
    "run 'ropeexport build' again",
)
def _stale_engine(found: Inspection) -> Iterator[str]:
    engine = found.engine
    if engine is not None and not (engine.is_built_file and found.model.is_exported_file):
        yield engine.record.file


@rule("implementation", "note", "what computes each rotary op and attention")
def _ran_by(found: Inspection) -> Iterator[str]:
    for rope in found.ropes:
        yield f"{rope.node}: {rope.implementation or 'function body in onnxruntime, no engine'}"
    if found.engine is not None and found.engine.record.attention != "none":
        yield f"attention: {found.engine.record.attention}"


FILE_RULES = (_stale_engine, _changed, _refused, _decomposed_attention, _decomposed_ropes, _ran_by)


@rule(
    "rope-written-out",
    "warning",
    "rotary applications that are written out, and could each be one op",
    "run 'ropeexport fuse FILE -o DIR'",
)
def _written_out(file: OnnxFile) -> Iterator[str]:
    """Find them by the recognition of ``fuse``."""
    from ropeexport.exporting.fuse_file import replaced

    own = {node.outputs[0].name for node in file.graph.graph if is_rope(node) or is_rotary(node)}
    for node in replaced(file).graph:
        made = node.outputs[0].name
        if form_of(node.domain, node.op_type) is not None and made not in own:
            yield str(made)


@rule("ropes-not-sought", "note", "rotary applications that are written out cannot be sought")
def _not_sought(reason: str) -> Iterator[str]:
    yield reason


def _sought(file: OnnxFile) -> list[Finding]:
    """Return where ropes are written out; where the recognition cannot run, why."""
    try:
        return _written_out.findings(file)
    except Exception as error:  # the passes before it, of libraries, may raise anything of a graph
        return _not_sought.findings(first_line(error))


RULES: tuple[Rule[Any], ...] = (*GRAPH_RULES, _written_out, _not_sought, *FILE_RULES)


@dataclass(frozen=True)
class Lint:
    """What a file is, and what the rules find of it, errors first."""

    inspection: Inspection
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that mean a wrong or unsafe result, or a file that a runtime refuses."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


def lint(subject: Subject) -> Lint:
    """Inspect a file and return what every rule finds, errors first.

    Raises
    ------
    ManifestError, ModelFileError
        As :func:`ropeexport.onnx_files.inspection.inspect`.
    """
    found, file = inspect(subject), subject.file
    graph = Graph(file.graph)
    findings = [f for each in GRAPH_RULES for f in each.findings(graph)]
    if found.model.record is None:  # an export of ours has been through the recognition
        findings += _sought(file)
    findings += [f for each in FILE_RULES for f in each.findings(found)]
    return Lint(found, tuple(sorted(findings, key=lambda f: _ORDER.index(f.severity))))
