"""Text for one line: nothing that a terminal obeys, nothing that no encoding has."""

from __future__ import annotations

import unicodedata

import pytest
from made_reports import report

from ropeexport.plain import all_shown, shown

SEEN = "name, é✓😀 [/y] :smile: `a|b` 中文"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (SEEN, SEEN),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
        ("\u2028", r"\u2028"),
        ("\udcff", r"\udcff"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, line: str) -> None:
    assert shown(text) == line


def test_every_character_gives_one_line_that_every_encoding_of_unicode_has() -> None:
    for number in range(0x110000):
        line = shown(chr(number))
        kinds = {unicodedata.category(character) for character in line}
        assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}, hex(number)
        assert len(line.encode().decode().splitlines()) == 1


@pytest.mark.parametrize("most", [1, 2, 5, 80])
def test_a_long_text_keeps_its_ends(most: int) -> None:
    text = "".join(chr(0x100 + n % 500) for n in range(10**6))
    line = shown(text, most)
    start, end = line.split("…")
    assert len(line) == most
    assert text.startswith(start)
    assert text.endswith(end)


def test_a_record_is_changed_in_its_texts_alone() -> None:
    one = report(3, failed=1)
    assert all_shown(one) == all_shown(all_shown(one)) != one
    plain = report(3)
    assert all_shown(plain) == plain
    made = all_shown(report(lengths=("a\x1b",), notes=("b\nc", "d" * 2000)))
    assert made.lengths == ("a\\x1b",)
    assert made.notes[0] == "b\\nc"
    assert len(made.notes[1]) == 1000
