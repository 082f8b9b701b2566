"""``python -m mutants``: break the export in every way of the catalogue; each must be caught."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import click
from rich.console import Console

from benchmarks.machine import measured
from mutants import document
from mutants.catalogue import EQUIVALENTS, MUTANTS
from mutants.mutant import Equivalent, Mutant
from mutants.trial import Court, Outcome

Subject = Mutant | Equivalent


@click.command()
@click.option("--only", default="", metavar="TEXT", help="Names that hold TEXT.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Begin nothing after so many; the order is the commit's own then.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the cases.")
@click.option("--record", is_flag=True, help="Write docs/faults.md and the score for reports.")
def main(only: str, minutes: float | None, seed: int, record: bool) -> None:
    """Try every mutant, print the score, and exit 1 below 100 %."""
    if record and (only or minutes):
        raise click.UsageError("--record writes the score of all: leave out --only and --minutes")
    console = Console(width=120, highlight=False, soft_wrap=True)
    subjects: list[Subject] = [x for x in (*MUTANTS, *EQUIVALENTS) if only in x.name]
    if minutes:
        random.Random(str(measured().get("commit"))).shuffle(subjects)
    until = time.monotonic() + minutes * 60 if minutes else math.inf
    with Court(seed) as court:
        tried = [*_tried(court, subjects, until, not only, console)]
    caught, proven = (
        [outcome.as_expected for outcome in tried if isinstance(outcome.subject, kind)]
        for kind in (Mutant, Equivalent)
    )
    if record:
        document.write(sum(caught), len(caught))
    left = len(subjects) - len({outcome.subject.name for outcome in tried})
    if left:
        console.print(f"NOT RUN: {left} of {len(subjects)}: the {minutes:g} minutes are over")
    console.print(f"{sum(proven)} of {len(proven)} equivalents unseen, not counted")
    console.print(f"{sum(caught)} of {len(caught)} caught")
    sys.exit(0 if caught and all(caught) and all(proven) else 1)


def _tried(
    court: Court, subjects: Iterable[Subject], until: float, control: bool, console: Console
) -> Iterator[Outcome]:
    """Yield what becomes of each in each type.

    With ``control``, nothing is caught of a model that fails unbroken: a judge who fails everything
    catches everything.
    """
    wrong: dict[tuple[str, str], str] = {}
    for subject in subjects:
        if time.monotonic() > until:
            return
        for outcome in court.trials(subject):
            model = (subject.kind, outcome.dtype)
            if control and model not in wrong:
                wrong[model] = court.control(*model)
            found = outcome
            if wrong.get(model):
                found = replace(outcome, as_expected=False, where=f"unbroken: {wrong[model]}")
            _show(found, console)
            yield found


def _show(outcome: Outcome, console: Console) -> None:
    mark = "[green]✓[/]" if outcome.as_expected else "[red]✗[/]"
    word = "caught" if isinstance(outcome.subject, Mutant) else "equivalent"
    console.print(f"{mark} {word:10} {outcome.dtype:5} {outcome.subject.name}: ", end="")
    console.print(outcome.where, markup=False)


if __name__ == "__main__":
    main()
