"""The options that write a parity report in further forms, shared by ``check`` and ``report``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FORMS = {
    "html": "One self-contained page with plots.",
    "markdown": "For a pull request or a CI job's summary.",
    "junit": "JUnit XML for CI.",
}


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--html``, ``--markdown`` and ``--junit``."""
    for name, text in reversed(_FORMS.items()):
        path = click.Path(path_type=Path, dir_okay=False)
        command = click.option(f"--{name}", type=path, metavar="PATH", help=text)(command)
    return command


def _print_schema(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from ropeexport.report import schema

        click.echo(schema.render(), nl=False)
        ctx.exit()


schema_option = click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON schema of parity.json and exit.",
)


def say_forms(given: dict[str, Any]) -> None:
    """Say where each form that was asked for lies."""
    for name in _FORMS:
        if given.get(name):
            click.echo(f"{name}: {given[name]}", err=True)
