#!/usr/bin/env python3
"""Count the lines of code of the package and its benchmarks, as ``docs/design.md`` has them.

A line counts that holds a token of code.  Comments, blank lines and docstrings do not count; nor do
checks and their messages: ``raise`` and ``assert``, and an ``if`` that does nothing else.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[1]
COUNTED = ("ropeexport", "benchmarks")
_NOTHING = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(source: str) -> int:
    """Return how many lines of a source count."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOTHING:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - set(_uncounted(ast.parse(source))))


def _uncounted(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.Assert) or _is_docstring(node):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)
        elif isinstance(node, ast.If) and not node.orelse and _raises(node.body):
            yield from range(node.lineno, node.body[0].lineno)


def _is_docstring(node: ast.AST) -> TypeGuard[ast.Expr]:
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)  # type: ignore[attr-defined]


def _raises(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Raise)


def main() -> None:
    """Print the lines of each folder, the largest first, and all."""
    found: Counter[str] = Counter()
    for top in COUNTED:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).parts
            found["/".join(parts[:2]) if len(parts) > 2 else top] += code_lines(path.read_text())
    for folder, count in found.most_common():
        print(f"{count:6} {folder}")
    print(f"{found.total():6} all")


if __name__ == "__main__":
    sys.exit(main())
