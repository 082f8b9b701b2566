"""``ropeexport report PATH``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ropeexport.cli.options import report_options, say_forms, schema_option


@click.command(name="report")
@click.argument("path", type=click.Path(path_type=Path))
@report_options
@schema_option("parity")
def command(path: Path, **given: Any) -> None:
    """Show a parity run again, and write it as HTML, Markdown or JUnit XML.

    PATH is a parity.json, or the output folder that holds it.  Nothing is run: a report made on a
    GPU server can be read anywhere.
    """
    import ropeexport
    from ropeexport.parity import report as reports

    reports.print_report(ropeexport.report(path, **given))
    say_forms(given)
