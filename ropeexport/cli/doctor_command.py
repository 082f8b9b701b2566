"""``ropeexport doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ropeexport.doctor import Diagnosis


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show versions and what is missing, with the command that brings it.

    Exit code 0 where export, onnxruntime and one TensorRT are there, else 3.
    """
    import ropeexport
    from ropeexport.errors import EXIT_MISSING, EXIT_PASS

    diagnosis = ropeexport.doctor()
    text = diagnosis.model_dump_json(indent=2) if as_json else "\n".join(_lines(diagnosis))
    click.echo(text)
    context.exit(EXIT_PASS if diagnosis.ok else EXIT_MISSING)


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield f"ropeexport {diagnosis.ropeexport}"
    for item in diagnosis.items:
        mark = "✓" if item.found else "✗" if item.name in diagnosis.missing else "-"
        state = item.found or f"not here (for {item.purpose}); {item.cure}"
        yield f"{mark} {item.name:13} {state}"
    if diagnosis.missing:
        yield f"missing: {', '.join(diagnosis.missing)}"
    else:
        yield "export, check and build can run here"
