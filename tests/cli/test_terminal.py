"""Every verb prints through one place, so that none can forget to escape what a file says."""

from __future__ import annotations

import ast
import io
import re
import sys
from pathlib import Path

import pytest
from command_line import ROOT
from rich.text import Text

from ropeexport.cli import terminal

PRINTS = {"print", "echo", "secho", "Console", "Progress", "write", "writelines"}


def calls(path) -> set[str]:
    """Return what a file calls of that which prints, ``module.name`` where it names one."""
    found = [node.func for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Call]
    names = {ast.unparse(function) for function in found}
    return {name for name in names if name.rpartition(".")[2] in PRINTS}


def test_no_verb_prints_by_itself() -> None:
    allowed = {"echo", "self._console.print", "progress.Progress", "Progress"}
    for path in sorted((ROOT / "ropeexport/cli").glob("*.py")):
        if path.name != "terminal.py":
            assert calls(path) <= allowed, path


def test_no_stage_prints() -> None:
    for path in sorted((ROOT / "ropeexport").rglob("*.py")):
        if path.parent.name != "cli" and path.name != "__main__.py":
            assert not calls(path) & {"print", "click.echo", "Console", "sys.stdout.write"}, path


def test_a_bar_takes_texts_literally() -> None:
    for path in (ROOT / "ropeexport/cli").glob("*.py"):
        for column in re.findall(r"TextColumn\(.*\)", path.read_text()):
            assert "{task" not in column or "markup=False" in column


def test_a_table_keeps_our_colours_and_not_its_texts(monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    terminal.show(Text("[red]a[/] :smile: 123", style="green"), 20)
    assert "\x1b[32m[red]a[/] :smile: 123\x1b[0m" in sys.stdout.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
def test_json_of_a_hostile_text(monkeypatch, encoding) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    terminal.echo_json('{\n "é✓😀": "\x9b\x7f\u202e…"\n}')
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert [line for line in text.split("\n") if not line.isprintable()] == []
    assert ast.literal_eval(text.replace(r"\ud83d\ude00", "😀")) == {"é✓😀": "\x9b\x7f\u202e…"}
    assert ("é✓😀" in text) == encoding.startswith("utf")


@pytest.mark.parametrize(
    ("path", "text"),
    [("out", "out"), ("my dir", "'my dir'"), ("-x", "./-x"), ("a'b", "'a'\"'\"'b'")],
)
def test_a_path_is_shown_as_a_shell_takes_it(path: str, text: str) -> None:
    assert terminal.quoted(Path(path)) == text
