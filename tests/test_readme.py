"""README and Makefile agree with what the command does; its examples run in ``test_docs.py``."""

from __future__ import annotations

import re

import click
from command_line import ROOT

from ropeexport.cli import main

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(word: str) -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(word)]


def test_every_verb_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)[^|]*\|", README, re.MULTILINE)
    assert set(main.cli.list_commands(click.Context(main.cli))) <= set(rows)


def test_make_has_the_two_commands_and_every_target_that_is_named() -> None:
    assert commands("make ") == ["make demo", "make test"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {name.split()[1] for name in re.findall(r"`(make [a-z-]+)`", README)} <= targets


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:docs|plugins|benchmarks)/[\w./-]+\.\w+)`", README)
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name
