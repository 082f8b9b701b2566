"""Sizes of axes as sums, and the sizes that follow from shapes."""

from __future__ import annotations

import doctest

import pytest

from ropeexport import axes
from ropeexport.axes import Sum, names_of, same, solve, sum_of
from ropeexport.errors import UsageError


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (7, Sum((), 7)),
        ("length", Sum((("length", 1),))),
        ("past + length", Sum((("length", 1), ("past", 1)))),
        ("length + past", Sum((("length", 1), ("past", 1)))),
        ("8*blocks", Sum((("blocks", 8),))),
        ("2*a + 3*b - 4", Sum((("a", 2), ("b", 3)), -4)),
        ("a + a", Sum((("a", 2),))),
        ("a - a + 1", Sum((), 1)),
        ("s0 + 1", Sum((("s0", 1),), 1)),
        # other exporters' names that are no such sum stand for themselves
        ("batch-size", Sum((("batch-size", 1),))),
        ("floor(s0/2)", Sum((("floor(s0/2)", 1),))),
        ("unk__3", Sum((("unk__3", 1),))),
        ("2*(past + length)", Sum((("2*(past + length)", 1),))),
        ("", Sum((("", 1),))),
    ],
)
def test_a_dimension_is_a_sum(dim, expected) -> None:
    assert sum_of(dim) == expected


def test_sizes_and_names() -> None:
    assert sum_of("2*a + 3*b - 4").at({"a": 5, "b": 1}) == 9
    assert names_of(["batch", 8, "past + length", "length"]) == ("batch", "length", "past")
    assert same("past + length", "length + past")
    assert not same("past + length", "past + 2*length")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("b", 2, "x"), (16, 16, "x")], {"b": 2}),
        ([("past + length", 8, "mask"), ("length", 3, "x")], {"length": 3, "past": 5}),
        ([("8*blocks", 24, "x")], {"blocks": 3}),
        ([("past + length", 3, "mask"), ("length", 3, "x")], {"length": 3, "past": 0}),
        # nothing tells a and b apart
        ([("a + b", 3, "x"), ("c", 1, "x")], {"c": 1}),
    ],
)
def test_shapes_tell_the_sizes(found, expected) -> None:
    assert solve(found) == expected


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            [("n", 2, "x"), ("n", 3, "y")],
            "shapes: axis n is 2 in x and 3 in y",
        ),
        (
            [("p", 5, "x"), ("n", 3, "y"), ("p + n", 9, "mask")],
            "shapes: mask: axis 'p + n': expected 8, as n is 3 in y, p is 5 in x; got 9",
        ),
        ([("8*blocks", 25, "x")], "shapes: x: expected 8*blocks for a whole blocks, got 25"),
        (
            [("n", 3, "x"), ("p + n", 2, "mask")],
            "shapes: mask: expected p + n for a whole p, got 2",
        ),
    ],
)
def test_shapes_that_disagree_are_refused(found, said) -> None:
    with pytest.raises(UsageError) as caught:
        solve(found)
    assert str(caught.value) == said


def test_examples() -> None:
    found = doctest.testmod(axes)
    assert (found.failed, found.attempted) == (0, 3)
