"""``inspect --lint``: every rule over a folder or a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ropeexport.errors import ModelFileError
from ropeexport.lint.file_rules import FILE_RULES
from ropeexport.lint.graph import Graph
from ropeexport.lint.graph_rules import GRAPH_RULES, is_rotary
from ropeexport.lint.rule import Finding, Rule, Severity, rule
from ropeexport.onnx_files.inspection import Inspection, Subject, inspect
from ropeexport.onnx_files.onnx_file import OnnxFile, is_rope
from ropeexport.ops.forms import form_of


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


_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
RULES: tuple[Rule[Any], ...] = (*GRAPH_RULES, _written_out, *FILE_RULES)


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
        try:
            findings += _written_out.findings(file)
        except (ImportError, OSError) as error:
            raise ModelFileError(
                f"{file.path}: its rotary applications cannot be sought: {error}"
            ) from error
    findings += [f for each in FILE_RULES for f in each.findings(found)]
    return Lint(found, tuple(sorted(findings, key=lambda f: _ORDER.index(f.severity))))
