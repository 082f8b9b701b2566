"""Options that several verbs have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FORMS = {
    "html": "One self-contained page with plots.",
    "markdown": "For a pull request or a CI job's summary.",
    "junit": "JUnit XML for CI.",
}
_AXIS = re.compile(r"(?P<name>[^=]+)=(?P<min>\d+):(?P<opt>\d+):(?P<max>\d+)")

output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Output folder."
)
require_rope_option = click.option(
    "--require-rope", type=int, help="Fail unless so many rotary applications are found."
)
max_position_option = click.option(
    "--max-position",
    type=int,
    default=1_049_599,
    show_default=True,
    help="Largest position that tables of exact angles hold; angles are NaN beyond.",
)
attention_option = click.option(
    "--attention",
    type=click.Choice(["standard", "blocks"]),
    default="standard",
    show_default=True,
    help="blocks: keep memory small on long sequences in a bare onnxruntime too, by an op of its "
    "own.",
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Print each pass over the graph, and what it did."
)
module_option = click.option(
    "--module", metavar="REF", help="Factory of your own to import: FILE.py:NAME."
)
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the inputs."
)


def _axes(
    _: click.Context, __: click.Parameter, texts: tuple[str, ...]
) -> dict[str, tuple[int, int, int]] | None:
    """Return ``length=1:512:4096`` as numbers."""
    axes = {}
    for text in texts:
        match = _AXIS.fullmatch(text)
        if match is None:
            raise click.BadParameter(f"expected NAME=MIN:OPT:MAX, got {text!r}")
        axes[match["name"]] = (int(match["min"]), int(match["opt"]), int(match["max"]))
    return axes or None


axis_option = click.option(
    "--axis",
    "axes",
    metavar="NAME=MIN:OPT:MAX",
    multiple=True,
    callback=_axes,
    help="Sizes that a dynamic axis is meant for; repeatable.  [default: printed by the export]",
)


def _lengths(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Return ``1,17,1024`` as numbers; none where the option was not given."""
    try:
        lengths = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"expected lengths as 1,17,1024, got {text!r}") from None
    if any(length < 1 for length in lengths):
        raise click.BadParameter(f"expected lengths of at least 1, got {text!r}")
    return lengths


def lengths_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return ``--lengths`` with a help text."""
    return click.option("--lengths", metavar="L[,L...]", callback=_lengths, help=text)


def schema_option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return ``--schema``, which prints the schema of ``NAME.json``."""

    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            from ropeexport import schemas

            click.echo(schemas.render(name), nl=False)
            ctx.exit()

    return click.option(
        "--schema",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help=f"Print the JSON schema of {name}.json and exit.",
    )


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--html``, ``--markdown`` and ``--junit``."""
    for name, text in reversed(_FORMS.items()):
        path = click.Path(path_type=Path, dir_okay=False)
        command = click.option(f"--{name}", type=path, metavar="PATH", help=text)(command)
    return command


def say_forms(given: dict[str, Any]) -> None:
    """Say where each form that was asked for lies."""
    for name in _FORMS:
        if given.get(name):
            click.echo(f"{name}: {given[name]}", err=True)
