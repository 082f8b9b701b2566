"""Which sources a result is of: their commit, and a hash that needs no git.

A machine without a network often has a copy of the files alone.  There the commit is that of the
note which ``benchmarks.gpu.prepare`` wrote beside what it compiled, if it is of the same sources.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.commit import git
from benchmarks.gpu.compiler import CARRIED, ROOT
from ropeexport import atomic

NOTE = CARRIED.with_name("commit.json")

# what decides the numbers of a run
_FOLDERS = ("benchmarks/gpu", "plugins/include", "plugins/src", "ropeexport")
_FILES = ("plugins/CMakeLists.txt", "tests/seed_functions.py")
_SUFFIXES = {".py", ".cu", ".cuh", ".cpp", ".h", ".map", ".txt"}


@dataclass(frozen=True)
class Origin:
    """Where a result comes from.

    Parameters
    ----------
    commit : str or None
        The commit of the checkout; None where neither git nor a note tells it.
    changed : bool or None
        Whether the sources differ from that commit's.
    sources : str
        A hash of the sources.
    """

    commit: str | None
    changed: bool | None
    sources: str


def find_origin(root: Path = ROOT, note: Path = NOTE) -> Origin:
    """Return the origin of the sources in a folder."""
    sources = sources_hash(root)
    if (root / ".git").exists():
        commit = git(root, "rev-parse", "HEAD")
        if commit:
            return Origin(
                commit, bool(git(root, "status", "--porcelain", *_FOLDERS, *_FILES)), sources
            )
    return _noted(note, sources) or Origin(None, None, sources)


def write_note(origin: Origin, note: Path = NOTE) -> None:
    """Write an origin where :func:`find_origin` finds it on a machine without git."""
    atomic.write_text(note, json.dumps(asdict(origin), indent=1) + "\n")


def sources_hash(root: Path) -> str:
    """Return a hash of the names and texts of all sources."""
    files = [root / name for name in _FILES]
    for folder in _FOLDERS:
        files += [path for path in (root / folder).rglob("*") if path.suffix in _SUFFIXES]
    digest = hashlib.sha256()
    for path in sorted(file for file in files if file.is_file()):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(text)} ".encode() + text)
    return digest.hexdigest()


def _noted(note: Path, sources: str) -> Origin | None:
    try:
        origin = Origin(**json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return origin if origin.sources == sources else None
