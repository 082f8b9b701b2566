"""Verdicts of checks and of parts."""

from __future__ import annotations

import pytest

from benchmarks.gpu.verdict import FAIL, PASS, REFUSED, SKIPPED, Check, check_of, part_of, worst


def checks(*verdicts: str) -> list[Check]:
    return [Check(f"check {i}", verdict, f"why {i}", 2) for i, verdict in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((PASS, FAIL, SKIPPED), FAIL),
        ((SKIPPED, PASS), PASS),
        ((SKIPPED, REFUSED), REFUSED),
        ((SKIPPED,), SKIPPED),
        ((), SKIPPED),
    ],
)
def test_one_failure_fails_and_nothing_is_no_pass(verdicts, expected) -> None:
    assert worst(checks(*verdicts)) == expected


def test_a_part_gives_the_reason_of_its_first_culprit() -> None:
    part = part_of("sanitizer", checks(PASS, FAIL, FAIL))
    assert (part.verdict, part.reason, part.cases) == (FAIL, "check 1: why 1", 6)
    assert part_of("sanitizer", checks(PASS, SKIPPED)).reason == ""


def test_a_check_of_nothing_fails() -> None:
    assert check_of("empty", 0, []).verdict == FAIL
    assert check_of("some", 3, []) == Check("some", PASS, "", 3)


def test_a_check_shows_some_failures_and_counts_the_rest() -> None:
    check = check_of("many", 9, [f"case {i}" for i in range(9)])
    assert check.verdict == FAIL
    assert check.reason.endswith("case 4 and 4 more")
