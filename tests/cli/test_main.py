"""What ends a command: one line with a code, whatever it is; what nobody foresaw has a log too."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import click
import pytest
from command_line import ROOT, ropeexport
from error_sites import ENTRIES

from ropeexport.child_process import UnforeseenError
from ropeexport.cli import main
from ropeexport.errors import BuildError, MissingError, UsageError

UNEXPECTED = re.compile(
    r"error: unexpected (?P<kind>\w+): (?P<text>.*) \((?P<place>[\w/.]+:\d+)\); "
    r"the full traceback, for a bug report, is in (?P<log>.+) \[RX003\]\n"
)


def example_of(code: str) -> str:
    return " ".join(ENTRIES[code]["example"].split())


@pytest.fixture
def end(monkeypatch, capsys, tmp_path):
    """Return what a command that raises an error prints on standard error, and its exit code."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def ending(error: BaseException) -> tuple[str, int]:
        @click.command
        def fails_command() -> None:
            raise error

        module = ModuleType("ropeexport.cli.failing")
        module.fails_command = fails_command
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(main._COMMANDS, "fails", ("failing", "Fail."))
        monkeypatch.setattr(sys, "argv", ["ropeexport", "fails"])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return capsys.readouterr().err, ended.value.code

    return ending


class PanicError(BaseException):
    """As a library in Rust ends: no Exception."""


class WordlessError(Exception):
    def __str__(self) -> NoReturn:
        raise TypeError("no text")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (TypeError("one\ntwo"), "TypeError", "one"),
        (RecursionError("too deep"), "RecursionError", "too deep"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (EOFError("No data left in file"), "EOFError", "No data left in file"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "UnicodeDecodeError", "'utf-8' .*"),
        (PanicError("index out of bounds"), "PanicError", "index out of bounds"),
        (WordlessError(), "WordlessError", "no text"),
    ],
)
def test_what_nobody_foresaw_is_one_line_and_a_log(end, tmp_path, error, kind, text) -> None:
    line, code = end(error)
    found = UNEXPECTED.fullmatch(line)
    assert found, line
    assert (code, found["kind"]) == (1, kind)
    assert re.fullmatch(text, found["text"])
    module, number = found["place"].split(":")
    assert (
        "super().invoke(ctx)"
        in (ROOT / "ropeexport" / module).read_text().splitlines()[int(number) - 1]
    )
    assert list(tmp_path.iterdir()) == [Path(found["log"])]
    assert re.fullmatch(r"ropeexport-\w+\.log", Path(found["log"]).name)
    log = Path(found["log"]).read_text()
    assert log.startswith("Traceback")
    assert "in fails_command" in log


def test_the_line_is_printed_where_no_log_can_be_written(end, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    line, code = end(TypeError("one"))
    found = UNEXPECTED.fullmatch(line)
    assert found, line
    assert (code, found["text"]) == (1, "one")
    assert found["log"].startswith("no file ([Errno 2] No such file or directory: ")


def test_the_pages_example_of_what_nobody_foresaw_is_of_that_form() -> None:
    assert UNEXPECTED.fullmatch(f"error: {example_of('RX003')} [RX003]\n")


def test_what_nobody_foresaw_in_a_build_has_the_childs_traceback_in_its_log(end, tmp_path) -> None:
    child = UnforeseenError("ValueError: odd")
    child.add_note("Traceback of the child")
    error = BuildError("unexpected error in the build process: ValueError: odd", code="RX003")
    error.__cause__ = child
    line, code = end(error)
    (log,) = tmp_path.iterdir()
    named = f"; the full traceback, for a bug report, is in {log} [RX003]"
    assert (line, code) == (f"error: {error}{named}\n", 1)
    assert "Traceback of the child" in log.read_text()


def test_a_panic_in_a_users_file_ends_the_command_in_one_line(tmp_path) -> None:
    (tmp_path / "panics.py").write_text(
        "class Panic(BaseException):\n    pass\ndef make():\n    raise Panic('at the disco')\n"
    )
    arguments = ["export", "panics.py:make", "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "ropeexport", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    found = UNEXPECTED.fullmatch(done.stderr)
    assert found, done.stderr
    assert (done.returncode, found["kind"], found["text"]) == (1, "Panic", "at the disco")
    assert found["place"].startswith("models/sources.py:")
    assert "line 4, in make" in Path(found["log"]).read_text()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UsageError("x: no such axis", code="RX114"), "error: x: no such axis [RX114]\n", 2),
        (MissingError("no GPU", code="RX903"), "error: no GPU [RX903]\n", 3),
        (BuildError("nvcc failed", code="RX408"), "error: nvcc failed [RX408]\n", 1),
        (OSError(28, "No space left on device"), "error: No space left on device [RX004]\n", 1),
        (OSError(28, "No space left", "out/x"), "error: out/x: No space left [RX004]\n", 1),
        (PermissionError(13, "Permission denied", "x"), "error: x: Permission denied [RX005]\n", 1),
        (OSError(30, "Read-only file system", "x"), "error: x: Read-only file system [RX005]\n", 1),
        (FileNotFoundError(2, "No such file", "x"), "error: x: No such file [RX006]\n", 1),
        (NotADirectoryError(20, "Not a directory", "x"), "error: x: Not a directory [RX002]\n", 1),
        (OSError("ended early\nat 3"), "error: ended early [RX002]\n", 1),
        (KeyboardInterrupt(), "error: interrupted [RX007]\n", 1),
    ],
)  # fmt: skip
def test_an_error_is_its_line_with_its_code(end, tmp_path, error, line: str, code: int) -> None:
    assert end(error) == (line, code)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", ["RX002", "RX004", "RX005", "RX006"])
def test_the_pages_example_of_the_system_is_printed(end, code: str) -> None:
    path, text = example_of(code).split(": ")
    number = next(number for number in errno.errorcode if os.strerror(number) == text)
    assert end(OSError(number, text, path)) == (f"error: {path}: {text} [{code}]\n", 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["chek"], f"Error: {example_of('RX001')} [RX001]"),
        (["check"], "Error: Missing argument 'DIR'. [RX001]"),
        (["check", "out", "--no-such"], "Error: No such option '--no-such'. [RX001]"),
        (["plugin", "bild"], "Error: No such command 'bild'. Did you mean 'build'? [RX001]"),
    ],
)  # fmt: skip
def test_a_usage_error_has_a_code(arguments: list[str], line: str) -> None:
    done = ropeexport(*arguments)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, line)
    assert done.stderr.startswith("Usage: ropeexport")


def test_help_without_a_verb_has_none() -> None:
    done = ropeexport()
    assert "Usage: ropeexport" in done.stdout + done.stderr
    assert "RX" not in done.stdout + done.stderr
