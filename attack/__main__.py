"""``python -m attack``: broken inputs, kills, races and strangers' folders against the commands."""

from __future__ import annotations

import json
import os
import sys
import time

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attack import inputs
from attack.finding import KINDS
from attack.session import PLACE, Budget, Session, attack

PARTS = ("corpus", "strangers", "kills", "races", *inputs.PARTS)
LONG = {"inputs": 20_000, "kills": 300, "races": 100, "alone": 20}
LONG_MINUTES = 115.0


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0), help="Time for all.  [default: 15]")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
@click.option("--long", is_flag=True, help="20,000 inputs, 300 kills, 100 races; under 2 hours.")
@click.option("--only", default="", type=click.Choice(["", *PARTS]), help="One part.")
@click.option("--after", default=0, help="Go on behind so many inputs, which were tried before.")
@click.option("--workers", default=min(2, os.cpu_count() or 1), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def main(
    minutes: float | None,
    seed: int,
    long: bool,
    only: str,
    after: int,
    workers: int,
    as_json: bool,
) -> None:
    """Attack the command line, print what was tried and found, and exit 1 where anything was."""
    if minutes is None:
        minutes = LONG_MINUTES if long else 15.0
    console = Console(width=150, highlight=False, soft_wrap=True, emoji=False, stderr=as_json)
    session = Session(lambda line: console.print(f"[red]✗[/] {escape(repr(line)[1:-1])}"))
    started = time.monotonic()
    few = {"inputs": 10**9, "kills": 20, "races": 10, "alone": 50}
    if minutes < 10:
        few |= {"kills": 6, "races": 3}
    numbers = LONG if long else few
    attack(session, Budget(minutes, **numbers, workers=workers, after=after), seed, only)
    if as_json:
        click.echo(json.dumps(counts(session), indent=1))
    _show(session, console, seed, time.monotonic() - started)
    missed = not_reached(session, after) if long and not only else []
    for line in missed:
        console.print(line)
    sys.exit(1 if session.found or session.broken or missed or not sound(session) else 0)


def not_reached(session: Session, after: int = 0) -> list[str]:
    """Return what of a long attack's numbers the time was too short for.

    One that goes on ``after`` some inputs has no kills and races of its own.
    """
    tried = {"inputs": session.tried + after}
    if not after:
        tried |= {part: session.count(part) for part in ("kills", "races")}
    return [
        f"{number:,} {part} of {LONG[part]:,}: the time was up"
        for part, number in tried.items()
        if number < LONG[part]
    ]


def sound(session: Session) -> bool:
    """Say whether enough inputs got past the first parser for the rest to mean something."""
    return session.further * 2 >= session.tried


def counts(session: Session) -> list[dict[str, object]]:
    """Return the table's rows."""
    return [
        {"part": part, "verb": verb, "tried": row.tried, "further": row.further, **row.wrong}
        for (part, verb), row in sorted(session.rows.items())
    ]


def _show(session: Session, console: Console, seed: int, seconds: float) -> None:
    table = Table("part", "verb", "tried", "rejected first", "further", *KINDS)
    for (part, verb), row in sorted(session.rows.items()):
        numbers = [row.tried, row.tried - row.further, row.further]
        wrong = [str(row.wrong[kind] or "") for kind in KINDS]
        table.add_row(part, escape(verb), *map(str, numbers), *wrong)
    console.print(table)
    for number, (key, finding) in enumerate(session.found.items(), start=1):
        console.print(f"{number}. {finding.kind}, {session.times[key]} times: ", end="")
        console.print(escape(repr(f"{finding.text} | {finding.how}")[1:-1]))
    if session.found:
        console.print(f"with files and commands: {PLACE}/FINDING-*")
    share = f"{session.further} of {session.tried} inputs got past the first parser"
    console.print(f"seed {seed}, {seconds:.0f} s: {share}; {len(session.found)} findings")
    if session.broken:
        console.print(f"{session.broken} inputs could not be made: mend the attacks")
    if not sound(session):
        console.print("too few got past the first parser")


if __name__ == "__main__":
    main()
