"""``python -m benchmarks.gpu``: the parts that are asked for, each check written as it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu import records
from benchmarks.gpu.compiler import find_compiler
from benchmarks.gpu.contenders import routine_groups
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.engines import engines
from benchmarks.gpu.exactness import exactness
from benchmarks.gpu.kernel import Kernel
from benchmarks.gpu.norms import make_norm_problem, norm_checks, norm_groups
from benchmarks.gpu.records import Check, Results, check_of_error, open_results, verdict_of
from benchmarks.gpu.sanitizer import sanitizer
from benchmarks.gpu.shapes import DTYPES, SHAPES
from benchmarks.gpu.timing import Plan, bench
from ropeexport import errors
from ropeexport.machine import find_gpu

PARTS = ("exactness", "sanitizer", "engines", "bench", "norms")

Part = Callable[[], Iterator[Check]]


def _some(flag: str, allowed: tuple[str, ...], text: str) -> Callable[..., Callable[..., None]]:
    """Return an option that takes some of several names with commas between them."""

    def chosen(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
        names = value.split(",")
        if not set(names) <= set(allowed):
            raise click.BadParameter(f"expected some of {', '.join(allowed)}, got {value!r}")
        return tuple(name for name in allowed if name in names)

    return click.option(
        flag, callback=chosen, default=",".join(allowed), show_default=True, help=text
    )


def _path(flag: str, text: str, default: Path | None = None) -> Callable[..., Callable[..., None]]:
    return click.option(flag, type=click.Path(path_type=Path), default=default, help=text)


@click.command(
    epilog="Exit codes: 0 nothing failed, 1 something failed, 2 usage, 3 no GPU, or nothing that "
    "was asked for could run."
)
@_some("--only", PARTS, "Parts to run.")
@_path("--out", "Folder of the result file.", Path(__file__).parents[1] / "results")
@_some("--shapes", tuple(shape.name for shape in SHAPES), "Shapes to time.")
@_some("--dtypes", tuple(DTYPES), "Types to time, and to build engines of.")
@_path("--flash-attention", "Its ops/triton/rotary.py, where it is not installed.")
@_path("--flashinfer", "Folder of include/flashinfer, where it is not installed.")
def main(
    only: tuple[str, ...],
    out: Path,
    shapes: tuple[str, ...],
    dtypes: tuple[str, ...],
    flash_attention: Path | None,
    flashinfer: Path | None,
) -> None:
    """Prove the kernel, the plugin and the engines on this machine's GPU.

    Each check is written as it ends, into one file for a GPU, a day and a commit: a run may be cut
    into several with --only, --shapes and --dtypes, or be cut short at any moment.
    """
    try:
        gpu = find_gpu()
        if gpu is None or not torch.cuda.is_available():
            raise errors.MissingError(f"no NVIDIA GPU that torch {torch.__version__} sees")
        device, compiler = CudaDevice(), find_compiler(gpu.compute_capability.replace(".", ""))
        path, results = open_results(out, records.describe(gpu))
        cases = [(shape, d) for shape in SHAPES if shape.name in shapes for d in dtypes]

        def timed() -> Iterator[Check]:
            kernel = Kernel(compiler.kernel())
            groups = routine_groups(device, kernel, compiler, flash_attention, flashinfer)
            yield from bench(device, groups, cases, Plan())

        def norms() -> Iterator[Check]:
            kernel = Kernel(compiler.kernel())
            yield from norm_checks(device, kernel)
            yield from bench(device, norm_groups(device, kernel), cases, Plan(), make_norm_problem)

        parts: dict[str, Part] = {
            "exactness": lambda: exactness(device, Kernel(compiler.kernel()), compiler),
            "sanitizer": lambda: sanitizer(compiler, out / "sanitizer.log"),
            "engines": lambda: engines(compiler, gpu.compute_capability, dtypes),
            "bench": timed,
            "norms": norms,
        }
        code = run({name: parts[name] for name in only}, results, path)
    except errors.RopeExportError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    sys.exit(code)


def run(parts: Mapping[str, Part], results: Results, path: Path) -> int:
    """Run parts one after the other, print their tables, and return the exit code.

    Every check is in the file before the next one begins; what a part raises is its verdict, and
    the next part still runs.
    """
    for name, part in parts.items():
        results.parts[name] = "UNFINISHED"
        results.write(path)
        checks = []
        for check in _checks(part):
            checks.append(check.model_copy(update={"part": name}))
            results.add(checks[-1])
            results.write(path)
            click.echo(f"{check.verdict} {name}: {check.name} {check.reason}")
        results.parts[name] = verdict_of(checks)
        results.write(path)
    show(results, Console(width=140))
    click.echo(f"{results.gpu}, driver {results.driver}: {results.parts}\nwritten: {path}")
    found = {results.parts[name] for name in parts}
    if "FAIL" in found:
        return errors.EXIT_FAILURE
    return errors.EXIT_MISSING if found == {"SKIPPED"} else errors.EXIT_PASS


def _checks(part: Part) -> Iterator[Check]:
    try:
        yield from part()
    except Exception as error:  # a broken driver or tool may raise anything; the others go on
        yield check_of_error("all", error)


def show(results: Results, console: Console) -> None:
    """Print the times of what was timed."""
    fields = {"time_us": ".2f", "spread": ".1%", "copy_share": ".1%", "ratio": ".2f"}
    fields |= {"equal_bytes": ".2f"}
    for check in (check for check in results.checks if check.timings):
        table = Table("contender", *fields, "", title=check.name)
        for timing in check.timings:
            values = {name: getattr(timing, name) for name in fields}
            cells = ["" if x is None else format(x, fields[name]) for name, x in values.items()]
            said = "" if timing.status == "TIMED" else f"{timing.status}: {timing.reason}"
            table.add_row(timing.name, *cells, said)
        console.print(table)


if __name__ == "__main__":
    main()
