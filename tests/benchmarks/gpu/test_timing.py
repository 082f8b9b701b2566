"""Medians, shares and ratios from made-up timings."""

from __future__ import annotations

import pytest

from benchmarks.gpu.contenders import COPY, OURS, Contender
from benchmarks.gpu.standings import SKIPPED, TIMED, Entrant, records
from benchmarks.gpu.targets import COPY_SHARE, EAGERS, RIVALS, targets
from benchmarks.gpu.timing import Plan, Timing, bandwidth, copy_share, passes_of, repeats_of, turns


def entrant(name: str, moved: int, *rounds_us: float, **options) -> Entrant:
    made = Entrant(Contender(name, None, None, is_ours=name.startswith(OURS), **options))
    made.moved_bytes, made.rounds_us = moved, rounds_us
    return made


def test_the_median_and_the_spread_of_rounds() -> None:
    timing = Timing((40.0, 44.0, 41.0))
    assert timing.time_us == 41.0
    assert timing.spread == pytest.approx(0.1)


def test_bandwidth_counts_bytes_a_second() -> None:
    assert bandwidth(118_000_000, 39.3) == pytest.approx(3.0e12, rel=1e-2)


def test_a_share_is_of_the_fastest_copy() -> None:
    # 100 bytes in 10 us beside copies of 9 and of 12.5 bytes a microsecond
    assert copy_share(100, 10.0, [(90, 10.0), (250, 20.0)]) == pytest.approx(0.8)


def test_records_have_shares_and_ratios() -> None:
    entrants = [
        entrant(OURS, 1000, 10.0, 10.0, 12.0),
        entrant("eager", 1000, 20.0),
        entrant(COPY, 1000, 9.0),
        entrant("copy, launched", 1000, 9.5),
    ]
    ours, eager, copy, launched = records(entrants)
    assert ours["time_us"] == 10.0
    assert ours["copy_share"] == pytest.approx(0.9)
    assert ours["ratio"] == ours["equal_bytes"] == 1.0
    assert eager["ratio"] == 2.0
    assert eager["copy_share"] == pytest.approx(9.0 / 20.0)
    assert copy["copy_share"] == 1.0
    assert [r["rival"] for r in (ours, eager, copy, launched)] == [False, True, False, False]
    assert all(r["status"] == TIMED for r in (ours, eager, copy, launched))


def test_like_is_compared_with_like() -> None:
    """A rival with tables is compared with the kernel's form of tables, byte for byte."""
    tables = {"coefficients": "tables"}
    halves = tables | {"pairing": "half"}
    entrants = [
        entrant(OURS, 118_000, 40.0),
        entrant("ours, tables", 115_600, 39.0, **tables),
        entrant("ours, tables, halves", 115_600, 38.0, **halves),
        entrant("FlashInfer", 115_600, 39.0, **tables),
        entrant("FlashInfer, halves", 115_600, 39.0, **halves),
        entrant("Liger", 114_400, 38.0, **halves),
        entrant("torch.compile", 118_000, 44.0),
        entrant("another", 118_000, 44.0, pairing="half"),
    ]
    found = {record["name"]: record for record in records(entrants)}
    assert [found[e.contender.name]["beside"] for e in entrants] == [
        *(OURS, "ours, tables", "ours, tables, halves", "ours, tables", "ours, tables, halves"),
        *("ours, tables, halves", OURS, None),
    ]
    assert found["FlashInfer"]["equal_bytes"] == 1.0
    assert found["FlashInfer, halves"]["equal_bytes"] == pytest.approx(39 / 38)
    assert found["Liger"]["ratio"] == 1.0
    # as quick, but with smaller tables: a byte of it takes longer
    assert found["Liger"]["equal_bytes"] == pytest.approx(115.6 / 114.4)
    assert found["another"]["ratio"] is found["another"]["equal_bytes"] is None


def test_without_a_copy_or_ours_there_is_no_share_and_no_ratio() -> None:
    (record,) = records([entrant("Liger", 800, 20.0)])
    assert record["copy_share"] is None
    assert record["ratio"] is None


def test_one_that_is_out_has_a_reason_and_no_time() -> None:
    out = entrant("Liger", 0)
    out.out(SKIPPED, "MISSING: liger-kernel")
    (record,) = records([out])
    assert (record["status"], record["reason"]) == (SKIPPED, "MISSING: liger-kernel")
    assert "time_us" not in record


def entry(shape: str, dtype: str, *entrants: Entrant) -> dict:
    return {"shape": {"name": shape}, "dtype": dtype, "contenders": records(entrants)}


def test_targets_are_met_or_not_by_the_worst() -> None:
    ours, copy = entrant(OURS, 1000, 10.0), entrant(COPY, 1000, 9.3)
    bench = [
        entry("flux", "fp16", ours, copy, entrant("eager", 1000, 79.0)),
        entry("flux", "bf16", ours, entrant(COPY, 1000, 9.1), entrant("eager", 1000, 81.0)),
        entry("video", "fp32", ours, copy, entrant("Liger", 1000, 9.0)),
        entry("flux", "fp32", ours, copy, entrant("Liger", 1000, 11.0)),
    ]
    found = {target["name"]: target for target in targets(bench)}
    share = found["share of a copy at the FLUX shape, fp16"]
    assert (share["goal"], share["met"]) == (COPY_SHARE, True)
    assert share["measured"] == pytest.approx(0.93)
    assert found["share of a copy at the FLUX shape, bf16"]["met"] is False
    eager = found["eager torch's time at the FLUX shape, fp16"]
    assert (eager["goal"], eager["measured"], eager["met"]) == (EAGERS, 7.9, False)
    assert found["eager torch's time at the FLUX shape, bf16"]["met"] is True
    liger = found["Liger: time over ours on equal bytes, at worst"]
    assert (liger["measured"], liger["where"], liger["met"]) == (0.9, "video fp32", False)


def test_a_target_without_a_measurement_is_neither() -> None:
    absent = entrant("Liger", 0)
    absent.out(SKIPPED, "MISSING")
    found = targets([entry("video", "fp32", entrant(OURS, 1000, 10.0), absent)])
    assert [target["goal"] for target in found] == [COPY_SHARE, COPY_SHARE, EAGERS, EAGERS, RIVALS]
    assert {(target["measured"], target["met"]) for target in found} == {(None, None)}


@pytest.mark.parametrize(
    ("pass_us", "sets", "expected"),
    [(120.0, 3, 42), (1e6, 3, 1), (0.5, 111, 18), (0.0, 2, 1000), (1.0, 5000, 1)],
)
def test_passes_of_a_graph(pass_us, sets, expected) -> None:
    assert passes_of(pass_us, sets, Plan()) == expected


@pytest.mark.parametrize(("work_us", "expected"), [(5000.0, 4), (30_000.0, 1), (19.0, 1053)])
def test_repeats_between_two_events(work_us, expected) -> None:
    assert repeats_of(work_us, Plan()) == expected


def test_everyone_begins_a_round_in_turn() -> None:
    assert turns(3, 4) == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]
