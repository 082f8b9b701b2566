"""A difference measures what it says, and what numbers would hide is a fault."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from ropeexport.dtypes import float_type
from ropeexport.parity import compare as module
from ropeexport.parity.compare import compare

EXPECTED = np.array([[1.0, -2.0, 4.0], [0.5, 0.0, 8.0]])


def wrong(got: object, dtype: str = "float32") -> str:
    return "; ".join(compare(got, EXPECTED, dtype).faults)


def test_equal_arrays_have_no_distance() -> None:
    difference = compare(EXPECTED.astype(np.float32), EXPECTED, "float32")
    assert difference.faults == ()
    assert (difference.max_abs, difference.rms, difference.max_ulps) == (0.0, 0.0, 0.0)
    assert (difference.cosine, difference.elements) == (1.0, 6)


def test_numbers_of_one_changed_element() -> None:
    got = EXPECTED.astype(np.float32)
    got[1, 2] = np.nextafter(np.float32(8), np.float32(9))
    ulp = 2.0**-20
    difference = compare(got, EXPECTED, "float32")
    assert difference.max_abs == ulp
    assert difference.max_rel == ulp / 8
    assert difference.max_ulps == 1.0
    assert math.isclose(difference.rms, ulp / math.sqrt(6))
    assert math.isclose(difference.relative_l2, ulp / math.sqrt((EXPECTED**2).sum()))
    assert difference.worst is not None
    assert difference.worst.index == (1, 2)
    assert (difference.worst.got, difference.worst.expected) == (8 + ulp, 8.0)


def test_ulps_are_of_the_type() -> None:
    for dtype, kind in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        got = EXPECTED.astype(kind)
        step = 4.0 * 2.0 * float_type(dtype).unit_roundoff
        got[0, 2] = 4.0 + step
        assert compare(got, EXPECTED, dtype).max_ulps == 1.0


def test_opposite_arrays_have_cosine_minus_one() -> None:
    assert compare(-EXPECTED.astype(np.float32), EXPECTED, "float32").cosine == pytest.approx(-1)


def test_zeros_are_in_the_direction_of_zeros_alone() -> None:
    nothing = np.zeros(3)
    assert compare(nothing.astype(np.float32), nothing, "float32").cosine == 1.0
    assert compare(np.ones(3, np.float32), nothing, "float32").cosine == 0.0
    assert compare(np.zeros(3, np.float32), np.ones(3), "float32").cosine == 0.0


def test_excess_forgives_what_rtol_allows() -> None:
    got = (EXPECTED * 1.25).astype(np.float32)
    assert compare(got, EXPECTED, "float32", rtol=0.25).excess == 0.0
    assert compare(got, EXPECTED, "float32", rtol=0.125).excess == 1.0


def test_what_hides_a_failure_is_a_fault() -> None:
    nan, infinite = EXPECTED.astype(np.float32), EXPECTED.astype(np.float32)
    nan[0, 1], infinite[1, 0] = np.nan, np.inf
    assert "1 NaN of 6 elements, the first at (0, 1)" in wrong(nan)
    assert "1 infinite of 6 elements, the first at (1, 0)" in wrong(infinite)
    assert wrong(None) == "missing output"
    assert "shape: expected (2, 3), got (3, 2)" in wrong(EXPECTED.T.astype(np.float32))
    assert "shape" in wrong(EXPECTED[:1].astype(np.float32))  # which would broadcast
    assert "type: expected float32, got float64" in wrong(EXPECTED)
    empty = np.empty((0, 3))
    assert compare(empty.astype(np.float32), empty, "float32").faults == (
        "empty: no elements to compare",
    )


def test_what_was_not_compared_has_no_numbers() -> None:
    nothing = compare(None, EXPECTED, "float32")
    assert (nothing.elements, nothing.nans, nothing.worst, nothing.cosine) == (0, 0, None, 1.0)
    assert {nothing.max_abs, nothing.excess, nothing.max_rel, nothing.max_ulps} == {0.0}
    assert {nothing.rms, nothing.relative_l2, nothing.ulps_at_rms} == {0.0}


def test_an_observer_hears_every_error_and_infinity_where_there_is_no_number() -> None:
    got = EXPECTED.astype(np.float32)
    got[0, 1], got[1, 2] = np.nan, 7.0
    heard: list[tuple[int, list[float], list[float]]] = []
    compare(got, EXPECTED, "float32", observer=lambda at, e, s: heard.append((at, [*e], [*s])))
    ((start, errors, sizes),) = heard
    assert start == 0
    assert errors == [0.0, math.inf, 0.0, 0.0, 0.0, 1.0]
    assert sizes[2:] == [4.0, 0.5, 0.0, 8.0]


def test_an_oracle_that_is_not_finite_proves_nothing() -> None:
    expected = EXPECTED.copy()
    expected[0, 0] = np.inf
    faults = compare(expected.astype(np.float32), expected, "float32").faults
    assert any("oracle itself is not finite" in fault for fault in faults)


def test_what_is_not_finite_is_wanted_again_where_that_is_the_measure() -> None:
    expected = np.array([1.0, np.nan, np.inf, -np.inf])
    same = compare(expected.astype(np.float32), expected, "float32", as_expected=True)
    assert (same.faults, same.nans, same.max_abs, same.rms) == ((), 3, 0.0, 0.0)
    for got in (
        [1, 0, np.inf, -np.inf],
        [1, np.nan, -np.inf, -np.inf],
        [np.nan, np.nan, np.inf, -np.inf],
    ):
        found = compare(np.array(got, np.float32), expected, "float32", as_expected=True)
        assert found.faults, got
    off = compare(
        np.array([1.5, np.nan, np.inf, -np.inf], np.float32), expected, "float32", as_expected=True
    )
    assert (off.faults, off.max_abs, off.rms) == ((), 0.5, 0.5)
    empty = np.zeros((0, 3))
    assert compare(empty.astype(np.float32), empty, "float32", as_expected=True).faults == ()
    assert compare(empty, empty, "float32", as_expected=True).faults != ()


def test_chunks_add_up(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((7, 11))
    got = expected.astype(np.float16)
    whole = compare(got, expected, "float16")
    monkeypatch.setattr(module, "_CHUNK", 5)
    parts = compare(got, expected, "float16")
    assert (parts.max_abs, parts.worst, parts.max_ulps) == (
        whole.max_abs, whole.worst, whole.max_ulps,
    )  # fmt: skip
    assert math.isclose(parts.rms, whole.rms)
