"""Which classes of the installed libraries rotate: read from their sources, nothing is imported.

A class is one of these where its code, or that of what it uses in the same file, names a rotation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ropeexport.fusion.movement import closure

ROTATES = re.compile(
    r"rotary|rope(?![a-z])|rotate_half|rotate_queries|freqs_cis|pope", re.IGNORECASE
)
_HEAD = re.compile(r"For[A-Z]|LMHead|With(LM|Head)|DoubleHeads")
_ABSTRACT = re.compile(r"Pre[Tt]rained(Model)?$|ModelMixin$")
# of a whole whose parts are chosen by a config
_BY_CONFIG = {"AutoModel", "AutoModelForCausalLM"}
_PLACES = {
    "transformers": "models/*/modeling_*.py",
    "diffusers": "models/*/*.py",
}


@dataclass(frozen=True)
class Class:
    """A class of a library: its name, and the file that it is in."""

    library: str
    name: str
    path: Path

    @property
    def model(self) -> str:
        """What the command line calls it."""
        return f"{self.library}:{self.name}"

    @property
    def module(self) -> str:
        """The name of the module that it is in."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[len(parts) - 1 - parts[::-1].index(self.library) :])

    def imported(self) -> Any:
        """Import it."""
        return getattr(import_module(self.module), self.name)


def discovered() -> list[Class]:
    """Return the classes with RoPE of the libraries that are installed, sorted by name.

    Heads on a model of the same file (``ForCausalLM``) are left out: they add no rotation.
    """
    found = []
    for library, pattern in _PLACES.items():
        spec = find_spec(library)
        roots = (spec.submodule_search_locations or ()) if spec is not None else ()
        for path in (path for root in roots for path in Path(root).glob(pattern)):
            text = path.read_text(encoding="utf-8")
            if ROTATES.search(text):
                names = list(_models_in(ast.parse(text)))
                kept = [name for name in names if not _HEAD.search(name)] or names
                found += [Class(library, name, path) for name in kept]
    return sorted(found, key=lambda each: (each.library, each.name))


def _models_in(tree: ast.Module) -> Iterator[str]:
    """Yield the names of the models of a file that rotate."""
    made = {
        node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    uses = {name: {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            for name, node in made.items()}  # fmt: skip
    for name, node in made.items():
        if not isinstance(node, ast.ClassDef) or not _is_model(name, made):
            continue
        reached = set(closure([name], lambda each: uses.get(each, ())))
        if any(map(ROTATES.search, reached)) or reached & _BY_CONFIG:
            yield name


def _is_model(name: str, made: dict[str, ast.ClassDef | ast.FunctionDef]) -> bool:
    """Say whether a class is a library's model by what it derives from in its file."""
    own = {each.name for each in made[name].body if isinstance(each, ast.FunctionDef)}
    if _ABSTRACT.search(name) and "forward" not in own:
        return False

    def bases(each: str) -> list[str]:
        node = made.get(each)
        given = node.bases if isinstance(node, ast.ClassDef) else []
        return [base.id for base in given if isinstance(base, ast.Name)]

    return any(map(_ABSTRACT.search, closure(bases(name), bases)))
