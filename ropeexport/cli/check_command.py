"""``ropeexport check DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropeexport.cli.options import (
    lengths_option,
    module_option,
    report_options,
    say_forms,
    schema_option,
    seed_option,
)
from ropeexport.runners.registry import chosen, names

if TYPE_CHECKING:
    from ropeexport.parity.records import Report

_ALL = ", ".join(runtime.name for runtime in chosen())


@click.command(name="check")
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("candidate", required=False, type=click.Path(path_type=Path))
@module_option
@click.option("--cases", type=click.IntRange(min=1), help="Number of cases.  [default: designed]")
@seed_option
@lengths_option("Lengths to check, whatever they cost.")
@click.option(
    "--require",
    multiple=True,
    metavar="NAME",
    type=click.Choice(names()),
    help="Exit with code 3 if this runtime cannot run; repeatable.",
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    metavar="NAME",
    type=click.Choice(names()),
    help=f"Only this runtime; repeatable: {', '.join(names())}.  [default: {_ALL}]",
)
@click.option("--atol", type=click.FloatRange(min=0), help="Absolute bound in place of ours.")
@click.option("--rtol", type=click.FloatRange(min=0), help="Relative bound in place of ours.")
@click.option("--locate", is_flag=True, help="On a failure, find the first tensor that departs.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@report_options
@schema_option("parity")
def command(path: Path, candidate: Path | None, as_json: bool, **given: Any) -> None:
    """Prove how far each runtime is from a float64 oracle.

    Compares eager torch, onnxruntime and the engine with the exact result over the corners of the
    profile, lengths off the optimum and both ways to broadcast, each with FLUX's positions, random
    rotations and random matrices.  Writes DIR/parity.json.

    With a CANDIDATE, an .onnx file or an .npz of saved inputs and outputs, compares it with the
    .onnx file (or the folder) in front of it instead; that needs no torch and writes nothing by
    itself.  With --locate both are .onnx files, whose tensors of the same name are compared.
    """
    from ropeexport.api.proving import run_check
    from ropeexport.cli.check_progress import CheckProgress
    from ropeexport.parity import report as reports
    from ropeexport.parity.records import FILE_NAME

    with CheckProgress() as progress:
        report = run_check(path, candidate, listener=progress, **given)
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    else:
        reports.print_report(report)
        if candidate is None:
            click.echo(f"report: {path / FILE_NAME}")
    say_forms(given)
    _exit(report, given["require"])


def _exit(report: Report, required: tuple[str, ...]) -> None:
    """Exit 1 for a failure, 3 where what was required, or everything, could not run here."""
    from ropeexport.api.proving import absent_of
    from ropeexport.errors import EXIT_FAILURE, EXIT_MISSING, EXIT_PASS

    failed = any(runtime.status == "FAIL" for runtime in report.runtimes)
    absent = absent_of(report, required)
    for line in absent:
        click.echo(f"error: {line}", err=True)
    nothing_ran = report.complete and report.verdict == "FAIL" and not failed
    if (absent or nothing_ran) and not failed:
        raise SystemExit(EXIT_MISSING)
    raise SystemExit(EXIT_PASS if report.verdict == "PASS" else EXIT_FAILURE)
