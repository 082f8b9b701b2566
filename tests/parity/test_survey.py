"""The survey of where errors lie: counted by element, by position and over the worst case."""

from __future__ import annotations

import numpy as np
import pytest

from ropeexport.manifest import TensorSpec
from ropeexport.parity import survey as surveys
from ropeexport.parity.compare import compare
from ropeexport.parity.records import survey_of
from ropeexport.parity.survey import (
    CaseSurvey,
    Layout,
    Survey,
    first_of_bin,
    layout_of,
    position_bin,
    token_positions,
)

OUT = TensorSpec(name="out", dtype="float32", shape=("batch", "length", 12))
ROTATED = TensorSpec(name="q", dtype="float32", shape=("batch", 3, "length", 4))
ALLOWED = 0.5


def heard(layout: Layout, error: np.ndarray, expected: np.ndarray | None = None, rtol=0.0):
    """Return the survey of a comparison whose errors are ``error``."""
    positions = np.tile(np.arange(layout.length), (layout.leading, 1))
    case = CaseSurvey(layout, positions, ALLOWED, rtol)
    expected = np.zeros(error.shape) if expected is None else expected
    compare(expected + error, expected, "float64", rtol, case)
    return case


@pytest.mark.parametrize(
    ("spec", "shape", "layout"),
    [
        (OUT, (2, 5, 12), Layout(2, 1, 5, 12)),
        (ROTATED, (2, 3, 5, 4), Layout(2, 3, 5, 4)),
        (TensorSpec(name="y", dtype="float32", shape=("n", 7)), (9, 7), Layout(1, 1, 9, 7)),
        (TensorSpec(name="y", dtype="int64", shape=("b", "length")), (2, 5), Layout(2, 1, 5, 1)),
    ],
)  # fmt: skip
def test_the_layout_follows_the_axis_of_the_length(spec, shape, layout) -> None:
    assert layout_of(spec, shape, ["length"]) == layout


def test_an_output_without_elements_or_axes_has_no_layout() -> None:
    assert layout_of(OUT, (2, 0, 12), ["length"]) is None
    assert layout_of(TensorSpec(name="y", dtype="float32", shape=(4,)), (4,), ["length"]) is None


def test_positions_fall_into_bins_that_never_decrease() -> None:
    positions = np.array([0, 1, 15, 16, 17, 100, 131_071, 10**9, -3])
    bins = position_bin(positions)
    assert list(bins[:3]) == [0, 1, 15]
    assert bins[-1] == 3
    assert bins[-2] == surveys.POSITION_BINS - 1
    for position, number in zip(positions[:7], bins, strict=False):
        assert first_of_bin(int(number)) <= position
        assert position < first_of_bin(int(number) + 1)


@pytest.mark.parametrize("chunk", [5, 12, 17, 1 << 15])
def test_errors_are_found_at_their_positions_whatever_the_chunks(monkeypatch, chunk: int) -> None:
    monkeypatch.setattr("ropeexport.parity.compare._CHUNK", chunk)
    layout = Layout(2, 3, 5, 4)
    error = np.zeros((2, 3, 5, 4))
    error[1, 2, 3, 1], error[0, 0, 3, 0], error[0, 1, 4, 3] = 1.0, 0.25, 0.125
    case = heard(layout, error)
    elements, squares, largest = case.by_position()
    assert list(elements[:6]) == [24, 24, 24, 24, 24, 0]
    assert list(largest[:6]) == [0, 0, 0, 2.0, 0.25, 0]  # shares of the bound
    assert list(squares[:6]) == [0, 0, 0, 4.25, 0.0625, 0]
    grid = case.heat_map()
    assert grid.shape == (5, 12)
    assert (grid[3, 2 * 4 + 1], grid[3, 0], grid[4, 4 + 3]) == (2.0, 0.5, 0.25)
    assert np.count_nonzero(grid) == 3


def test_shares_are_counted_by_powers_of_two() -> None:
    error = np.array([[0.0, ALLOWED, 0.51 * ALLOWED, 2.5 * ALLOWED, 1e-12]])
    counts = heard(Layout(1, 1, 1, 5), error).shares
    one = 1 - surveys.LOWEST_EXPONENT  # the bin that ends at a share of 1
    assert (counts[0], counts[1], counts[one], counts[one + 2]) == (1, 1, 2, 1)
    assert counts.sum() == 5


def test_a_relative_bound_forgives_large_elements_more() -> None:
    error = np.array([[1.0, 1.0]])
    case = heard(Layout(1, 1, 1, 2), error, expected=np.array([[0.0, 15.0]]), rtol=0.1)
    assert case.heat_map().tolist() == [[2.0, 0.5]]


def test_what_is_not_finite_is_infinitely_wrong() -> None:
    error = np.zeros((1, 2, 3))
    error[0, 1, 1] = np.nan
    case = heard(Layout(1, 1, 2, 3), error)
    assert case.worst == np.inf
    record = survey_of("onnxruntime", "out", _sum({"a": case}))
    assert record.worst is not None
    assert record.worst.rows[1] == (0.0, None, 0.0)  # JSON has no infinity
    assert [p.largest for p in record.positions] == [0.0, None]


def test_large_outputs_are_shown_by_the_largest_of_each_cell() -> None:
    error = np.zeros((1, 500, 1000))
    error[0, 499, 999] = ALLOWED
    grid = heard(Layout(1, 1, 500, 1000), error).heat_map()
    assert grid.shape == (48, 96)
    assert grid[-1, -1] == 1.0
    assert np.count_nonzero(grid) == 1


def _sum(cases: dict[str, CaseSurvey]) -> Survey:
    total = Survey()
    for name, case in cases.items():
        total.add(name, case)
    return total


def test_a_survey_keeps_the_map_of_the_worst_case_alone() -> None:
    layout = Layout(1, 1, 2, 2)
    total = _sum({name: heard(layout, np.full((1, 2, 2), e)) for name, e in
                  (("mild", 0.1), ("bad", 0.4), ("as bad", 0.4), ("good", 0.0))})  # fmt: skip
    assert (total.worst_case, total.worst) == ("bad", 0.8)
    assert total.elements[:3].tolist() == [8, 8, 0]
    record = survey_of("eager", "out", total)
    assert record.worst is not None
    assert record.worst.rows == ((0.8, 0.8), (0.8, 0.8))


def test_position_ids_take_the_place_of_the_place() -> None:
    ids = TensorSpec(name="ids", dtype="int64", shape=("batch", "length", 3), role="positions")
    given = {"ids": np.array([[[0, 5, 7], [0, -9, 2]]])}
    assert token_positions(given, [ids], Layout(1, 4, 2, 8)).tolist() == [[7, 9]]
    assert token_positions(given, [ids], Layout(2, 1, 2, 8)).tolist() == [[0, 1], [0, 1]]
