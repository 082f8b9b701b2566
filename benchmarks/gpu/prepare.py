"""Compile beforehand what a machine with a GPU needs: ``python -m benchmarks.gpu.prepare``.

Needs nvcc and no GPU.  Everything goes into ``.gpu/`` of the checkout, which a run looks into:
``.gpu/compiled``, found there by the contents of the sources, ``.gpu/commit.json``, and the scripts
of a plan for fifteen minutes, ``bash .gpu/1.sh`` and so on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.compiler import CARRIED, CompileError, Compiler, find_compiler
from benchmarks.gpu.flashinfer import find_headers
from benchmarks.gpu.origin import find_origin, write_note
from benchmarks.gpu.plugin import compile_plugin
from benchmarks.gpu.verdict import Skipped
from ropeexport.errors import EXIT_FAILURE, EXIT_MISSING, EXIT_PASS

_PLAN = Path(__file__).parent / "plan"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile everything, print each file with its size, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.prepare", description=__doc__)
    parser.add_argument("--architecture", default="90", help="compute capability, 90 for 9.0")
    parser.add_argument(
        "--flashinfer", type=Path, metavar="DIR", help="as for benchmarks.gpu  [.gpu/fi, if there]"
    )
    parser.add_argument("--to", type=Path, default=CARRIED, metavar="DIR", help="[.gpu/compiled]")
    options = parser.parse_args(arguments)
    try:
        compiler = find_compiler(options.architecture)
        there = options.to.with_name("fi")
        flashinfer = options.flashinfer or (there if (there / "include").is_dir() else None)
        made = list(_made(replace(compiler, folder=options.to, carried=None), flashinfer))
    except (Skipped, CompileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISSING if isinstance(error, Skipped) else EXIT_FAILURE
    _keep_only(options.to, made)
    write_note(find_origin(), options.to.with_name("commit.json"))
    for script in _PLAN.iterdir():
        shutil.copy(script, options.to.parent)
    for path in made:
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path}")
    return EXIT_PASS


def _made(compiler: Compiler, flashinfer: Path | None) -> Iterator[Path]:
    steps: list[Callable[[], Sequence[Path]]] = [
        compiler.objects,
        lambda: [compiler.kernel(), compiler.driver()],
        lambda: list(vars(compile_plugin(compiler)).values()),
    ]
    if flashinfer is not None:
        steps.append(lambda: [compiler.flashinfer(find_headers(flashinfer))])
    for step in steps:
        yield from step()


def _keep_only(folder: Path, made: Sequence[Path]) -> None:
    """Remove what former sources were compiled to."""
    wanted = {path.parent for path in made}
    for place in folder.iterdir():
        if place not in wanted:
            shutil.rmtree(place)


if __name__ == "__main__":
    sys.exit(main())
