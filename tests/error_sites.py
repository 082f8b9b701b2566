"""Where the package makes an error of its own: its code, the words of its message, its entry.

Read from the source, so that a message counts although no test provokes it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from command_line import ROOT

PACKAGE = ROOT / "ropeexport"
CODE = re.compile(r"RX\d{3}")
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ENTRY = re.compile(
    r"^### (?P<code>RX\d{3}): (?P<title>[^\n]+)\n\n```text\n[Ee]rror: (?P<example>[^`]+?)\s"
    r"\[(?P=code)\]\n```\n\n(?P<text>[^#][^\n].+?\*\*Do:\*\*\s.+?)(?=\n\n#|\s*\Z)",
    re.MULTILINE | re.DOTALL,
)
ENTRIES = {entry["code"]: entry for entry in ENTRY.finditer(PAGE)}


@dataclass(frozen=True)
class Site:
    """``code``: None where none is given; ``patterns``: what its message may look like."""

    module: str
    line: int
    code: str | None
    patterns: tuple[str, ...]


@cache
def modules() -> dict[str, ast.Module]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in paths}


@cache
def error_classes() -> dict[str, ast.ClassDef]:
    every = [c for t in modules().values() for c in ast.walk(t) if isinstance(c, ast.ClassDef)]
    found: dict[str, ast.ClassDef] = {}
    names = {"RopeExportError"}
    while len(names) > len(found):
        found = {c.name: c for c in every if c.name in names}
        names |= {c.name for c in every if names & {name_of(base) for base in c.bases}}
    return found


def makes_its_text(name: str) -> bool:
    """Whether a class, or one that it is made of, has an ``__init__`` that takes no code."""
    if name == "RopeExportError" or name not in error_classes():
        return False
    made = error_classes()[name]
    own = [f for f in made.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    if own:
        return "code" not in {a.arg for a in (*own[0].args.args, *own[0].args.kwonlyargs)}
    return any(makes_its_text(name_of(base)) for base in made.bases)


def code_of_class(name: str) -> str | None:
    for statement in error_classes()[name].body:
        if isinstance(statement, ast.Assign) and name_of(statement.targets[0]) == "code":
            return literal(statement.value)
    return None


def sites() -> list[Site]:
    return [
        site
        for module, tree in modules().items()
        if module != "errors.py"
        for call in made_in(tree)
        for site in [site_of(module, tree, call)]
    ]


def made_in(tree: ast.Module) -> Iterator[ast.Call]:
    """Give each call of an error's class, and of a local name that stands for several."""
    local = {
        name_of(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp)
        if {name_of(node.value.body), name_of(node.value.orelse)} <= set(error_classes())
        for target in node.targets
    }
    local |= {  # def read(path: Path, kind: type[RopeExportError])
        node.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Subscript)
        if name_of(node.annotation.value) == "type"
        and name_of(node.annotation.slice) in error_classes()
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in local | set(error_classes()):
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if owner is None or name_of(owner) != "click":  # click has a UsageError of its own
                yield node


def site_of(module: str, tree: ast.Module, call: ast.Call) -> Site:
    name = name_of(call.func)
    if makes_its_text(name):
        handed_on = [
            node.args
            for node in ast.walk(error_classes()[name])
            if isinstance(node, ast.Call) and name_of(node.func) == "__init__"
        ]
        given = [*handed_on[0], *call.args]
        return Site(
            module,
            call.lineno,
            code_of_class(name),
            tuple(p for a in given for p in patterns(tree, a)),
        )
    code = next((literal(k.value) for k in call.keywords if k.arg == "code"), None)
    return Site(module, call.lineno, code, tuple(patterns(tree, call.args[0])))


def patterns(tree: ast.Module, node: ast.expr, depth: int = 3) -> list[str]:
    """Return what an expression's text may look like, as regular expressions."""
    match node:
        case ast.Constant(value=str(text)):
            return [re.escape(text)]
        case ast.JoinedStr(values=values):
            parts = [re.escape(v.value) if isinstance(v, ast.Constant) else ".*" for v in values]
            return ["".join(parts)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            ends = patterns(tree, right, depth)
            return [a + b for a in patterns(tree, left, depth) for b in ends]
        case ast.IfExp(body=body, orelse=orelse):
            return patterns(tree, body, depth) + patterns(tree, orelse, depth)
        case ast.Call() if depth:
            return [
                pattern
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef) and function.name == name_of(node.func)
                for returned in ast.walk(function)
                if isinstance(returned, ast.Return) and returned.value is not None
                for pattern in patterns(tree, returned.value, depth - 1)
            ] or [".*"]
    return [".*"]


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
