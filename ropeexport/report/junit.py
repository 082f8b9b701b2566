"""A report as JUnit XML: a suite a runtime, a test a case and output, for any CI to show."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ropeexport.parity.records import (
    BoundRecord,
    Comparison,
    Numbers,
    PictureRecord,
    Report,
    RuntimeRecord,
    Status,
)
from ropeexport.parity.report import number, pixels_text, word
from ropeexport.plain import all_shown
from ropeexport.report import view


def render(report: Report) -> str:
    """Return a report as JUnit XML; what no XML may hold is escaped as in a terminal."""
    report = all_shown(report)
    root = Element("testsuites", name=f"parity of {report.source}")
    for runtime in report.runtimes:
        _add_suite(root, report, runtime)
    has_why = view.failures(report) or any(x.status == "FAIL" for _, x in view.pictures(report))
    if report.verdict == "FAIL" and not has_why:  # no comparison shows why
        suite = SubElement(root, "testsuite", name="verdict")
        case = SubElement(suite, "testcase", classname="verdict", name="verdict")
        SubElement(case, "failure", message=report.reason)
    for counted in (root, *root):
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
            counted.set(name, str(len(list(counted.iter(tag)))))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _add_suite(root: Element, report: Report, runtime: RuntimeRecord) -> None:
    suite = SubElement(root, "testsuite", name=runtime.name)
    facts = {
        "command": report.command,
        "seed": str(report.seed),
        "model": report.model_sha256,
        "version": runtime.version,
        "provider": runtime.provider,
        "precision": ", ".join(runtime.precision),
        "implementation": runtime.implementation,
    }
    if runtime.tokens is not None:
        facts["tokens"] = runtime.tokens.text
    properties = SubElement(suite, "properties")
    for key, value in facts.items():
        SubElement(properties, "property", name=key, value=value)
    for comparison in report.comparisons:
        if comparison.runtime == runtime.name:
            _add_case(suite, comparison)
    for call, picture in view.pictures(report):
        if picture.runtime == runtime.name:
            _add_picture(suite, call, picture)


def _add_case(suite: Element, comparison: Comparison) -> None:
    name = comparison.case.name if comparison.case else "any case"
    held = f"{comparison.runtime}.{comparison.output}"
    case = SubElement(suite, "testcase", classname=held, name=name)
    facts = _facts(comparison.reason, comparison.numbers, comparison.bound)
    _add_result(case, comparison.status, comparison.reason, facts)


def _add_picture(suite: Element, call: str, found: PictureRecord) -> None:
    held = f"{found.runtime}.pipeline"
    case = SubElement(suite, "testcase", classname=held, name=call)
    facts = _facts(found.reason, found.latents, found.bound, f"pixels: {pixels_text(found)}")
    _add_result(case, found.status, found.reason, facts)


def _add_result(case: Element, status: Status, reason: str, facts: str) -> None:
    if status == "FAIL":
        SubElement(case, "failure", message=reason).text = facts
    elif status != "PASS":
        SubElement(case, "skipped", message=f"{word(status)}: {reason}")


def _facts(reason: str, numbers: Numbers | None, bound: BoundRecord | None, *more: str) -> str:
    lines = [reason, *more]
    if numbers is not None:
        lines.append(f"largest error {number(numbers.max_abs)}, rms {number(numbers.rms)}")
        if numbers.worst is not None:
            worst = numbers.worst
            lines.append(f"at {list(worst.index)}: got {worst.got}, expected {worst.expected}")
    if bound is not None:
        lines.append(f"bounds {number(bound.max_abs)}, {number(bound.rms)}")
    return "\n".join(lines)
