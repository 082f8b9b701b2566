"""What the page says beside the timings: builds, files, and a second run against the first."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from benchmarks import page
from benchmarks.cpu import tables
from benchmarks.cpu.again import pairs

CPU = json.loads((page.RESULTS / "cpu.json").read_text())
PART = {"parts": {"attention": CPU["parts"]["attention"]}}
BUILT = {"status": "BUILT", "cold_seconds": 2.0, "again_seconds": 1.5, "engine_mb": 3.0,
         "timing_cache": False, "flavour": "tensorrt-rtx", "version": "1.7"}  # fmt: skip


def slower(part: str, contender: str, times: float) -> dict[str, Any]:
    changed = copy.deepcopy(PART)
    for group in changed["parts"][part]["bench"]["groups"]:
        for timing in group["timings"]:
            if timing["contender"] == contender:
                timing["turns_ms"] = [times * x for x in timing["turns_ms"]]
    return changed | {"date": "2026-01-02"}


def test_the_same_run_holds() -> None:
    assert all(pair.holds and pair.holds_to_ours for pair in pairs(PART, PART))
    said = "\n".join(tables.again_lines(PART, PART | {"date": "2026-01-02"}))
    count = len(list(pairs(PART, PART)))
    assert count > 10
    assert f"{count} of {count} medians" in said
    assert "moved by more" not in said


def test_one_that_moved_is_named() -> None:
    found = {(p.contender, p.holds) for p in pairs(PART, slower("attention", "plain", 3.0))}
    assert ("plain", False) in found
    assert ("plain", True) not in found
    assert ("eager", True) in found
    said = "\n".join(tables.again_lines(PART, slower("attention", "plain", 3.0)))
    assert "plain: times 3.00" in said


def test_a_machine_that_is_slower_as_a_whole_moves_no_ratio() -> None:
    again = copy.deepcopy(PART)
    for group in again["parts"]["attention"]["bench"]["groups"]:
        for timing in group["timings"]:
            timing["turns_ms"] = [2.0 * x for x in timing["turns_ms"]]
    assert not any(pair.holds for pair in pairs(PART, again))
    assert all(pair.to_ours == pytest.approx(1.0) for pair in pairs(PART, again))


def test_builds_and_the_reason_of_one_that_is_missing() -> None:
    skipped = {"status": "SKIPPED", "reason": "no library"}
    parts = {"rope": {"builds": {"native": BUILT, "plugin": skipped}}}
    said = "\n".join(tables.build_lines(parts))
    assert "| rope | native | 2.0 | 1.5 | 3.0 |" in said
    assert "rope, plugin: SKIPPED: no library" in said
    assert "no timing cache" in said
    cached = {"rope": {"builds": {"native": BUILT | {"timing_cache": True}}}}
    assert "no timing cache" not in "\n".join(tables.build_lines(cached))
