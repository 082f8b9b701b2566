"""Compile beforehand what a machine with a GPU needs: ``python -m benchmarks.gpu.prepare``.

Needs nvcc and no GPU.  Everything goes into ``.gpu/`` of the checkout, which a run looks into:
``.gpu/compiled``, found there by the contents of the sources, ``.gpu/commit.json``, and the scripts
of a plan for fifteen minutes, ``bash .gpu/1.sh`` and so on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.gpu.compiler import CARRIED, find_compiler
from benchmarks.gpu.contenders import find_flashinfer
from benchmarks.gpu.records import NOTE, SOURCES
from ropeexport import atomic
from ropeexport.errors import RopeExportError


@click.command()
@click.option("--architecture", default="90", help="Compute capability, 90 for 9.0.")
@click.option("--flashinfer", type=click.Path(path_type=Path), help="[.gpu/fi, if it is there]")
def main(architecture: str, flashinfer: Path | None) -> None:
    """Compile everything for a GPU and print each file with its size."""
    carried = CARRIED.with_name("fi")
    if flashinfer is None and (carried / "include").is_dir():
        flashinfer = carried
    try:
        compiler = replace(find_compiler(architecture), folder=CARRIED, carried=None)
        made = [*compiler.objects(), compiler.kernel(), compiler.driver(), *compiler.plugin()]
        if flashinfer is not None:
            made.append(compiler.flashinfer(find_flashinfer(flashinfer)))
    except RopeExportError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    for former in set(CARRIED.iterdir()) - {path.parent for path in made}:
        shutil.rmtree(former)
    atomic.write_text(NOTE, json.dumps(machine.measured(*SOURCES)) + "\n")
    for script in (Path(__file__).parent / "plan").glob("*.*"):
        shutil.copy(script, CARRIED.parent)
    for path in made:
        click.echo(f"{path.stat().st_size / 1e6:7.1f} MB  {path}")


if __name__ == "__main__":
    main()
