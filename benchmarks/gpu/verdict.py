"""What became of a check: it passed, failed, was refused by a runtime, or did not run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ropeexport.errors import first_line

PASS = "PASS"
FAIL = "FAIL"
REFUSED = "REFUSED"  # by a runtime that does not support this GPU: no failure, and no proof
SKIPPED = "SKIPPED"

_SHOWN = 5


class Skipped(Exception):  # noqa: N818  an outcome, not an error
    """What cannot run here, and why."""


@dataclass(frozen=True)
class Check:
    """One check, or a part of them; ``cases`` counts what was compared."""

    name: str
    verdict: str
    reason: str = ""
    cases: int = 0

    def record(self) -> dict[str, Any]:
        """Return the check as a result file keeps it."""
        return asdict(self)


def check_of(name: str, cases: int, failures: Sequence[str]) -> Check:
    """Return a check over cases; one of nothing is a failure."""
    if failures:
        more = f" and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        return Check(name, FAIL, "; ".join(failures[:_SHOWN]) + more, cases)
    if cases == 0:
        return Check(name, FAIL, "nothing was compared")
    return Check(name, PASS, cases=cases)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """Return a check, or that it could not run, or what it raised, so that others follow it."""
    try:
        return check()
    except Skipped as reason:
        return Check(name, SKIPPED, str(reason))
    except Exception as error:  # a launch that failed, or any later call after one that did
        return Check(name, FAIL, f"{type(error).__name__}: {first_line(error)}")


def worst(checks: Iterable[Check]) -> str:
    """Return the verdict of several together: one failure fails, and PASS needs a PASS."""
    found = {check.verdict for check in checks}
    return next((verdict for verdict in (FAIL, PASS, REFUSED) if verdict in found), SKIPPED)


def part_of(name: str, checks: Sequence[Check]) -> Check:
    """Return several checks as one, with the reason of the first that is worst."""
    verdict = worst(checks)
    culprits = [check for check in checks if check.verdict == verdict and verdict != PASS]
    reason = f"{culprits[0].name}: {culprits[0].reason}" if culprits else ""
    return Check(name, verdict, reason, sum(check.cases for check in checks))
