"""The options that write a parity report in further forms, shared by ``check`` and ``report``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ropeexport.parity.records import Report

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


def require_for(given: dict[str, Any]) -> None:
    """Raise before a long run where a form asks for a package that is not installed."""
    if given.get("html"):
        from ropeexport.packages import require

        require("jinja2", "matplotlib")


def write_forms(report: Report, given: dict[str, Any], folder: Path) -> None:
    """Write every form that was asked for, with the benchmark of ``folder``, and say where."""
    from importlib import import_module

    from ropeexport import atomic

    for name in _FORMS:
        if given.get(name):
            render = import_module(f"ropeexport.report.{name}").render
            text = render(report, _speed(folder)) if name == "html" else render(report)
            atomic.write_text(given[name], text)
            click.echo(f"{name}: {given[name]}", err=True)


def _speed(folder: Path) -> bytes | None:
    """Return the chart of the benchmark of a folder, where there is one."""
    from ropeexport.bench import show
    from ropeexport.bench.records import FILE_NAME, Bench

    path = folder / FILE_NAME
    if not path.is_file():
        return None
    return show.chart(Bench.model_validate_json(path.read_bytes()))
