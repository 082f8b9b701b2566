"""The examples of README.md and of the pages of docs run as they are written.

A comment before a block, ``<!-- not run: WHY -->``, marks what needs more than this machine: its
commands are parsed instead.  The blocks of a page run in their order, in one folder; a Python block
is the file that its first line names, and one with tests is run by pytest.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from command_line import ROOT

from ropeexport.cli.main import cli

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^>]+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"^(ropeexport|make|pip|python3?) ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    why: str | None

    @property
    def commands(self) -> list[list[str]]:
        lines = (shlex.split(line, comments=True) for line in self.text.splitlines())
        return [words for words in lines if words]


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text())
    return [Block(m["language"], m["text"], m["why"]) for m in found]


def run(words: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


def run_python(block: Block, number: int, folder: Path) -> None:
    named = re.match(r"# (\w+\.py)\n", block.text)
    tests = "def test_" in block.text
    path = folder / (named[1] if named else f"{'test_' if tests else ''}block_{number}.py")
    path.write_text(block.text)
    run(["-m", "pytest", "-q", path.name] if tests else [path.name], folder)


def run_console(block: Block, folder: Path) -> None:
    for program, *arguments in block.commands:
        assert program == "ropeexport", f"mark it with <!-- not run: WHY -->: {program}"
        run(["-m", "ropeexport", *arguments], folder)


RUN = [page for page in PAGES if any(b.language and b.why is None for b in blocks(page))]


@pytest.mark.trt
@pytest.mark.pipelines  # a page exports and runs one after the other
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_examples_run_as_they_are_written(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    for number, block in enumerate(blocks(page)):
        if block.why is None and block.language == "python":
            run_python(block, number, tmp_path)
        elif block.why is None and block.language == "console":
            run_console(block, tmp_path)


def test_pages_with_examples_are_found() -> None:
    assert {"README.md", "running.md", "testing.md", "weights.md"} <= {page.name for page in RUN}
    for page in PAGES:
        for block in blocks(page):
            known = block.language in ("python", "console", "text", "")
            hidden = block.language in ("text", "") and COMMAND.search(block.text)
            assert known, f"{page.name}: a block of {block.language}"
            assert not hidden, f"{page.name}: commands in a block without a language: {block.text}"


def marked() -> Iterator[list[str]]:
    for page in PAGES:
        for block in blocks(page):
            if block.why is not None:
                assert block.language == "console", f"{page.name}: only commands may be left out"
                yield from block.commands


@pytest.mark.parametrize("words", list(marked()), ids=shlex.join)
def test_what_does_not_run_here_parses(words: list[str]) -> None:
    program, *arguments = words
    {"ropeexport": parse_ropeexport, "make": parse_make, "pip": parse_pip}.get(
        program, parse_python
    )(arguments)


def parse_ropeexport(arguments: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group):
        verb, *arguments = arguments
        found = command.get_command(click.Context(command), verb)
        assert found is not None, verb
        command = found
    command.make_context(command.name, arguments)


def parse_make(targets: list[str]) -> None:
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) <= set(known)


def parse_pip(arguments: list[str]) -> None:
    verb, *requirements = arguments
    assert verb == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for requirement in requirements:
        named = re.fullmatch(r"ropeexport\[([\w,]+)\]", requirement)
        assert named, requirement
        assert set(named[1].split(",")) <= set(extras)


def parse_python(arguments: list[str]) -> None:
    flag, module, *options = arguments
    if flag.endswith(".py"):  # a script, for an environment of its own
        assert (ROOT / flag).is_file(), flag
        compile((ROOT / flag).read_text(), flag, "exec")
        return
    assert (flag, find_spec(module) is not None) == ("-m", True)
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    for option in (word for word in options if word.startswith("--")):
        assert option in shown.stdout, option


def test_a_command_that_does_not_parse_is_found() -> None:
    with pytest.raises(click.UsageError):
        parse_ropeexport(["check", "out", "--no-such-option"])
    with pytest.raises(AssertionError):
        parse_ropeexport(["no-such-verb"])
    with pytest.raises(AssertionError):
        parse_pip(["install", "ropeexport[nothing]"])
