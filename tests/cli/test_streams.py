"""Standard streams and surroundings that are not as usual: one line at most, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT
from made_reports import report, with_texts

from ropeexport.parity.report import write

pytestmark = pytest.mark.hostile

LETTERS = "é✓😀中"
VARIABLES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252:strict"},
    "no locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "utf-8": {"PYTHONIOENCODING": "utf-8:strict"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("checked")
    write(place, with_texts(report(3, failed=1), LETTERS))
    return place


def run(
    *arguments: object, streams: str = "", cwd: Path | None = None, **variables: str | None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command by a shell, which redirects its streams."""
    set_ = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    environment = {name: value for name, value in set_.items() if value is not None}
    line = f'exec "$@" {streams}'
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "ropeexport", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, env=environment, cwd=cwd, check=False, timeout=120
    )


@pytest.mark.parametrize("kind", VARIABLES)
def test_a_stream_of_any_encoding_gets_the_report(folder, kind) -> None:
    done = run("report", folder, **VARIABLES[kind])
    assert done.returncode == 0, done.stderr
    encoding = {"no locale": "ascii"}.get(kind, kind)
    text = done.stdout.decode(encoding)
    assert f"FAIL: {'' if encoding == 'ascii' else 'é'}" in text
    if kind.startswith("utf"):
        assert f"FAIL: {LETTERS}onnxruntime: 1 of 7 comparisons failed" in text
        assert "✗" in text
        assert "┃ of bound ┃" in text
    else:
        assert r"+\ud83d\ude00\u4e2donnxruntime: 1 of 7 comparisons failed" in text
        assert "| of bound |" in text


@pytest.mark.parametrize("kind", VARIABLES)
def test_json_is_the_same_data_in_any_encoding(exported, kind) -> None:
    path = exported()
    edited = json.loads((path / "manifest.json").read_text())
    edited["source"]["name"] = LETTERS + "…\x9b"
    (path / "manifest.json").write_text(json.dumps(edited))
    done = run("inspect", path, "--json", **VARIABLES[kind])
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode({"no locale": "ascii"}.get(kind, kind))
    assert "\x9b" not in text
    usual = run("inspect", path, "--json").stdout
    assert json.loads(text) == json.loads(usual)


NO_SPACE = b"error: standard output: No space left on device [RX004]\n"
CLOSED = b"error: standard output: Bad file descriptor [RX002]\n"
BROKEN = {
    "full": (">/dev/full", 1, NO_SPACE),
    "closed": (">&-", 1, CLOSED),
    "all closed": ("<&- >&- 2>&-", 1, b""),
    "errors full": ("2>/dev/full", 0, b""),
    "errors closed": ("2>&-", 0, b""),
    "both full": (">/dev/full 2>&1", 1, b""),
    "no input": ("<&-", 0, b""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_stream_that_takes_nothing(folder, kind) -> None:
    streams, code, said = BROKEN[kind]
    done = run("report", folder, streams=streams)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("arguments", ["check --schema", "--help", "--version", "doctor --json"])
@pytest.mark.parametrize("kind", ["full", "closed"])
def test_whatever_prints_says_that_it_could_not(kind, arguments) -> None:
    streams, code, said = BROKEN[kind]
    done = run(*arguments.split(), streams=streams)
    assert done.returncode == code
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.endswith(said.rpartition(b": ")[2])
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full"])
def test_an_error_that_nobody_hears_keeps_its_code(tmp_path, streams) -> None:
    assert run("report", tmp_path, streams=streams).returncode == 1
    assert run("check", "--lengths", "0", tmp_path, streams=streams).returncode == 2


def test_a_file_that_is_opened_is_no_stream(exported, tmp_path) -> None:
    path = exported()
    done = run("check", path, "--cases", "1", "--junit", tmp_path / "j.xml", streams=">&- 2>&-")
    assert done.returncode == 1  # nobody got the table
    assert json.loads((path / "parity.json").read_text())["verdict"] == "PASS"
    assert (tmp_path / "j.xml").read_text().startswith("<?xml")


def test_a_reader_that_goes_is_silence(folder) -> None:
    done = run("report", folder, streams="| head -c 1; exit ${PIPESTATUS:-0}")
    assert done.stderr == b""


def test_a_current_folder_that_is_gone(tmp_path, folder) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'rmdir "{gone}" && exec "$@"'
    words = ["sh", "-c", command, "sh", sys.executable, "-m", "ropeexport", "report"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    relative = subprocess.run(
        [*words, "out"], capture_output=True, cwd=gone, env=environment, check=False
    )
    assert relative.returncode == 2
    assert relative.stderr.startswith(b"error: path: out is within the current folder, which is no")
    assert relative.stderr.count(b"\n") == 1
    gone.mkdir()
    absolute = subprocess.run(
        [*words, folder], capture_output=True, cwd=gone, env=environment, check=False
    )
    assert (absolute.returncode, absolute.stderr) == (0, b"")


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": None, "TMPDIR": "/nowhere"},
        {"HOME": "/nowhere", "COLUMNS": "1"},
        {"COLUMNS": "x", "TERM": "dumb"},
        {"TERM": None, "PATH": None, "COLUMNS": "0"},
        {"ROPEEXPORT_CACHE": "/dev/null"},
        {"ROPEEXPORT_CACHE": "/proc/nowhere"},
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["report", "run"])
def test_surroundings_that_lack_something(folder, exported, variables, verb) -> None:
    words = ("report", folder)
    if verb == "run":
        words = ("run", exported(), "--random", "--runtime", "onnxruntime:cpu")
    done = run(*words, **variables)
    assert (done.returncode, done.stderr) == (0, b"")


def test_names_that_are_not_utf_8(tmp_path, exported) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    exported().rename(odd)
    for words in (("inspect", odd), ("check", odd), ("run", odd, "--random"), ("build", odd),
                  ("bench", odd), ("report", odd), ("report", tmp_path, "--html", odd / "x.html"),
                  ("fuse", odd / "model.onnx", "-o", tmp_path / "new"),
                  ("export", "flux-attention", "-o", odd)):  # fmt: skip
        done = run(*words)
        assert done.returncode == 2
        assert b"expected a path in UTF-8" in done.stderr
        assert rb"caf\udce9" in done.stderr
        assert done.stderr.count(b"\n") == 1
