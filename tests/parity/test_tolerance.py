"""Bounds: NaN never holds, a broken eager is no licence, and each grows with what it is made of."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ropeexport.dtypes import float_type
from ropeexport.parity import tolerance
from ropeexport.parity.compare import Difference
from ropeexport.parity.tolerance import Allowance, Bound, Size, Yardstick, bound

YARDSTICK = Yardstick(
    dtype="float32",
    working_roundoff=float_type("float32").unit_roundoff,
    terms=64,
    output=Size(1.0, 4.0),
    sensitivity=Size(1e-7, 1e-6),
    data_rms=1.0,
)


def test_rounding_is_the_formula_of_the_docstring() -> None:
    u = 2.0**-24
    growth = math.sqrt(1 + 64 / 4)
    floor = 2.0**-150 * math.sqrt(64)
    own = tolerance.rounding(YARDSTICK)
    assert own.rms == pytest.approx(growth * math.hypot(1e-7, u) + floor)
    assert own.largest == pytest.approx(growth * math.hypot(1e-6, 4 * u) + floor)


def test_conversions_are_rounded_once_and_do_not_grow_with_the_sums() -> None:
    converted = Size(0.02, 0.1)  # what float32 angles at position 10^6 are off by, and more
    for terms in (64, 4096):
        own = tolerance.rounding(replace(YARDSTICK, conversions=converted, terms=terms))
        assert own.rms == pytest.approx(converted.rms, rel=1e-3)
        assert own.largest == pytest.approx(converted.largest, rel=1e-3)


def test_what_no_sum_goes_over_does_not_grow_but_in_a_modules_stages() -> None:
    single = Size(0.02, 0.1)
    for factor in (1.0, 4.0):
        own = tolerance.rounding(replace(YARDSTICK, unsummed=single, terms=4096), factor)
        assert own.rms == pytest.approx(factor * single.rms, rel=1e-3)
        assert own.largest == pytest.approx(factor * single.largest, rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"terms": 640},
        {"sensitivity": Size(1e-5, 1e-4)},
        {"output": Size(50.0, 200.0)},
        {"dtype": "float16", "working_roundoff": 2.0**-11},
        {"eager": Size(1e-5, 1e-5)},
        {"conversions": Size(1e-5, 1e-5)},
    ],
)
def test_a_bound_grows_with_what_it_is_made_of(change) -> None:
    before, after = bound(YARDSTICK), bound(replace(YARDSTICK, **change))
    assert after.rms > before.rms
    assert after.max_abs > before.max_abs


@pytest.mark.parametrize("broken", [Size(math.inf, math.inf), Size(math.nan, math.nan), None])
def test_an_eager_that_is_no_number_sets_no_bound(broken) -> None:
    assert bound(YARDSTICK.with_eager(broken)) == bound(YARDSTICK)


def test_a_bad_eager_is_no_licence() -> None:
    own, allowed = tolerance.rounding(YARDSTICK), Allowance()
    capped = bound(YARDSTICK.with_eager(Size(1.0, 1.0)))
    assert capped.rule == "eager"
    assert capped.rms == pytest.approx(allowed.eager_rms * allowed.eager_cap * own.rms)
    assert capped.max_abs == pytest.approx(allowed.eager_max * allowed.eager_cap * own.largest)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nan_and_infinity_never_hold(number: float) -> None:
    held = bound(YARDSTICK)
    assert held.broken_by(Difference(rms=number, elements=1)) is not None
    assert held.broken_by(Difference(excess=number, elements=1)) is not None
    assert held.broken_by(Difference(faults=("x",), elements=1)) == "x"
    assert held.broken_by(Difference(rms=held.rms, excess=held.max_abs, elements=1)) is None


def test_an_override_is_numpys_allclose() -> None:
    held = tolerance.override(atol=0.5, rtol=0.1)
    assert (held.max_abs, held.rtol, held.rule) == (0.5, 0.1, "override")
    assert held.broken_by(Difference(rms=9.0, excess=0.5, elements=1)) is None
    assert held.broken_by(Difference(excess=0.500001, max_abs=0.7, elements=1)) is not None


def test_small_outputs_take_many_samples() -> None:
    assert (
        tolerance.samples_for(1) > tolerance.samples_for(1 << 14) > tolerance.samples_for(1 << 20)
    )


def test_a_bound_beyond_the_output_proves_nothing() -> None:
    wide = bound(replace(YARDSTICK, sensitivity=Size(1.0, 2.0)))
    reason = wide.too_wide_for(YARDSTICK.output)
    assert reason is not None
    assert f"the bound {wide.max_abs:.3g} is larger than the output itself (largest 4)" in reason
    assert bound(YARDSTICK).too_wide_for(YARDSTICK.output) is None
    assert tolerance.override(9.0, 0.0).too_wide_for(YARDSTICK.output) is None


def test_a_bound_of_either_kind_below_the_output_refuses_zeros() -> None:
    output = YARDSTICK.output
    zeros = Difference(rms=output.rms, excess=output.largest, max_abs=output.largest, elements=1)
    for rms, largest in ((0.9, 2.0), (2.0, 0.9)):
        held = Bound(largest * output.largest, rms * output.rms, "rounding")
        assert held.too_wide_for(output) is None
        assert held.broken_by(zeros) is not None
    both = Bound(2.0 * output.largest, 2.0 * output.rms, "rounding")
    assert both.broken_by(zeros) is None
    assert both.too_wide_for(output) is not None


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_nothing_is_known_below_the_smallest_number_and_that_is_no_width(dtype: str) -> None:
    kind = float_type(dtype)
    tiny = kind.underflow
    for output, moved in ((Size(0.0, 0.0), Size(0.0, 0.0)), (Size(tiny, tiny), Size(tiny, tiny))):
        known = replace(
            YARDSTICK, dtype=dtype, working_roundoff=kind.unit_roundoff, output=output,
            sensitivity=replace(moved, largest=moved.largest * kind.unit_roundoff),
        )  # fmt: skip
        assert bound(known).too_wide_for(output) is None
        assert tolerance.eager_bound(known).too_wide_for(output) is None
