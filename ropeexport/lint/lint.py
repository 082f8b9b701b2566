"""``inspect --lint``: every rule over a folder or a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ropeexport.errors import ModelFileError
from ropeexport.lint.file_rules import FILE_RULES
from ropeexport.lint.graph import Graph
from ropeexport.lint.graph_rules import GRAPH_RULES
from ropeexport.lint.rule import Finding, Rule, Severity
from ropeexport.lint.written_out import WRITTEN_OUT
from ropeexport.onnx_files.inspection import Inspection, Subject, inspect

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
RULES: tuple[Rule[Any], ...] = (*GRAPH_RULES, WRITTEN_OUT, *FILE_RULES)


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
    findings = [f for rule in GRAPH_RULES for f in rule.findings(graph)]
    if found.model.record is None:  # an export of ours has been through the recognition
        try:
            findings += WRITTEN_OUT.findings(file)
        except (ImportError, OSError) as error:
            raise ModelFileError(
                f"{file.path}: its rotary applications cannot be sought: {error}"
            ) from error
    findings += [f for rule in FILE_RULES for f in rule.findings(found)]
    return Lint(found, tuple(sorted(findings, key=lambda f: _ORDER.index(f.severity))))
