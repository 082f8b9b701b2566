"""The result file: one JSON for a GPU, a day and a commit, written after each check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from benchmarks import machine
from benchmarks.gpu.compiler import CARRIED, ROOT
from ropeexport import atomic
from ropeexport.errors import MissingError, UsageError, first_line
from ropeexport.machine import Gpu, output_of
from ropeexport.manifest import Record

NOTE = CARRIED.with_name("commit.json")  # the commit, for a machine without git
SOURCES = ("benchmarks/gpu", "plugins", "tests/seed_functions.py")  # besides the package
_RIVALS = ("triton", "liger-kernel", "flash-attn", "flashinfer-python")

# REFUSED: by a runtime that does not name this GPU: no failure, and no proof
Verdict = Literal["PASS", "FAIL", "SKIPPED", "REFUSED"]


class Timing(Record):
    """A contender: its time, or why it has none.

    ``copy_share`` is its bandwidth over the fastest copy's; ``ratio`` its time over that of
    ``beside``, the form of the kernel with the same pairs and coefficients; ``equal_bytes`` the
    same for each byte that both must move.  Above 1, the kernel is quicker.
    """

    name: str
    status: Literal["TIMED", "WRONG", "FAILED", "SKIPPED"]
    reason: str = ""
    time_us: float | None = None
    spread: float | None = None  # slowest over fastest round, less one
    rounds_us: tuple[float, ...] = ()
    moved_bytes: int | None = None
    copy_share: float | None = None
    beside: str = ""
    ratio: float | None = None
    equal_bytes: float | None = None


class Check(Record):
    """One check; ``cases`` counts what was compared, ``sizes`` are those of what was timed."""

    part: str = ""
    name: str
    verdict: Verdict
    reason: str = ""
    cases: int = 0
    sizes: dict[str, int | str] | None = None
    timings: tuple[Timing, ...] = ()


class Results(BaseModel):
    """A result file.

    ``parts`` has a verdict for each part that was begun: PARTIAL, where something was left out;
    UNFINISHED, where it was cut short or is under way.
    """

    schema_version: Literal[3] = 3
    date: str
    commit: str | None
    changed: bool | None  # whether the sources differ from the commit's
    gpu: str
    compute_capability: str
    driver: str
    machine: dict[str, Any]
    parts: dict[str, Literal["PASS", "FAIL", "SKIPPED", "REFUSED", "PARTIAL", "UNFINISHED"]] = {}
    checks: list[Check] = []

    def add(self, check: Check) -> None:
        """Add a check, in place of one of the same part and name."""
        names = [(known.part, known.name) for known in self.checks]
        key = (check.part, check.name)
        place = names.index(key) if key in names else len(names)
        self.checks[place : place + 1] = [check]

    def write(self, path: Path) -> None:
        """Write the file in one step; files of the checkout are named from its root."""
        atomic.write_text(path, self.model_dump_json(indent=1).replace(f"{ROOT}/", "") + "\n")


def describe(gpu: Gpu) -> Results:
    """Return an empty result of this machine and checkout."""
    origin = machine.measured(*SOURCES)
    if origin["commit"] is None and NOTE.is_file():
        origin |= {key: json.loads(NOTE.read_text())[key] for key in ("commit", "changed")}
    return Results(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        driver=output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        machine=machine.describe(*_RIVALS) | {"cuda_of_the_driver": gpu.driver_cuda},
        **origin,
    )


def open_results(folder: Path, fresh: Results) -> tuple[Path, Results]:
    """Return the path of the result file, and what is there of the same GPU, day and commit.

    Raises
    ------
    UsageError
        Where the file is not one of this schema, which writing would destroy.
    """
    gpu = re.sub(r"[^a-z0-9]+", "-", fresh.gpu.lower()).strip("-")
    origin = (fresh.commit or "unknown")[:8] + "-changed" * bool(fresh.changed)
    path = folder / f"{gpu}-{fresh.date}-{origin}.json"
    carried = CARRIED.with_name("results") / path.name  # of another machine, taken along
    former = path if path.is_file() else carried
    if not former.is_file():
        return path, fresh
    try:
        known = Results.model_validate_json(former.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{former}: no result file of this schema; move it away") from error
    return path, fresh.model_copy(update={"parts": known.parts, "checks": known.checks})


def verdict_of(checks: list[Check]) -> str:
    """Return the verdict of a part: a failure fails it, and PASS needs all to pass."""
    found = {check.verdict for check in checks} or {"SKIPPED"}
    return "FAIL" if "FAIL" in found else found.pop() if len(found) == 1 else "PARTIAL"


def check_of(name: str, cases: int, failures: list[str]) -> Check:
    """Return a check over cases; one of nothing is a failure."""
    failures = failures or ([] if cases else ["nothing was compared"])
    more = [f"and {len(failures) - 5} more"] if len(failures) > 5 else []
    reason = "; ".join(failures[:5] + more)
    return Check(name=name, verdict="FAIL" if failures else "PASS", reason=reason, cases=cases)


def guarded(name: str, work: Callable[[], Check]) -> Check:
    """Return what a work finds, whatever it raises."""
    try:
        return work()
    except Exception as error:  # a tool or a driver that broke, or any call after one that did
        return check_of_error(name, error)


def check_of_error(name: str, error: Exception) -> Check:
    """Return what an error says of a check: what is missing is SKIPPED."""
    if isinstance(error, MissingError):
        return Check(name=name, verdict="SKIPPED", reason=str(error))
    return Check(name=name, verdict="FAIL", reason=reason_of(error))


def reason_of(error: Exception) -> str:
    """Return an error of any kind in a line."""
    return f"{type(error).__name__}: {first_line(error)[:300]}"
