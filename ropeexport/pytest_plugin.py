"""The pytest plugin: the fixture ``parity``, its marker, and a summary of what was compared.

pytest loads it in every run of an environment that has ropeexport, so it imports pytest alone; a
suite that compares nothing sees none of it.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

_MARKER = "parity"
_ATTRIBUTE = "ropeexport_parity"  # of a test's report: notes, as what a worker can send
_MOST_LINES = 5


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker and listen to the tests' reports."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(terms=None, atol=None, rtol=None): options of the fixture `{_MARKER}`, see "
        "ropeexport.testing.assert_parity",
    )
    config.pluginmanager.register(_Summary(), "ropeexport-summary")


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``ropeexport.testing.assert_parity``, with the options of the test's ``parity`` marker."""
    from ropeexport.testing import assert_parity

    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers(_MARKER))):  # the nearest comes last
        options |= mark.kwargs

    def check(got: Any, expected: Any, **given: Any) -> None:
        __tracebackhide__ = True
        assert_parity(got, expected, **(options | given))

    return check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hang what a test compared on its report, so that it also leaves a worker process."""
    report = yield
    log = sys.modules.get("ropeexport.testing.log")
    if log is not None and (notes := log.take()):
        setattr(report, _ATTRIBUTE, [vars(note) for note in notes])
    return report


class _Summary:
    """What all tests of a run compared."""

    def __init__(self) -> None:
        self._notes: list[tuple[str, dict[str, Any]]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test compared."""
        self._notes += [(report.nodeid, note) for note in getattr(report, _ATTRIBUTE, ())]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the number of comparisons, those nearest to their bounds, and what did not run."""
        if not self._notes:
            return
        terminalreporter.section("ropeexport parity")
        for line in self._lines():
            terminalreporter.line(line)

    def _lines(self) -> Iterator[str]:
        count = Counter(note["status"] for _, note in self._notes)
        tests = len({test for test, _ in self._notes})
        totals = ", ".join(f"{number} {status}" for status, number in sorted(count.items()))
        yield f"{len(self._notes)} comparisons in {tests} tests: {totals}"
        held = [(test, note) for test, note in self._notes if note["share"]]
        nearest = sorted(held, key=lambda entry: -entry[1]["share"])
        for test, note in nearest[:_MOST_LINES]:
            share = f"{note['share']:.0%}" if note["share"] < math.inf else "beyond all"
            yield f"  {share} of its bound: {note['name']} in {test}: {note['text']}"
        for test, note in self._notes:
            if note["status"] in ("SKIPPED", "NOT_SUPPORTED"):
                yield f"  {note['status']} {note['name']} in {test}: {note['text']}"
