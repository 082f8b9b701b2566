"""Findings as folders: the broken files, the command, and what it said."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from attack.recipe import Recipe
from attack.trial import prepare, tried
from attack.worker import Worker

TRIES = 12


def smallest(worker: Worker, bases: Path, recipe: Recipe, kind: str, text: str) -> Recipe:
    """Return the recipe without the edits that the fault does not need."""
    tries = 0
    for edit in recipe.edits:
        fewer = Recipe(**{**vars(recipe), "edits": tuple(e for e in recipe.edits if e is not edit)})
        if tries < TRIES and fewer.edits:
            tries += 1
            if (kind, text) in tried(worker, bases, fewer).wrong:
                recipe = fewer
    return recipe


def save(place: Path, bases: Path, recipe: Recipe, text: str) -> None:
    """Write a folder that shows a fault: ``files``, ``command.sh``, ``recipe.json``."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "files").mkdir(parents=True)
    prepare(place / "files", bases, recipe)
    words = ["python", "-P", "-m", "ropeexport", *recipe.argv]
    command = f'# {text}\ncd "$(dirname "$0")/files" && {shlex.join(words)}\n'
    (place / "command.sh").write_text(command, errors="replace")
    (place / "recipe.json").write_text(recipe.text())
