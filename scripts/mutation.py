#!/usr/bin/env python3
"""Break the code of what must notice faults, place by place: its tests must notice each.

Mutants are cosmic-ray's, a sample drawn by a seed, and beside them every guard switched off.  They
run in a copy of the project.  ``mutation.toml`` says which modules and which tests, and why each
survivor is left; the result is ``docs/mutation.md``.  ``--survivors``: after tests were added, run
what survived again, and take what was killed of the last run as it is.
"""

from __future__ import annotations

import ast
import compileall
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import pytest
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code, use_mutation
from cosmic_ray.operators.operator import Example, Operator
from parso.python.tree import IfStmt, Keyword

ROOT = Path(__file__).parents[1]
STATE = ROOT / "build" / "mutation.json"
PAGE = ROOT / "docs" / "mutation.md"
GUARD = "conditions/GuardOff"
KILLED, LATE, SURVIVED = "killed", "late", "survived"
NOT_EXPLAINED = "not looked at yet"
_EXITS = ("return", "raise", "continue", "break")


AGAIN = """; what
former tests had killed already was not run again when tests were added (`--survivors`)"""
PAGE_TEXT = """\
# Mutation

<!-- made by `make mutation`; what is said of a survivor is in scripts/mutation.toml -->

What must notice a fault is broken itself, place by place, and its tests must notice that: fusion
and its guards, the comparison of arrays and of whole graphs, the bounds. `make mutation`, part of
`make long`, does it on a copy of the project, with [cosmic-ray](https://cosmic-ray.readthedocs.io).

- **Guards**: every condition before an early exit (`return`, `raise`, `continue`, `break`) is
  switched off. All are tried.
- **Others**: of all that cosmic-ray changes (operators, comparisons, numbers, `not`, loops,
  exceptions, decorators), and of choices and filters taken as constant, a sample: places drawn by a
  seed, and at each one of its mutants; so few of some thousands, for the time that they take. None
  is left out by hand; what changes no more than an annotation is no mutant, since nothing evaluates
  it.

A mutant is killed where a test fails, or its tests have not ended after {timeout} s, as with a loop
that goes on for ever. At least {aim} must be. Of commit {commit}, {date}, seed {seed}{again}:

| mutants | tried | killed | late | share |
| --- | --- | --- | --- | --- |
{rows}

## Survivors

{survivors}
"""


class _Constant(Operator):
    """Take a condition as constant."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the place of each condition, once for each constant."""
        for place, _ in self.conditions(node):
            yield node.children[place].start_pos, node.children[place].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Put the constant in."""
        place, constant = self.conditions(node)[index]
        node.children[place] = Keyword(constant, (0, 0), prefix=" ")
        return node

    @staticmethod
    @abstractmethod
    def conditions(node: Any) -> list[tuple[int, str]]:
        """Return which children of a node are conditions, and what each is taken for."""


class GuardOff(_Constant):
    """Never leave early."""

    @staticmethod
    def conditions(node: Any) -> list[tuple[int, str]]:
        """Return the conditions under which nothing but an exit follows."""
        if not isinstance(node, IfStmt):
            return []
        places = (i for i, child in enumerate(node.children) if child in ("if", "elif"))
        return [(i + 1, "False") for i in places if _is_exit(node.children[i + 3])]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return what it does to a few lines."""
        return (Example("if x:\n    return\n", "if False:\n    return\n"),)


class OneChoice(_Constant):
    """Always choose the same of two values; let a filter pass nothing."""

    @staticmethod
    def conditions(node: Any) -> list[tuple[int, str]]:
        """Return the condition of a choice for each side, and that of a filter."""
        constants = {"test": ("True", "False"), "comp_if": ("False",)}.get(node.type, ())
        return [(node.children.index("if") + 1, constant) for constant in constants]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return what it does to a line."""
        return (Example("a if x else b\n", "a if True else b\n"),)


def _is_exit(suite: Any) -> bool:
    last = suite.children[-1] if suite.type == "suite" else suite
    return last.get_first_leaf().value in _EXITS


# what every test imports and no mutant changes, so that a child has it already
for _heavy in ("numpy", "onnx.reference", "onnx_ir", "pydantic", "torch"):
    import_module(_heavy)
plugins.OPERATOR_PROVIDERS["conditions"] = {"GuardOff": GuardOff, "OneChoice": OneChoice}


@dataclass(frozen=True)
class Mutant:
    """What an operator of cosmic-ray does to a place of a module, whose tests a group has."""

    group: int
    path: Path
    operator: str
    occurrence: int
    place: tuple[int, int]

    @property
    def kind(self) -> Operator:
        """The operator."""
        return plugins.get_operator(self.operator)()

    @cached_property
    def lines(self) -> tuple[str, str]:
        """What it replaces, and by what; the same where it changes no more than annotations."""
        before = self.path.read_text()
        after = mutate_code(before, self.kind, self.occurrence)
        if after is None or _meaning(before) == _meaning(after):
            return "", ""
        old, new = ([line.strip() for line in text.splitlines()] for text in (before, after))
        while old and new and old[0] == new[0]:
            old, new = old[1:], new[1:]
        while old and new and old[-1] == new[-1]:
            old, new = old[:-1], new[:-1]
        return " ".join(old), " ".join(new)

    @property
    def key(self) -> str:
        """What tells it from all others of the same code."""
        return f"{self.path} {self.operator} {self.occurrence}"

    @property
    def name(self) -> str:
        """Say what it is, whatever line it is in."""
        return f"{self.path}: `{self.lines[0]}` → `{self.lines[1]}`"


def mutants_of(path: Path, group: int) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    nodes = list(ast_nodes(get_ast(path.read_text())))
    for name in plugins.operator_names():
        kind = plugins.get_operator(name)
        if not kind.arguments():
            places = (start for node in nodes for start, _ in kind().mutation_positions(node))
            for occurrence, place in enumerate(places):
                yield Mutant(group, path, name, occurrence, place)


def _meaning(source: str) -> str | None:
    """Return a source without its annotations, which nothing evaluates; None: it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def drawn(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return every guard switched off, and of so many other places one mutant each."""
    places: dict[tuple[Path, tuple[int, int]], list[Mutant]] = {}
    for mutant in mutants:
        if mutant.operator != GUARD:
            places.setdefault((mutant.path, mutant.place), []).append(mutant)
    rng = random.Random(seed)
    shuffled = rng.sample(sorted(places), len(places))
    others = (rng.choice(places[place]) for place in shuffled)
    sample = islice((mutant for mutant in others if any(mutant.lines)), count)
    return [mutant for mutant in mutants if mutant.operator == GUARD] + list(sample)


def copy_project(folder: Path) -> None:
    """Copy what git knows, and what it would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    # a mutant is told from what is compiled already by its text, whatever the clock says
    compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)


def _test(tests: list[str]) -> None:
    """Run tests until one fails, without a word, and end with 0 where none does."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:warnings", *tests])))


def outcome_of(tests: list[str], timeout: float) -> str:
    """Run tests in a child that has what takes long to import: ``survived`` means that all pass."""
    child = get_context("fork").Process(target=_test, args=(tests,))
    child.start()
    child.join(timeout)
    if not child.is_alive():
        return KILLED if child.exitcode else SURVIVED
    child.kill()
    child.join()
    return LATE


def run(config: dict[str, Any], known: dict[str, str]) -> dict[Mutant, str]:
    """Return what became of each mutant that was tried, in a copy of the project.

    ``known`` says what became of others, and grows; what was killed before is not run again.
    """
    groups = config["groups"]
    for group in groups:
        if outcome_of(group["tests"], 10 * config["timeout_s"]) != SURVIVED:
            raise SystemExit(f"tests fail without a mutant: {group['modules']}")
    sys.dont_write_bytecode = True  # the tests' is there by now, and a mutant's is not wanted
    mutants = [
        mutant
        for number, group in enumerate(groups)
        for module in group["modules"]
        for mutant in mutants_of(Path(module), number)
    ]
    tried = drawn(mutants, config["sample"], config["seed"])
    for number, mutant in enumerate(tried, 1):
        started = time.monotonic()
        if known.get(mutant.key) not in (KILLED, LATE):
            with use_mutation(mutant.path, mutant.kind, mutant.occurrence):
                tests = groups[mutant.group]["tests"]
                known[mutant.key] = outcome_of(tests, config["timeout_s"])
            STATE.write_text(json.dumps(known, indent=1))
        seconds = time.monotonic() - started
        outcome = known[mutant.key]
        print(f"{number}/{len(tried)} {outcome} {seconds:.0f} s  {mutant.name}", flush=True)
    return {mutant: known[mutant.key] for mutant in tried}


def page(config: dict[str, Any], outcomes: dict[Mutant, str], again: bool) -> str:
    """Return the text of the page; ``again``: what former tests killed was not run again."""
    reasons = {entry["mutant"]: entry["why"] for entry in config.get("survivors", ())}
    guards = [mutant for mutant in outcomes if mutant.operator == GUARD]
    others = [mutant for mutant in outcomes if mutant.operator != GUARD]
    modules = sorted({mutant.path for mutant in outcomes})
    of_module = {path: [m for m in outcomes if m.path == path] for path in modules}
    rows = [("guards", guards), ("others", others), ("all", list(outcomes)), *of_module.items()]
    git = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    table = (_row(str(name), [outcomes[m] for m in mutants]) for name, mutants in rows)
    lines = (
        f"- {m.name}: {reasons.get(m.name, NOT_EXPLAINED)}"
        for m, outcome in outcomes.items()
        if outcome == SURVIVED
    )
    return PAGE_TEXT.format(
        commit=git.stdout.strip(),
        date=time.strftime("%Y-%m-%d"),
        seed=config["seed"],
        again=AGAIN if again else "",
        timeout=config["timeout_s"],
        aim=f"{config['aim']:.0%}",
        rows="\n".join(table),
        survivors="\n".join(lines) or "None.",
    )


def _row(name: str, outcomes: list[str]) -> str:
    killed, late = outcomes.count(KILLED), outcomes.count(LATE)
    share = (killed + late) / len(outcomes)
    return f"| {name} | {len(outcomes)} | {killed} | {late} | {share:.0%} |"


def main() -> int:
    """Run the mutants, write the page, and say whether enough of them were noticed."""
    again = sys.argv[1:] == ["--survivors"]
    known = json.loads(STATE.read_text()) if again else {}
    STATE.parent.mkdir(exist_ok=True)
    config = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        os.chdir(folder)
        os.environ["PYTHONPATH"] = folder
        outcomes = run(config, known)
        text = page(config, outcomes, again)
        os.chdir(ROOT)
    PAGE.write_text(text)
    killed = len(outcomes) - list(outcomes.values()).count(SURVIVED)
    print(f"{killed} of {len(outcomes)} killed; written to {PAGE}")
    return int(killed < config["aim"] * len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
