"""Each error has a code, and each code an entry in docs/troubleshooting.md that is true to it."""

from __future__ import annotations

import ast
import re
from collections import Counter

import pytest
from error_sites import (
    CODE,
    ENTRIES,
    PAGE,
    Site,
    code_of_class,
    error_classes,
    literal,
    makes_its_text,
    modules,
    sites,
)

SITES = sites()


def literals() -> set[str]:
    return {
        node.value
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        if isinstance(node.value, str) and CODE.fullmatch(node.value)
    }


def has_words(pattern: str) -> bool:
    return re.search(r"[A-Za-z]{2,}", pattern.replace(".*", " ")) is not None


def fits(site: Site, example: str) -> bool:
    """Whether an example may come from a place; where that has no words, from its module's."""
    if not any(map(has_words, site.patterns)):
        texts = {
            (literal(node) or "").strip(": ")
            for node in ast.walk(modules()[site.module])
            if isinstance(node, ast.expr)
        }
        return any(len(text.split()) > 1 and f": {text}: " in example for text in texts)
    spaced = [re.sub(r"(\\\s)+", r"\\s+", each) for each in site.patterns if has_words(each)]
    return any(re.fullmatch(each, example, re.DOTALL) for each in spaced)


def test_each_error_is_made_with_a_literal_code() -> None:
    assert len(SITES) > 400
    without = [
        f"{site.module}:{site.line}"
        for site in SITES
        if site.code is None or not CODE.fullmatch(site.code)
    ]
    assert not without, without


def test_a_class_that_makes_its_own_text_has_a_code() -> None:
    own = {name for name in error_classes() if makes_its_text(name)}
    assert {"AxisRangeError", "ChangedInputError", "CrashError"} <= own
    assert not [name for name in own if not CODE.fullmatch(code_of_class(name) or "")]


def test_each_code_has_one_entry_and_each_entry_is_used() -> None:
    headings = re.findall(r"^### (RX\d{3})", PAGE, re.MULTILINE)
    assert not [code for code, number in Counter(headings).items() if number > 1]
    assert not set(headings) - set(ENTRIES), "an entry that is not of the form of the others"
    assert set(headings) == literals()
    assert headings == sorted(headings)


def test_titles_are_different() -> None:
    assert len({entry["title"] for entry in ENTRIES.values()}) == len(ENTRIES)


# of RX00x it is the command line that makes the line: tests/cli/test_main.py
MADE = sorted({site.code for site in SITES if site.code is not None if site.code > "RX01"})


@pytest.mark.parametrize("code", MADE)
def test_an_example_has_the_words_of_a_message_with_its_code(code: str) -> None:
    example = " ".join(ENTRIES[code]["example"].split())
    places = [site for site in SITES if site.code == code]
    assert any(fits(site, example) for site in places), f"{example}: {places}"


def test_a_place_without_a_code_is_found() -> None:
    from error_sites import site_of

    source = ast.parse('raise UsageError(f"{path}: no such file")\nUsageError("x", code="RX303")')
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call)]
    found = sorted((site_of("m.py", source, call) for call in calls), key=lambda site: site.line)
    assert found[0] == Site("m.py", 1, None, (r".*:\ no\ such\ file",))
    assert found[1].code == "RX303"
