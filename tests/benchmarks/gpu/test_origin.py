"""Which sources a result is of, with git and without."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu.compiler import ROOT
from benchmarks.gpu.origin import Origin, find_origin, sources_hash, write_note


@pytest.fixture
def copied(tmp_path) -> Path:
    """The sources in a folder without git."""
    folder = tmp_path / "copied"
    for name in ("benchmarks/gpu", "plugins", "ropeexport"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests/seed_functions.py", folder / "tests")
    return folder


def git(folder: Path, *arguments: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(
        ["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_copy_is_of_the_same_sources(copied) -> None:
    assert sources_hash(copied) == sources_hash(ROOT)
    header = copied / "plugins/include/ropeexport/work.cuh"
    header.write_text(header.read_text() + "\n")
    assert sources_hash(copied) != sources_hash(ROOT)


def test_the_commit_and_whether_it_was_changed(copied, tmp_path) -> None:
    git(copied, "init", "-q")
    git(copied, "add", ".")
    git(copied, "commit", "-q", "-m", "all")
    found = find_origin(copied, tmp_path / "commit.json")
    assert found == Origin(git(copied, "rev-parse", "HEAD"), False, sources_hash(copied))
    (copied / "plugins/src/form.h").write_text("// other\n")
    changed = find_origin(copied, tmp_path / "commit.json")
    assert (changed.commit, changed.changed) == (found.commit, True)
    assert changed.sources != found.sources


def test_without_git_the_note_tells_the_commit(copied, tmp_path) -> None:
    note = tmp_path / "commit.json"
    unknown = Origin(None, None, sources_hash(copied))
    assert find_origin(copied, note) == unknown
    known = Origin("c0ffee", changed=False, sources=unknown.sources)
    write_note(known, note)
    assert find_origin(copied, note) == known


@pytest.mark.parametrize("text", ["", "[]", '{"commit": "c0ffee"}', None])
def test_a_note_of_other_sources_or_none_tells_nothing(copied, tmp_path, text) -> None:
    note = tmp_path / "commit.json"
    write_note(Origin("c0ffee", changed=False, sources="of before"), note)
    if text is not None:
        note.write_text(text)
    assert find_origin(copied, note) == Origin(None, None, sources_hash(copied))
