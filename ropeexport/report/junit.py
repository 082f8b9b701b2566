"""A report as JUnit XML: a suite a runtime, a test a case and output, for any CI to show."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ropeexport.parity import wording
from ropeexport.parity.records import Comparison, Report, RuntimeRecord
from ropeexport.report import view

# characters that no XML 1.0 document may hold
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """Return a report as JUnit XML."""
    by_runtime: dict[str, list[Comparison]] = {r.name: [] for r in report.runtimes}
    for comparison in report.comparisons:
        by_runtime.setdefault(comparison.runtime, []).append(comparison)
    root = Element("testsuites", _named(f"parity of {report.source}", report.comparisons))
    records = {runtime.name: runtime for runtime in report.runtimes}
    for name, comparisons in by_runtime.items():
        _add_suite(root, report, name, records.get(name), comparisons)
    if report.verdict == "FAIL" and not view.failures(report):
        _add_verdict(root, report)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _add_suite(
    root: Element,
    report: Report,
    name: str,
    runtime: RuntimeRecord | None,
    comparisons: list[Comparison],
) -> None:
    suite = SubElement(root, "testsuite", _named(name, comparisons))
    facts = {"command": report.command, "seed": str(report.seed), "model": report.model_sha256}
    if runtime is not None:
        facts |= {
            "version": runtime.version,
            "provider": runtime.provider,
            "precision": ", ".join(runtime.precision),
            "implementation": runtime.implementation,
        }
    properties = SubElement(suite, "properties")
    for key, value in facts.items():
        SubElement(properties, "property", name=key, value=_clean(value))
    for comparison in comparisons:
        _add_case(suite, comparison)


def _add_case(suite: Element, comparison: Comparison) -> None:
    case = SubElement(
        suite,
        "testcase",
        classname=f"{comparison.runtime}.{comparison.output}",
        name=_clean(comparison.case.name if comparison.case else "any case"),
    )
    if comparison.status == "FAIL":
        SubElement(case, "failure", message=_clean(comparison.reason)).text = _facts(comparison)
    elif comparison.status != "PASS":
        word = view.WORDS[comparison.status]
        SubElement(case, "skipped", message=_clean(f"{word}: {comparison.reason}"))


def _add_verdict(root: Element, report: Report) -> None:
    """Add a failure of the run itself, where no comparison shows it."""
    suite = SubElement(root, "testsuite", name="verdict", tests="1", failures="1", skipped="0")
    case = SubElement(suite, "testcase", classname="verdict", name="verdict")
    SubElement(case, "failure", message=_clean(report.reason))
    for key in ("tests", "failures"):
        root.set(key, str(int(root.attrib[key]) + 1))


def _facts(comparison: Comparison) -> str:
    numbers, bound = comparison.numbers, comparison.bound
    lines = [comparison.reason]
    if numbers is not None:
        lines.append(
            f"largest error {wording.number(numbers.max_abs)}, rms {wording.number(numbers.rms)}"
        )
        if numbers.worst is not None:
            worst = numbers.worst
            lines.append(f"at {list(worst.index)}: got {worst.got}, expected {worst.expected}")
    if bound is not None:
        lines.append(f"bounds {wording.number(bound.max_abs)}, {wording.number(bound.rms)}")
    return _clean("\n".join(lines))


def _named(name: str, comparisons: Iterable[Comparison]) -> dict[str, str]:
    """Return a suite's name and counts."""
    statuses = [comparison.status for comparison in comparisons]
    failed, passed = statuses.count("FAIL"), statuses.count("PASS")
    return {
        "name": _clean(name),
        "tests": str(len(statuses)),
        "failures": str(failed),
        "skipped": str(len(statuses) - failed - passed),
    }


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
