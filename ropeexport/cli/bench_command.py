"""``ropeexport bench DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ropeexport.cli.options import lengths_option, module_option, schema_option, seed_option

_FAILED = ("WRONG", "FAILED")


def _words(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


@click.command(name="bench")
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="NAME[,NAME...]",
    callback=_words,
    help="Contenders: eager, ropeexport-bare, plain, ort-optimizer, optimum, compile, openvino, "
    "openvino-plain, tensorrt (or -plugin, -native, -decomposed, -plain), without-rope.  "
    "[default: all]",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="[default: cuda where torch sees a GPU, else cpu]",
)
@lengths_option("[default: the profile's optimum]")
@module_option
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Turns.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Runs in a turn; on a GPU, stretches.",
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: the number of cores]")
@seed_option
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@schema_option("bench")
def command(path: Path, as_json: bool, **given: Any) -> None:
    """Measure an export against what you would run instead, side by side.

    Each contender has a process of its own, is held to the parity bound before it is timed, and
    takes turns with the others.  Writes DIR/bench.json and DIR/bench.png.  One that is missing here
    is SKIPPED with its reason; one that computes something else is WRONG and not timed.  On a GPU,
    inputs lie there beforehand, CUDA events time stretches of calls, and TensorRT's engines are
    built for the run, DIR's own left alone.
    """
    from rich.console import Console

    import ropeexport
    from ropeexport.bench import show
    from ropeexport.bench.records import CHART_NAME, FILE_NAME, OURS
    from ropeexport.errors import EXIT_FAILURE, MissingError

    def say(name: str, text: str, ok: bool) -> None:
        click.echo(f"{'✓' if ok else '-'} {name}: {text}", err=True)

    found = ropeexport.bench(path, say=say, **given)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = max(console.width, 120)
        console.print(show.render(found))
        click.echo(f"report: {path / FILE_NAME}, {path / CHART_NAME}")
    ours = next(record for record in found.contenders if record.name == OURS)
    if ours.status in _FAILED:
        raise SystemExit(EXIT_FAILURE)
    if ours.status == "SKIPPED":
        raise MissingError(f"{ours.label} was not timed: {ours.reason}")
