"""``python -m benchmarks.models``: a record for each class with RoPE, and docs/models.md of them.

Only what is missing or stale is made, so that a run that was ended goes on; ``--discover`` lists
the classes of the libraries that are installed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click

from benchmarks.commands import worker
from benchmarks.machine import measured
from benchmarks.models import records
from benchmarks.models.causes import cause_of
from benchmarks.models.discovery import Class, discovered
from benchmarks.models.page import write_page
from benchmarks.models.records import Key, Parity, Record

_LIMIT = 900.0  # seconds of a class
_LONG = 180.0  # of one that is made again only where it is named
_WORKER = "benchmarks.models.worker"


@click.command(help=__doc__)
@click.option("--discover", is_flag=True, help="List the libraries' classes, and what is known.")
@click.option("--only", multiple=True, metavar="CLASS", help="This one anew; may be repeated.")
@click.option(
    "--again",
    type=click.IntRange(min=1),
    metavar="N",
    help="Make so many again, chosen by the commit; exit 1 where one differs.",
)
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the records: of another release, say, that PYTHONPATH has.",
)
@click.option("--minutes", type=click.FloatRange(min=0), help="Begin no class after so many.")
@click.option("--jobs", default=min(2, os.cpu_count() or 1), show_default=True)
def command(
    discover: bool,
    only: tuple[str, ...],
    again: int | None,
    into: Path | None,
    minutes: float | None,
    jobs: int,
) -> None:
    """List classes, or run them."""
    folder = into or records.FOLDER
    found, known = discovered(), records.read(folder)
    if discover:
        for each in found:
            click.echo(f"{each.model}{_state(known.get(each.model))}")
        return
    if again is not None:
        drawn = _drawn(found, known, again)
        apart = {name for name, record in known.items() if record.norms is None}
        made = [*_made(drawn, {}, jobs, minutes, apart)]
        changed = [line for record in made for line in _changes(known[record.model], record)]
        if len(made) < len(drawn):
            click.echo(f"NOT RUN: {len(drawn) - len(made)} of {len(drawn)}: the time was over")
        click.echo("\n".join(changed) or "nothing has changed")
        sys.exit(int(bool(changed)))
    models = [each for each in found if {each.name, each.model} & {*only}] if only else found
    if only and len(models) < len(set(only)):
        raise click.UsageError(f"expected classes that --discover lists, got {', '.join(only)}")
    keys = _keys(models)
    wanted = models if only else list(records.outdated(models, keys, known))
    click.echo(f"{len(wanted)} of {len(models)} classes are to be tried, by {jobs} processes")
    unknown = []
    for number, record in enumerate(_made(wanted, keys, jobs, minutes), 1):
        records.write(record, folder)
        write_page()
        click.echo(f"{number}/{len(wanted)} {record.model}{_state(record)}")
        if record.fault() and cause_of(record) is None:
            unknown.append(record.model)
    click.echo(f"not explained: {', '.join(unknown)}" if unknown else "nothing is unexplained")
    sys.exit(int(bool(unknown)))


def _state(record: Record | None) -> str:
    """Return what the list says of a class beside its name."""
    if record is None:
        return "  not tried"
    if record.eager or not record.rotates:
        return f"  {f'eager: {record.eager}' if record.eager else 'it rotates nothing'}"
    return f"  {record.fault() or 'good'}"


def _drawn(found: Sequence[Class], known: dict[str, Record], count: int) -> list[Class]:
    """Return some classes with records, of which the same commit draws the same.

    Those that were ended, or took minutes, are not among them.
    """
    commit = measured().get("commit")
    kept = [
        each
        for each in found
        if each.model in known and 0 < sum(known[each.model].seconds.values()) < _LONG
    ]
    return random.Random(str(commit)).sample(kept, min(count, len(kept)))


def _changes(former: Record, made: Record) -> Iterator[str]:
    """Yield what a record says otherwise; the words of a known cause may be in another order."""
    cause = cause_of(former)
    is_same_cause = cause is not None and cause is cause_of(made)
    for key, (old, new) in former.difference(made).items():
        if is_same_cause and key in ("fp32", "fp16") and _outcome(old) == _outcome(new):
            continue
        yield f"{made.model}: {key}: expected {old}, as recorded, got {new}"


def _outcome(parity: dict[str, Any]) -> tuple[str, bool]:
    return parity["verdict"], bool(parity["fault"])


def _keys(models: Sequence[Class]) -> dict[str, Key]:
    found: dict[str, Any] = worker(_WORKER, "keys", *(each.model for each in models))
    return {name: Key.model_validate(key) for name, key in found.items()}


def _made(
    models: Sequence[Class],
    keys: dict[str, Key],
    jobs: int,
    minutes: float | None,
    apart: Container[str] = (),
) -> Iterator[Record]:
    """Yield the record of each class, as they are made; norms stay ``apart`` of those so named."""
    until = time.monotonic() + minutes * 60 if minutes is not None else float("inf")
    origin = measured("benchmarks/models")

    def make(model: Class) -> Record | None:
        if time.monotonic() > until:
            return None
        try:
            fuse = "rope" if model.model in apart else "norm-rope"
            record = Record.model_validate(worker(_WORKER, model.model, fuse, limit=_LIMIT))
        except SystemExit as error:  # it was killed, or ended the process
            key = keys.get(model.model) or _keys([model])[model.model]
            fault = Parity(fault=str(error)[:200])
            record = Record(library=model.library, name=model.name, key=key, fp32=fault)
        return record.model_copy(update={"measured": origin})

    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed(pool.submit(make, model) for model in models):
            record = done.result()
            if record is not None:
                yield record


if __name__ == "__main__":
    command()
