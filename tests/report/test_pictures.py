"""A pipeline in every form of a report: a line a call and runtime, and both pictures."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

import numpy as np
import pytest
from html_page import Page
from made_reports import BOUND, NASTY, report

import ropeexport
from ropeexport.parity import pixels
from ropeexport.parity import report as reports
from ropeexport.parity.records import (
    BoundRecord,
    CallRecord,
    Numbers,
    PictureRecord,
    PipelineRecord,
    PixelsRecord,
    Report,
)
from ropeexport.parity.report import picture_rows, render
from ropeexport.report import html, junit, markdown

PNG = pixels.png(np.zeros((2, 2, 3), np.uint8))


def picture(runtime: str, call: int, status: str = "PASS", differing: int = 0) -> PictureRecord:
    return PictureRecord(
        runtime=runtime,
        status=status,
        reason=f"pixels: some are not eager's; {NASTY}" if status == "FAIL" else "",
        latents=Numbers(
            elements=64, max_abs=BOUND / 4, max_rel=1.0, max_ulps=9.0, ulps_at_rms=3.0, rms=1e-4,
            relative_l2=1e-4, cosine=0.999, worst=None,
        ),
        bound=BoundRecord(max_abs=BOUND, rms=BOUND, rule="rounding", rtol=0.0),
        pixels=PixelsRecord(
            values=1200, differing=differing, allowed=1, refused=differing - 1, largest=2,
            bound=1e-5,
        ),
        picture=f"{call}-{runtime}.png",
        difference=f"{call}-{runtime}-difference.png",
        scale=127,
    )  # fmt: skip


def with_pipeline(failed: bool = False, **changes: object) -> Report:
    absent = PictureRecord(runtime="tensorrt", status="SKIPPED", reason="no NVIDIA GPU")
    calls = tuple(
        CallRecord(
            name=f"call {number}",
            arguments=f"prompt='{NASTY}'",
            picture=f"{number}-eager.png",
            pictures=(
                picture("eager", number).changed(pixels=None, picture="", difference=""),
                picture("onnxruntime", number, *(("FAIL", 9) if failed else ("PASS", 0))),
                absent,
            ),
            without_rope=picture("without rope", number, differing=900).changed(picture=""),
        )
        for number in (1, 2)
    )
    record = PipelineRecord(pipeline="FluxPipeline", component="transformer", calls=calls)
    return report(pipeline=record, verdict="FAIL" if failed else "PASS", **changes)


def test_a_row_a_call_and_runtime_that_ran() -> None:
    rows = picture_rows(with_pipeline(failed=True))
    assert [row[:2] for row in rows[:3]] == [
        ("call 1", "eager"), ("call 1", "onnxruntime"), ("call 1", "without rope"),
    ]  # fmt: skip
    assert rows[1] == (
        "call 1", "onnxruntime", "0.0025", "0.01", "25%",
        "9 of 1,200 differ by up to 2, 1 at a rounding edge", "FAIL",
    )  # fmt: skip
    assert rows[0][-2:] == ("-", "PASS")
    assert rows[2][-1] == "-"
    assert len(rows) == 6
    assert picture_rows(report()) == []
    assert render(with_pipeline()).renderables


def test_markdown_has_a_line_for_each() -> None:
    text = markdown.render(with_pipeline(failed=True))
    assert "FluxPipeline with the export as its transformer" in text
    assert text.count("| onnxruntime | 0.0025 | 0.01 | 25% | 9 of 1,200") == 2
    assert "latents to float64" not in markdown.render(report())


@pytest.mark.parametrize(("failed", "failures"), [(False, 0), (True, 2)])
def test_junit_has_a_test_for_each(failed: bool, failures: int) -> None:
    root = ElementTree.fromstring(junit.render(with_pipeline(failed, comparisons=(), surveys=())))
    cases = [
        case for case in root.iter("testcase") if case.get("classname", "").endswith("pipeline")
    ]
    assert len(cases) == 6
    assert len(list(root.iter("failure"))) == failures
    assert len(list(root.iter("skipped"))) == 2
    assert root.get("failures") == str(failures)
    assert not [suite for suite in root if suite.get("name") == "verdict"]


def test_the_page_shows_three_pictures_of_each_and_escapes_what_is_said() -> None:
    one = with_pipeline(failed=True)
    files = {f"{call}-{name}.png": PNG for call in (1, 2)
             for name in ("eager", "onnxruntime", "onnxruntime-difference")}  # fmt: skip
    text = html.render(one, None, files)
    page = Page(text)
    assert page.open == []
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    alts = [image["alt"] for image in images]
    assert alts[:3] == [
        "call 1: eager", "call 1: onnxruntime", "call 1: difference, 127 times as bright",
    ]  # fmt: skip
    assert len(images) == 6
    assert "<script" not in text
    assert "9 of 1,200 differ by up to 2, 1 at a rounding edge" in page.words


def test_a_page_without_the_files_says_the_numbers_alone() -> None:
    page = Page(html.render(with_pipeline()))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "Without rope: latents 0.0025 away, pixels: 900 of 1,200 differ" in page.words


def test_the_headline_counts_calls() -> None:
    assert with_pipeline().headline == "3 cases, 2 calls of FluxPipeline, seed 0"
    assert with_pipeline(comparisons=()).headline == "2 calls of FluxPipeline, seed 0"
    assert report().headline == "3 cases, seed 0"


def test_a_picture_that_a_link_leads_out_to_goes_into_no_page(tmp_path) -> None:
    folder, secret = tmp_path / "out", tmp_path / "secret"
    (folder / "pipeline").mkdir(parents=True)
    secret.write_bytes(PNG + b"secret")
    reports.write(folder, with_pipeline())
    for name in ("eager", "onnxruntime", "onnxruntime-difference"):
        for call in (1, 2):
            (folder / "pipeline" / f"{call}-{name}.png").write_bytes(PNG)
    (folder / "pipeline" / "1-eager.png").unlink()
    (folder / "pipeline" / "1-eager.png").symlink_to(secret)
    ropeexport.report(folder, html=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    alts = [attributes["alt"] for tag, attributes in Page(text).tags if tag == "img"]
    assert "call 2: eager" in alts
    assert base64.b64encode(secret.read_bytes()).decode()[-16:] not in text
