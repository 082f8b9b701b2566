"""What is drawn: places, hostile values, and edits made of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from attack import edits, protos
from attack.recipe import Edit

PLACES = st.integers(0, 2**48)
HOSTILE = (
    "", " ", ".", "..", "../../../etc/passwd", "/etc/passwd", "a/b", "-", "--help", "\0", "\n",
    "x\ny", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "[/y]", "[bold]", "<script>alert(1)</script>",
    "```", "|", "{0}", "%s", "${HOME}", "a" * 5000, "\u202e", "\ud800", "é", "\N{PILE OF POO}",
    "length + length", "2*length", "batch", "1e309", "nan", "None", "True", "😀" * 100, "x:y",
    "ropeexport", "ApplyRope", "q", "model.onnx", "manifest.json", "float32", "bfloat16", "object",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 7, 127, 2**31 - 1, -(2**31), 2**31, 2**32, 2**40, 2**53, 2**63 - 1, -(2**63),
    2**64, 10**12, 10**30, 99,
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.5, 1e-320, 1e38, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12))
INTEGERS = st.one_of(st.sampled_from(NUMBERS), st.integers(-(2**66), 2**66), st.integers(-5, 300))
REALS = st.one_of(st.sampled_from(FLOATS), st.floats())
SCALARS = st.one_of(TEXTS, INTEGERS, REALS, st.booleans(), st.none())
VALUES = st.one_of(
    SCALARS,
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.dictionaries(st.text(max_size=6), SCALARS, max_size=3),
    st.lists(st.lists(SCALARS, max_size=2), max_size=2),
)
_LIKE = st.tuples(st.just("like"), SCALARS)
_ANY = st.one_of(
    st.tuples(st.just("set"), VALUES),
    st.tuples(st.just("set"), SCALARS),
    st.tuples(st.sampled_from(["drop", "copy", "twice", "count"]), st.none()),
    st.tuples(st.just("add"), TEXTS),
    st.tuples(st.sampled_from(["deep", "many"]), SCALARS),
)
# what a schema lets pass is as likely as all that it does not
TREE = st.booleans().flatmap(lambda like: _LIKE if like else _ANY)


def edit_of(file: str, how: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[Edit]:
    """Draw the place and the value of an edit."""
    return st.builds(Edit, st.just(file), st.just(how), PLACES, value)


def json_edit(file: str) -> st.SearchStrategy[Edit]:
    """Draw a change of a JSON tree."""
    return edit_of(file, "json", TREE)


def some(edit: st.SearchStrategy[Edit], most: int = 3) -> st.SearchStrategy[tuple[Edit, ...]]:
    """Draw several edits."""
    return st.lists(edit, min_size=1, max_size=most).map(tuple)


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return one that draws the rare one once in twelve times."""
    return st.integers(0, 11).flatmap(lambda number: rare if number == 5 else usual)


def bytes_edit(file: str) -> st.SearchStrategy[Edit]:
    """Draw an edit that knows nothing of the format."""
    return st.one_of(
        edit_of(file, "cut", st.none()),
        edit_of(file, "flip", st.binary(min_size=1, max_size=4).map(list)),
        edit_of(
            file, "replace", st.one_of(TEXTS, st.sampled_from(["null", "[]", "{}", "1", "NaN"]))
        ),
        edit_of(file, "encode", st.none()),
    )


def onnx_edit(file: str) -> st.SearchStrategy[Edit]:
    """Draw a change of an ONNX file, now and then of its bytes."""
    scalars = st.one_of(TEXTS, INTEGERS, REALS)
    place = st.tuples(TEXTS, INTEGERS, INTEGERS)
    special = {"onnx external": place, "onnx set": scalars, "onnx size": scalars}
    rows = [edit_of(file, how, special.get(how, scalars)) for how in protos.EDITS]
    usual = st.one_of(*rows, edit_of(file, "onnx set", scalars))
    return mostly(usual, bytes_edit(file))


def other_file(file: str) -> st.SearchStrategy[Edit]:
    """Draw what lies in a file's place."""
    return st.sampled_from(sorted(edits.FILES)).flatmap(lambda how: edit_of(file, how, TEXTS))
