"""``python -m mutants``: break the export in every way of the catalogue; each must be caught."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from mutants import document
from mutants.catalogue import EQUIVALENTS, MUTANTS
from mutants.decoders import DECODERS
from mutants.models import KINDS
from mutants.mutant import ALL
from mutants.trial import Court, Outcome


@click.command()
@click.option("--only", default="", metavar="TEXT", help="Names that hold TEXT.")
@click.option("--seed", default=0, show_default=True, help="Seed of the cases.")
@click.option("--record", is_flag=True, help="Write docs/faults.md and the score for reports.")
def main(only: str, seed: int, record: bool) -> None:
    """Try every mutant, print the score, and exit 1 below 100 %."""
    console = Console(width=120, highlight=False, soft_wrap=True)
    with Court(seed) as court:
        sound = only != "" or _controls(court, console)
        caught = _try(court, [m for m in MUTANTS if only in m.name], "caught", console)
        proven = _try(court, [e for e in EQUIVALENTS if only in e.name], "equivalent", console)
    score = sum(outcome.as_expected for outcome in caught)
    equivalents = sum(outcome.as_expected for outcome in proven)
    if record and not only:
        document.write(score, len(caught))
    console.print(f"{equivalents} of {len(proven)} equivalents unseen, not counted")
    console.print(f"{score} of {len(caught)} caught")
    sys.exit(0 if sound and score == len(caught) > 0 and equivalents == len(proven) else 1)


def _controls(court: Court, console: Console) -> bool:
    """Check that what nobody broke passes: a judge who fails everything catches everything."""
    sound = True
    for kind in (*KINDS, *DECODERS):
        for dtype in ALL if kind in KINDS else ALL[:1]:
            wrong = court.control(kind, dtype) if kind != "million" else ""
            sound &= not wrong
            if wrong:
                console.print(f"[red]✗[/] unbroken {kind} {dtype}: {wrong}")
    console.print("[green]✓[/] every unbroken model passes" if sound else "[red]✗[/] see above")
    return sound


def _try(court: Court, subjects: list, word: str, console: Console) -> list[Outcome]:  # type: ignore[type-arg]
    outcomes = []
    for subject in subjects:
        for outcome in court.trials(subject):
            mark = "[green]✓[/]" if outcome.as_expected else "[red]✗[/]"
            console.print(f"{mark} {word:10} {outcome.dtype:5} {subject.name}: ", end="")
            console.print(outcome.where, markup=False)
            outcomes.append(outcome)
    return outcomes


if __name__ == "__main__":
    main()
