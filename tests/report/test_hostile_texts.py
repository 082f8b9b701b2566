"""Texts of a report that its maker chose, in every form that people read it in."""

from __future__ import annotations

import io
import re
from functools import cache
from xml.etree import ElementTree

import pytest
from html_page import Page
from made_benches import made_bench, made_timing
from made_reports import HOSTILE, report, with_texts
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console

from ropeexport.bench import show
from ropeexport.parity.records import LocationRecord, Report
from ropeexport.parity.report import render
from ropeexport.plain import all_shown, shown
from ropeexport.report import html, junit, markdown

pytestmark = pytest.mark.hostile

GFM = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# what GitHub makes of the text of a page: mentions, issues, links, emoji
LINK = re.compile(r"(?<!\w)@\w|#\d|://|\bwww\.|:[a-z]+:")


def made(text: str) -> Report:
    located = LocationRecord(runtime="onnxruntime", case="c", tensor="t", node="n", op="o")
    more = {"notes": ("a note",), "locations": (located,), "left_out": ("a case",)}
    return with_texts(report(3, failed=1, **more), text)


@pytest.fixture(scope="module", params=HOSTILE)
def hostile(request) -> tuple[Report, str]:
    return made(HOSTILE[request.param]), HOSTILE[request.param]


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("markup", [False, True])
def test_the_table(hostile, is_terminal: bool, markup: bool) -> None:
    one, text = hostile
    console = Console(
        file=io.StringIO(), width=200, force_terminal=is_terminal, markup=markup, emoji=markup
    )
    console.print(render(all_shown(one)))
    printed = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())  # our own colours
    assert is_clean(printed)
    assert len(printed) < 100_000
    in_a_row = "".join(printed.split())
    assert "FAIL:" + "".join(shown(text, 1000).split())[:300] in in_a_row


def walk(tokens: list[Token]) -> list[Token]:
    return [one for token in tokens for one in (token, *walk(token.children or []))]


def test_markdown_is_what_it_is_of_harmless_texts(hostile) -> None:
    one, _ = hostile
    written = markdown.render(one)
    assert is_clean(written)
    tokens, plain = (walk(GFM.parse(x)) for x in (written, markdown.render(made("plain "))))
    # comments end what GitHub would make a link of; all else is as it is of a plain text
    kinds, expected = ([t.type for t in each if t.type not in _PARTS] for each in (tokens, plain))
    assert kinds == expected
    inline = {t.content for t in tokens if t.type == "html_inline"}
    assert inline <= {"<!-- -->", "<sub>", "</sub>"}
    words = "\0".join(
        t.content for t in tokens if t.type in ("text", "html_inline", "text_special")
    )
    assert not LINK.search(re.sub("\0(?!<!--)|(?<!-->)\0", "", words))
    fence = next(t for t in tokens if t.type == "fence")
    assert fence.content.rstrip("\n") == shown(one.command, 1000)


_PARTS = ("text", "text_special", "html_inline")


def test_markdown_says_the_text_that_it_escapes(hostile) -> None:
    one, text = hostile
    tokens = walk(GFM.parse(markdown.render(one)))
    said = "".join(t.content for t in tokens if t.type in ("text", "text_special"))
    expected = " ".join(shown(text, 1000).split())
    assert expected[:400] in said


def test_junit(hostile) -> None:
    one, text = hostile
    root = ElementTree.fromstring(junit.render(one).encode())
    assert root.attrib["name"] == shown(f"parity of {shown(one.source, 1000)}")
    suites = [suite.attrib["name"] for suite in root]
    assert suites == [shown(runtime.name, 1000) for runtime in one.runtimes]
    for element in root.iter():
        for value in (*element.attrib.values(), element.text or ""):
            assert is_clean(value)
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.attrib["message"].startswith(shown(text, 1000)[:400])


def outside_plots(page: str) -> list[str]:
    return [tag for tag, _ in Page(re.sub("<svg.*?</svg>", "", page, flags=re.DOTALL)).tags]


@cache
def _plain_tags() -> list[str]:
    return outside_plots(html.render(made("plain ")))


def test_the_page(hostile) -> None:
    one, _ = hostile
    written = html.render(one)
    page = Page(written)
    assert page.open == []
    assert is_clean(written)
    assert outside_plots(written) == _plain_tags()
    assert all(not name.startswith("on") for _, found in page.tags for name in found)
    assert len(written) < 3e6


@pytest.mark.filterwarnings("error")
def test_a_chart_takes_names_as_they_are(hostile) -> None:
    _, text = hostile
    found = made_bench(made_timing("eager", 4.0, 4.0), made_timing("ropeexport", 2.0, 2.0))
    group = found.groups[0].model_copy(update={"sizes": {text: 8}})
    found = found.model_copy(
        update={"source": text, "processor": text, "dtype": text, "groups": (group,)}
    )
    assert show.chart(found).startswith(b"\x89PNG")
    console = Console(file=io.StringIO(), width=160)
    console.print(show.render(all_shown(found)))
    assert is_clean(console.file.getvalue())
