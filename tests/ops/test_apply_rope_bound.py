"""The bound of a rope's own output: rounded once in a half type, and no other type's concern."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import ropeexport
from ropeexport.dtypes import float_type
from ropeexport.ops.registry import op_of_role
from ropeexport.parity.tolerance import Size, Yardstick, bound, eager_bound

RULE = op_of_role("rotated").rule
HALF = float_type("float16")
YARDSTICK = Yardstick(
    dtype="float16",
    working_roundoff=HALF.unit_roundoff,
    terms=1,
    output=Size(1.0, 4.0),
    sensitivity=Size(2e-4, 1e-3),
    data_rms=1.0,
    rule=RULE,
)


def test_a_half_type_is_rounded_once() -> None:
    held, general = bound(YARDSTICK), bound(replace(YARDSTICK, rule=""))
    assert (held.rule, general.rule) == ("rotation", "rounding")
    assert held.rtol == HALF.unit_roundoff
    noise = 16 * 2.0**-24 / HALF.unit_roundoff * 1e-3 + HALF.underflow
    assert held.max_abs == pytest.approx(noise)
    assert held.rms == pytest.approx(HALF.unit_roundoff + noise)
    assert held.max_abs + held.rtol * YARDSTICK.output.largest < general.max_abs


def test_eager_rounds_the_same_elements_and_is_no_yardstick_of_its_own() -> None:
    near = YARDSTICK.with_eager(Size(1e-5, 1e-4))
    assert bound(near).rms == pytest.approx(bound(YARDSTICK).rms - HALF.unit_roundoff + 1.1e-5)
    assert eager_bound(near) == bound(YARDSTICK)
    assert bound(YARDSTICK.with_eager(Size(math.nan, math.nan))) == bound(YARDSTICK)


def test_conversions_are_forgiven_as_elsewhere() -> None:
    converted = bound(replace(YARDSTICK, conversions=Size(0.01, 0.1)))
    assert converted.max_abs == pytest.approx(bound(YARDSTICK).max_abs + 0.4)
    assert converted.rms == pytest.approx(bound(YARDSTICK).rms + 0.02)


def test_a_type_as_fine_as_the_sums_is_held_as_any_output() -> None:
    single = replace(YARDSTICK, dtype="float32", working_roundoff=2.0**-24)
    assert bound(single) == bound(replace(single, rule=""))
    assert eager_bound(single) == eager_bound(replace(single, rule=""))


class Rotated(nn.Module):
    def forward(self, q, k, pe):
        return ropeexport.apply_rope(q, k, pe)


@pytest.mark.parametrize(("dtype", "rule"), [(torch.float16, True), (torch.float32, False)])
def test_check_holds_the_outputs_of_a_rope_to_it(tmp_path, dtype, rule) -> None:
    q, k = torch.ones(2, 1, 2, 6, 8, dtype=dtype)
    pe = ropeexport.rope(torch.arange(6)[None], 8, 1e4)
    axes = {"q": {2: "length"}, "k": {2: "length"}, "pe": {1: "length"}}
    made = ropeexport.export(
        Rotated().eval(), {"q": q, "k": k, "pe": pe}, tmp_path, dynamic_axes=axes
    )
    report = made.check(runtimes=["onnxruntime"], cases=3)
    rules = {row.bound.rule for row in report.comparisons if row.bound is not None}
    assert report.verdict == "PASS"
    assert rules == {"rotation"} if rule else "rotation" not in rules


class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)

    def forward(self, q, k, pe):
        return ropeexport.apply_rope(self.project(q), self.project(k), pe)


def test_what_a_rope_rotates_may_have_been_rounded_before(tmp_path) -> None:
    """Its promise is of the numbers that it is given, and a runtime sums them in another order."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, 6, 8, dtype=torch.float16)
    pe = ropeexport.rope(torch.arange(6)[None], 8, 1e4)
    axes = {"q": {2: "length"}, "k": {2: "length"}, "pe": {1: "length"}}
    made = ropeexport.export(
        Projected().half().eval(), {"q": q, "k": k, "pe": pe}, tmp_path, dynamic_axes=axes
    )
    report = made.check(runtimes=["onnxruntime"], cases=12)
    assert report.verdict == "PASS", report.reason
    assert "rotation" not in {row.bound.rule for row in report.comparisons if row.bound is not None}
