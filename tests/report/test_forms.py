"""Every form of a report: what it says, that nothing escapes it, that it holds 3 or 3,000 cases."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from html_page import Page
from made_reports import comparison, report

from ropeexport.cli import proving
from ropeexport.errors import ParityError
from ropeexport.parity.records import Report
from ropeexport.parity.report import percent, write
from ropeexport.report import html, junit, markdown, view

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[(3, 0), (3, 1), (3000, 0), (3000, 40)], ids=str)
def made(request) -> tuple[Report, str]:
    cases, failed = request.param
    one = report(cases, failed)
    return one, html.render(one)


def test_the_page_needs_nothing_but_itself(made) -> None:
    _, text = made
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "<script" not in text


def test_the_page_is_well_formed_and_gives_the_verdict_first(made) -> None:
    one, text = made
    page = Page(text)
    assert page.open == []
    heading = next(i for i, (tag, _) in enumerate(page.tags) if tag == "h1")
    assert all(tag in ("html", "head", "meta", "title", "style", "body", "header", "p")
               for tag, _ in page.tags[:heading])  # fmt: skip
    assert f"ropeexport parity report {one.verdict} flux-attention" in page.words


def test_ids_of_the_plots_are_unique(made) -> None:
    ids = [attributes["id"] for _, attributes in Page(made[1]).tags if "id" in attributes]
    assert ids
    assert len(ids) == len(set(ids))


def test_every_colour_of_a_plot_is_the_pages(made) -> None:
    plots = re.findall(r"<svg.*?</svg>", made[1], flags=re.DOTALL)
    assert len(plots) == 6  # shares, cases, lengths, positions, two maps
    for plot in plots:
        assert "var(--ink)" in plot
        assert "#00000" not in plot
        assert "mathdefault" not in plot


def test_every_case_is_on_the_page_and_it_stays_light(made) -> None:
    one, text = made
    page = Page(text)
    cases = {c.case.name for c in one.comparisons if c.case}
    assert sum(tag == "td" and "title" in a for tag, a in page.tags) == 2 * len(cases)
    assert len(text) < 2e6
    if len(cases) > 100:
        assert f"The other {len(cases) - 100:,} cases" in page.words


def test_failures_are_named_with_their_worst_element(made) -> None:
    one, text = made
    words = Page(text).words
    failed = len(view.failures(one))
    assert ("Failures runtime output case" in words) == bool(failed)
    if failed:
        assert "out[0, 1]: got not finite, expected 0.5" in words
        assert "<script>alert(1)</script>" in words  # as text
    assert ("and 20 more" in words) == (failed == 40)


def test_the_same_records_give_the_same_page(made) -> None:
    one, text = made
    assert html.render(one) == text


def test_a_page_without_any_case_still_says_why() -> None:
    empty = report(0, verdict="FAIL", reason="nothing was compared", surveys=())
    assert "nothing was compared" in Page(html.render(empty)).words


def test_one_length_alone_is_drawn_case_by_case() -> None:
    same = [comparison("onnxruntime", 1000 * n + 5) for n in range(4)]
    assert "length is 6 in every one" in html.render(report(comparisons=tuple(same)))


def test_failures_come_first_and_then_what_is_nearest_to_its_bound() -> None:
    rows = view.case_rows(report(50, failed=3))
    assert [row.failed for row in rows] == [True] * 3 + [False] * 47
    shares = [row.share for row in rows[3:]]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50%"), (1.0, "100%"), (1.002, "100.2%"), (3.0, "300%"), (30, "30x")]
)
def test_what_breaks_a_bound_never_reads_as_if_it_held(share: float, text: str) -> None:
    assert percent(share) == text


def test_markdown_takes_text_literally_and_cuts_a_long_list() -> None:
    text = markdown.render(report(3000, failed=40))
    assert text.startswith("## ❌ Parity FAIL: onnxruntime: 40 of 6001 comparisons failed")
    assert "### 40 failures, the worst 10 of them" in text
    assert "<script>" not in text
    assert len(text) < 65_536
    tables = [line for line in text.splitlines() if line.startswith("| onnxruntime")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {5, 11}
    assert "ropeexport check out --seed 0" in text


def test_junit_counts_what_it_holds() -> None:
    one = report(10, failed=2)
    root = ElementTree.fromstring(junit.render(one))
    assert root.attrib["tests"] == "21"
    assert (root.attrib["failures"], root.attrib["skipped"]) == ("2", "1")
    suites = {suite.attrib["name"]: suite for suite in root}
    assert len(suites["onnxruntime"].findall("testcase/failure")) == 2
    skipped = suites["tensorrt"].find("testcase/skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "SKIPPED: no NVIDIA GPU"
    failure = suites["onnxruntime"].find("testcase/failure")
    assert failure is not None
    assert "<script>" in failure.attrib["message"]  # parsed back from its escape


def test_junit_shows_a_run_that_failed_without_a_failed_case() -> None:
    one = report(2, verdict="FAIL", reason="interrupted", complete=False)
    root = ElementTree.fromstring(junit.render(one))
    assert root.attrib["failures"] == "1"
    failure = root.find("testsuite[@name='verdict']/testcase/failure")
    assert failure is not None
    assert failure.attrib["message"] == "interrupted"


def test_the_published_schema_is_current() -> None:
    published = (REPOSITORY / "docs/parity.schema.json").read_text(encoding="utf-8")
    assert published == proving.render("parity"), (
        "ropeexport check --schema > docs/parity.schema.json"
    )


def test_a_report_fulfils_the_schema_and_a_changed_one_does_not(tmp_path) -> None:
    written = write(tmp_path, report(3, failed=1))
    validator = jsonschema.Draft202012Validator(proving.schema("parity"))
    data = json.loads(written.read_text())
    assert list(validator.iter_errors(data)) == []
    data["verdict"] = "MAYBE"
    assert list(validator.iter_errors(data)) != []


def test_reading_back_names_what_is_wrong(tmp_path) -> None:
    with pytest.raises(ParityError, match="ropeexport check DIR"):
        view.read(tmp_path)
    (tmp_path / "parity.json").write_text('{"schema_version": 9}')
    with pytest.raises(ParityError, match="expected schema 1 or older, got 9"):
        view.read(tmp_path)
    write(tmp_path, report())
    assert view.read(tmp_path) == view.read(tmp_path / "parity.json") == report()
