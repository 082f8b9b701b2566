"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from ropeexport.manifest import Record

Severity = Literal["error", "warning", "note"]
Subject = TypeVar("Subject")
_MOST_NODES = 5


class Finding(Record):
    """What one rule found in a file."""

    rule: str
    severity: Severity
    text: str
    mend: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """A rule over a subject.

    Parameters
    ----------
    name : str
        By which a finding is named.
    severity : str
        error: wrong or unsafe results, or a runtime that refuses the file; warning: slower than it
        need be, or a limit that surprises; note: what ran.
    text : str
        What is wrong, in words that hold for every finding.
    mend : str
        What to do.
    find : callable
        From the subject to the places, each a node's name; no place, no finding.
    """

    name: str
    severity: Severity
    text: str
    mend: str
    find: Callable[[Subject], Iterable[str]]

    def findings(self, subject: Subject) -> list[Finding]:
        """Return what the rule finds: one finding for all its places."""
        nodes = tuple(dict.fromkeys(self.find(subject)))
        if not nodes:
            return []
        named = ", ".join(nodes[:_MOST_NODES])
        more = f" and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
        text = f"{self.text}: {named}{more}"
        return [
            Finding(rule=self.name, severity=self.severity, text=text, mend=self.mend, nodes=nodes)
        ]


def rule(
    name: str, severity: Severity, text: str, mend: str = ""
) -> Callable[[Callable[[Subject], Iterable[str]]], Rule[Subject]]:
    """Make a rule of the function that finds its places; see :class:`Rule`."""
    return lambda find: Rule(name, severity, text, mend, find)
