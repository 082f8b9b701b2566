"""Positions up to the last that a file's tables of angles hold, and just beyond them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from ropeexport import manifest
from ropeexport.artifact import Artifact
from ropeexport.manifest import TensorSpec
from ropeexport.ops.rope_table import MAX_POSITION, limit_of
from ropeexport.parity import report as reports
from ropeexport.parity.cases import BEYOND, BEYOND_BY, Case, ends_at, select
from ropeexport.parity.check import Options, check
from ropeexport.parity.compare import compare
from ropeexport.parity.inputs import LONG_LIMIT, make_inputs
from ropeexport.parity.records import Comparison, Report
from ropeexport.report import html, view

FEW = Options(count=14)


@pytest.fixture
def with_limit(exported):
    """Return a function that gives an export, and another end of its tables in the manifest."""

    def export(dtype: str = "fp32", limit: int | None = MAX_POSITION) -> Path:
        folder = exported("flux-self-attention-ids", dtype)
        record = manifest.read(folder)
        model = record.model.model_copy(update={"max_position": limit})
        manifest.write(folder, record.model_copy(update={"model": model}))
        return folder

    return export


def of_kind(report: Report, kind: str, runtime: str = "onnxruntime") -> list[Comparison]:
    return [
        c for c in report.comparisons if c.case and c.case.kind == kind and c.runtime == runtime
    ]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_right_file_passes_up_to_its_limit_and_is_nan_beyond(with_limit, dtype: str) -> None:
    report = check(Artifact.read(with_limit(dtype)), options=FEW)
    assert report.verdict == "PASS", report.reason
    assert {c.status for c in of_kind(report, "long positions")} == {"PASS"}
    for comparison in (beyond := of_kind(report, BEYOND)):
        assert comparison.status == "PASS"
        assert comparison.numbers.nans == comparison.numbers.elements > 0
        assert f"as documented for positions beyond {MAX_POSITION}" in comparison.reason
    assert len(beyond) == 2
    eager = of_kind(report, BEYOND, "eager")
    assert {(c.status, c.numbers.nans) for c in eager} == {("PASS", 0)}


def test_reports_show_what_was_nan(with_limit) -> None:
    report = check(Artifact.read(with_limit()), options=FEW)
    shown = reports.render(report).renderables
    assert any("2 NaN beyond the tables of angles, as documented" in str(part) for part in shown)
    rows = [row for row in view.case_rows(report) if row.case.kind == BEYOND]
    cells = [list(row.worst.values()) for row in rows]
    assert [view.cell_text(row[1]) for row in cells] == ["NaN", "NaN"]
    page = html.render(report)
    assert BEYOND in page
    assert "as documented for positions beyond" in page


@pytest.mark.parametrize("limit", [MAX_POSITION, 5_000])
def test_long_positions_hold_the_limit_itself(with_limit, limit: int) -> None:
    record = manifest.read(with_limit(limit=limit))
    cases = select(record).cases
    for case in (c for c in cases if c.kind == "long positions"):
        ids = make_inputs(case, record.model.inputs, limit)["ids"]
        assert ids.max() == limit
        assert ids.min() >= 0
    beyond = [c for c in cases if c.kind == BEYOND]
    assert len(beyond) == 2
    for case in beyond:
        ids = make_inputs(case, record.model.inputs, limit)["ids"]
        assert ids.min() > limit
        assert ids.max() <= limit + BEYOND_BY


def test_chosen_lengths_are_checked_beyond_too(with_limit) -> None:
    record = manifest.read(with_limit())
    kinds = [case.kind for case in select(record, lengths=(5,)).cases]
    assert kinds.count(BEYOND) == 1


def test_a_file_that_states_no_limit_is_checked_as_ever(with_limit) -> None:
    record = manifest.read(with_limit(limit=None))
    cases = select(record).cases
    assert {case.kind for case in cases} == {"flux positions", "long positions"}
    case = next(c for c in cases if c.kind == "long positions")
    assert make_inputs(case, record.model.inputs)["ids"].max() < LONG_LIMIT


@pytest.mark.parametrize(
    ("changes", "ends", "last"),
    [
        ({}, True, MAX_POSITION),
        ({"dtype": "int32"}, True, MAX_POSITION),
        ({"dtype": "int16"}, False, 2**15 - 2),
        ({"dtype": "float32"}, False, MAX_POSITION),  # no integers: a runtime's cast decides
        ({"dtype": "float16"}, False, 2047),
        ({"below": 512}, False, 511),  # also indexes a table of the user's own
        ({"role": "data"}, False, None),
    ],
)
def test_inputs_that_cannot_hold_such_positions(changes, ends: bool, last: int | None) -> None:
    fields = {"name": "ids", "dtype": "int64", "shape": ("length", 3), "role": "positions"}
    spec = TensorSpec(**{**fields, **changes})
    assert ends_at(spec, MAX_POSITION) is ends
    for kind in ("long positions", BEYOND):
        ids = make_inputs(Case("one", kind, {"length": 400}, 0), [spec], MAX_POSITION)["ids"]
        if last is not None and (kind != BEYOND or not ends):
            assert ids.max() == last


def spoiled(folder: Path, change) -> None:
    """Change the exported file's function of tables."""
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")


def clip_instead(model: onnx.ModelProto) -> None:
    """Beyond its tables give the last row's angle in place of NaN: finite, and wrong."""
    for function in model.functions:
        for node in function.node:
            if node.op_type == "Constant" and node.output[0] == "nan":
                half = onnx.numpy_helper.from_array(np.array(0.5, dtype=np.float32))
                node.attribute[0].t.CopyFrom(half)


def shorter_tables(model: onnx.ModelProto) -> None:
    """Give NaN from a position on that the manifest says the tables hold."""
    for tensor in model.graph.initializer:
        rows = onnx.numpy_helper.to_array(tensor)
        if rows.shape and limit_of(len(rows)) == MAX_POSITION:
            tensor.CopyFrom(onnx.numpy_helper.from_array(rows[:-1], tensor.name))


def test_a_finite_wrong_number_beyond_fails(with_limit) -> None:
    folder = with_limit()
    spoiled(folder, clip_instead)
    report = check(Artifact.read(folder), options=FEW)
    assert {c.status for c in of_kind(report, BEYOND)} == {"FAIL"}
    assert {c.status for c in of_kind(report, "long positions")} == {"PASS"}


def test_nan_at_the_limit_itself_fails(with_limit) -> None:
    folder = with_limit()
    spoiled(folder, shorter_tables)
    report = check(Artifact.read(folder), options=FEW)
    assert {c.status for c in of_kind(report, "long positions")} == {"FAIL"}
    assert "not finite" in of_kind(report, "long positions")[0].reason
    assert {c.status for c in of_kind(report, BEYOND)} == {"PASS"}


def test_allowed_nan_is_left_out_of_every_number() -> None:
    expected = np.linspace(1, 2, 100)
    got = expected.astype(np.float32)
    sound = compare(got[50:], expected[50:], "float32")
    got[:50] = np.nan
    allowed = compare(got, expected, "float32", allow_nan=True)
    assert (allowed.faults, allowed.nans, allowed.elements) == ((), 50, 100)
    assert allowed.rms == pytest.approx(sound.rms)
    assert allowed.worst is not None
    assert allowed.worst.index[0] >= 50
    assert compare(got, expected, "float32").faults, "NaN is allowed only where it is asked for"
    got[60] = np.inf
    assert "infinite" in compare(got, expected, "float32", allow_nan=True).faults[0]
    got[60], got[70] = expected[60], 7.0
    assert compare(got, expected, "float32", allow_nan=True).max_abs > 5
