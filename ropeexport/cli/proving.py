"""``check``, ``bench`` and ``report``: the verbs that compare and measure, and what they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropeexport.cli.terminal import console, echo, echo_json, quoted, show
from ropeexport.cli.trusting import trust_options, trusted
from ropeexport.cli.types import FILE, PATH, TEXT
from ropeexport.errors import EXIT_FAILURE, UsageError
from ropeexport.given import counted
from ropeexport.plain import NAME, all_shown, shown
from ropeexport.runners.registry import chosen, names

if TYPE_CHECKING:
    from ropeexport.api.proving import Unwritten
    from ropeexport.parity.records import Report

_FORMS = {
    "html": "One self-contained page with plots.",
    "markdown": "For a pull request or a CI job's summary.",
    "junit": "JUnit XML for CI.",
}
_ALL = ", ".join(runtime.name for runtime in chosen())

_flag = partial(click.option, is_flag=True)
_shown = partial(click.option, show_default=True)
_module = click.option(
    "--module", type=TEXT, metavar="REF", help="Factory of your own to import: FILE.py:NAME."
)
_code = _flag("--trust-remote-code", help="Run the code that DIR's config of a model brings along.")
_seed = _shown("--seed", type=int, default=0, help="Seed of the inputs.")


def _lengths(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Return ``1,17,1024`` as numbers; none where the option was not given."""
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(
            f"--lengths: expected lengths as 1,17,1024, got {shown(repr(text), NAME)}", code="RX110"
        )
    return tuple(counted("--lengths", part.strip()) for part in parts)


_lengths_option = partial(
    click.option, "--lengths", type=TEXT, metavar="L[,L...]", callback=_lengths
)


def _schema_option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return ``--schema``, which prints the schema of ``NAME.json``."""

    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            echo_json(render(name).rstrip())
            ctx.exit()

    return click.option(
        "--schema",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help=f"Print the JSON schema of {name}.json and exit.",
    )


def schema(name: str) -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) that every written record of a name fulfils."""
    from ropeexport.bench.records import Bench
    from ropeexport.manifest import Record
    from ropeexport.parity.records import Report

    records: dict[str, tuple[type[Record], str]] = {
        "parity": (Report, "parity report"),
        "bench": (Bench, "benchmark"),
    }
    record, title = records[name]
    made = record.model_json_schema(mode="serialization")
    version = record.model_fields["schema_version"].default
    made["title"] = f"ropeexport {title}, schema version {version}"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def render(name: str) -> str:
    """Return the schema as the text of ``docs/NAME.schema.json``."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"


def _report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--html``, ``--markdown`` and ``--junit``."""
    for name, text in reversed(_FORMS.items()):
        command = click.option(f"--{name}", type=FILE, metavar="PATH", help=text)(command)
    return command


def _say_forms(given: dict[str, Any]) -> None:
    """Say where each form that was asked for lies."""
    for name in _FORMS:
        if given.get(name):
            echo(f"{name}: {given[name]}", err=True)


@click.command(name="check")
@click.argument("path", metavar="DIR", type=PATH)
@click.argument("candidate", required=False, type=PATH)
@_module
@click.option(
    "--pipeline",
    type=TEXT,
    metavar="REF",
    help="Compare pictures: FILE.py:NAME, a factory of your own that returns (pipeline, calls).",
)
@click.option("--cases", type=int, help="Number of cases.  [default: designed]")
@_seed
@_lengths_option(help="Lengths to check, whatever they cost.")
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
@click.option("--atol", type=float, help="Absolute bound in place of ours.")
@click.option("--rtol", type=float, help="Relative bound in place of ours.")
@click.option(
    "--tokens", type=int, help="Tokens of each generated text, with a cache.  [default: 32]"
)
@trust_options
@_code
@_flag("--locate", help="On a failure, find the first tensor that departs.")
@_flag("--json", "as_json", help="Print the report as JSON.")
@_report_options
@_schema_option("parity")
def check_command(
    path: Path, candidate: Path | None, as_json: bool, trust_remote_code: bool, **given: Any
) -> None:
    """Prove how far each runtime is from a float64 oracle.

    Compares eager torch, onnxruntime and the engine with the exact result over the corners of the
    profile, lengths off the optimum and both ways to broadcast, each with FLUX's positions, random
    rotations and random matrices.  Writes DIR/parity.json.

    With --pipeline, runs a pipeline of diffusers with the export in the place of its component, and
    holds its pictures to those of eager torch; --html shows both and their difference.  Cases run
    as well where --module, --cases or --lengths asks for them.

    With a CANDIDATE, an .onnx file or an .npz of saved inputs and outputs, compares it with the
    .onnx file (or the folder) in front of it instead; that needs no torch and writes nothing by
    itself.  With --locate both are .onnx files, whose tensors of the same name are compared.
    """
    from ropeexport.api.proving import run_check
    from ropeexport.artifact import Trust
    from ropeexport.parity import report as reports
    from ropeexport.parity.records import FILE_NAME

    trust = Trust.of(trusted(given), trust_remote_code)
    with closing(_Progress()) as progress:
        report, unwritten = run_check(path, candidate, listener=progress, trust=trust, **given)
    if as_json:
        echo_json(report.model_dump_json(indent=1))
    else:
        show(reports.render(all_shown(report)), reports.NARROWEST)
        if candidate is None and not unwritten.records:
            echo(f"report: {path / FILE_NAME}")
    _say_unwritten(unwritten)
    if unwritten.forms:
        raise SystemExit(EXIT_FAILURE)
    _say_forms(given)
    _exit(report, given["require"])


def _say_unwritten(unwritten: Unwritten) -> None:
    """Say what could not be written: a record is missed, a form that was asked for is an error."""
    echo(*(f"note: {line}" for line in unwritten.records), err=True)
    echo(*(f"error: {line} [RX710]" for line in unwritten.forms), err=True)


def _exit(report: Report, required: tuple[str, ...]) -> None:
    """Exit 1 for a failure, 3 where what was required, or everything, could not run here."""
    from ropeexport.api.proving import absent_of
    from ropeexport.errors import EXIT_MISSING, EXIT_PASS

    failed = any(runtime.status == "FAIL" for runtime in report.runtimes)
    absent = absent_of(report, required)
    for line in absent:
        echo(f"error: {line} [RX708]", err=True)
    nothing_ran = report.complete and report.verdict == "FAIL" and not failed
    if (absent or nothing_ran) and not failed:
        raise SystemExit(EXIT_MISSING)
    raise SystemExit(EXIT_PASS if report.verdict == "PASS" else EXIT_FAILURE)


class _Progress:
    """A listener of :func:`ropeexport.parity.check.check`: a line a stage, a bar over the cases.

    Both are on the standard error stream.
    """

    def __init__(self) -> None:
        from rich import progress

        self._console = console(err=True)
        self._bar = progress.Progress(
            progress.TextColumn("  cases"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,  # a log file is no place for a bar
        )
        self._cases = self._bar.add_task("", total=None)
        self.close = self._bar.stop

    def stage(self, name: str, text: str, ok: bool = True) -> None:
        """Print one line."""
        from rich.text import Text

        mark = ("✓", "green") if ok else ("✗", "yellow")
        line = Text.assemble(mark, f" {shown(name):12} {shown(text)}")
        self._console.print(line, soft_wrap=True)

    def case(self, done: int, total: int, name: str) -> None:
        """Move the bar; the first case shows it."""
        self._bar.start()
        self._bar.update(self._cases, completed=done, total=total, description=shown(name, NAME))


def _words(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    words = tuple(part.strip() for part in text.split(","))
    if not all(words):
        raise UsageError(
            f"--against: expected NAME[,NAME...], got {shown(repr(text), NAME)}", code="RX110"
        )
    return words


@click.command(name="bench")
@click.argument("path", metavar="DIR", type=PATH)
@click.option(
    "--against",
    type=TEXT,
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
@_lengths_option(help="[default: the profile's optimum]")
@_module
@_shown("--rounds", type=int, default=7, help="Turns.")
@_shown("--repeats", type=int, default=5, help="Runs in a turn; on a GPU, stretches.")
@click.option("--threads", type=int, help="[default: the number of cores]")
@_seed
@_code
@_flag("--json", "as_json", help="Print the records as JSON.")
@_schema_option("bench")
def bench_command(path: Path, as_json: bool, **given: Any) -> None:
    """Measure an export against what you would run instead, side by side.

    Each contender has a process of its own, is held to the parity bound before it is timed, and
    takes turns with the others.  Writes DIR/bench.json and DIR/bench.png.  One that is missing here
    is SKIPPED with its reason; one that computes something else is WRONG and not timed.  On a GPU,
    inputs lie there beforehand, CUDA events time stretches of calls, and TensorRT's engines are
    built for the run, DIR's own left alone.
    """
    from ropeexport.api.proving import run_bench
    from ropeexport.bench import show as tables
    from ropeexport.bench.records import CHART_NAME, FILE_NAME, OURS
    from ropeexport.errors import MissingError

    def say(name: str, text: str, ok: bool) -> None:
        echo(f"{'✓' if ok else '-'} {name}: {text}", err=True)

    found, unwritten = run_bench(path, say=say, **given)
    if as_json:
        echo_json(found.model_dump_json(indent=1))
    else:
        show(tables.render(all_shown(found)), tables.NARROWEST)
        if not unwritten.records:
            echo(f"report: {path / FILE_NAME}, {path / CHART_NAME}")
    _say_unwritten(unwritten)
    ours = next(record for record in found.contenders if record.name == OURS)
    if ours.status in ("WRONG", "FAILED"):
        raise SystemExit(EXIT_FAILURE)
    if ours.status == "SKIPPED":
        raise MissingError(f"{ours.label} was not timed: {ours.reason}", code="RX708")


@click.command(name="report")
@click.argument("path", type=PATH)
@_report_options
@_schema_option("parity")
def report_command(path: Path, **given: Any) -> None:
    """Show a parity run again, and write it as HTML, Markdown or JUnit XML.

    PATH is a parity.json, or the output folder that holds it.  Nothing is run: a report made on a
    GPU server can be read anywhere.
    """
    import ropeexport
    from ropeexport.parity import report as reports

    found = ropeexport.report(path, **given)
    show(reports.render(all_shown(found)), reports.NARROWEST)
    _say_forms(given)
    _say_of_another(path, found)


def _say_of_another(folder: Path, report: Report) -> None:
    """Say that a folder's report is of a model that the folder has no more."""
    from ropeexport.artifact import Artifact
    from ropeexport.errors import RopeExportError

    with suppress(RopeExportError, OSError):  # a report may lie anywhere
        model = Artifact.read(folder).manifest.model
        if model.sha256 != report.model_sha256:
            echo(
                f"note: the report is of another {model.file} than the one that is there now: run "
                f"'ropeexport check {quoted(folder)}'",
                err=True,
            )
