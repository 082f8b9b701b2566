"""Whether an output folder fits together: its manifest against its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from attack.edits import small
from attack.trial import HALF


def contradiction(folder: Path) -> str:
    """Return what a manifest says and its files do not; nothing where it fits, or is missing."""
    path = folder / "manifest.json"
    if not path.exists():
        return ""
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError:
        return "manifest.json is no JSON"
    model, engine = manifest["model"], manifest.get("engine")
    wrong = [_other(folder / model["file"], model["sha256"])]
    weights = (model.get("weights") or {}).get("files", ())
    wrong += [_other(folder / f["file"], f["sha256"]) for f in weights if f.get("sha256")]
    if engine is not None:
        wrong.append(_other(folder / engine["file"], engine["sha256"]))
        if engine["model_sha256"] != model["sha256"]:
            wrong.append("the engine is of another model")
    for name in ("parity.json", "bench.json"):
        if (folder / name).exists():
            try:
                json.loads((folder / name).read_bytes())
            except ValueError:
                wrong.append(f"{name} is no JSON")
    return "; ".join(filter(None, wrong))


def _other(path: Path, sha256: str) -> str:
    if not small(path):
        return f"{path.name} is missing"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    return "" if found == sha256 else f"{path.name} is another one"


def halves(*folders: Path) -> list[str]:
    """Return what an unfinished command leaves in folders."""
    paths = [(f, path) for f in folders if f.is_dir() for path in f.rglob("*")]
    return sorted(str(path.relative_to(f)) for f, path in paths if HALF.search("/" + path.name))


def hashes(folder: Path) -> dict[str, Any]:
    """Return the hash of each file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if small(path)
    }
