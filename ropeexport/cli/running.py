"""``run``: an exported folder once, on arrays from files or on random ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ropeexport.cli.terminal import echo
from ropeexport.cli.trusting import trust_options, trusted
from ropeexport.cli.types import PATH, TEXT
from ropeexport.errors import UsageError
from ropeexport.given import counted
from ropeexport.plain import NAME, shown
from ropeexport.runners.registry import names

_RUNTIMES = click.Choice(("auto", *names()))
_shown = partial(click.option, show_default=True)


@click.command(name="run")
@click.argument("folder", type=PATH)
@click.option(
    "--input",
    "inputs",
    type=TEXT,
    multiple=True,
    metavar="NAME=FILE.npy",
    help="An input; or FILE.npz with several by name.  Repeatable.",
)
@click.option("--random", "is_random", is_flag=True, help="Draw the inputs that are not given.")
@click.option(
    "--shapes",
    type=TEXT,
    help="Of what is drawn: length=128,batch=2 or q:1x24x128x64.  [default: the export's usual]",
)
@_shown("--seed", type=int, default=0, help="Of what is drawn.")
@_shown("--runtime", type=_RUNTIMES, default="auto", help="auto: the best that is here.")
@click.option("--device", type=click.Choice(("cpu", "cuda")), help="Where it runs.")
@click.option("--threads", type=int, default=0, help="[default: the runtime's]")
@_shown(
    "--verify",
    type=click.Choice(("files", "all")),
    default="files",
    help="all: weights are hashed to the last byte too.",
)
@trust_options
@click.option("-o", "--output", type=PATH, help="Write the outputs into this .npz file.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
def run_command(
    folder: Path, inputs: tuple[str, ...], output: Path | None, force: bool, **options: Any
) -> None:
    """Run the exported FOLDER once and show its outputs."""
    import ropeexport
    from ropeexport.inference.files import check_output, read_inputs, summary, write_outputs

    if output is not None:
        check_output(output, force, inputs)
    is_random, shapes, seed = (options.pop(name) for name in ("is_random", "shapes", "seed"))
    if (shapes or not inputs) and not is_random:
        raise UsageError(
            "input: expected --input NAME=FILE.npy, or --random for a first look", code="RX109"
        )
    with ropeexport.load(folder, trust=trusted(options), **options) as model:
        given = read_inputs(inputs, model.inputs)
        if is_random:
            known = {name: array.shape for name, array in given.items()}
            given = model.random_inputs(_sizes(shapes) or known, seed) | given
        outputs = model.run(given)
        where = ", ".join(filter(None, (model.runtime, model.provider, model.device)))
        echo(f"ran in {where}: {model.why}")
    width = max(len(shown(name, NAME)) for name in (*given, *outputs))
    for label, arrays in (("in", given), ("out", outputs)):
        for name, array in arrays.items():
            echo(f"  {label:3} {shown(name, NAME):{width}} {summary(array)}")
    if output is not None:
        write_outputs(output, outputs)
        echo(f"wrote {output}")


def _sizes(text: str | None) -> str | dict[str, int] | None:
    """Return shapes as trtexec writes them, or the sizes of axes, ``length=128,batch=2``."""
    if text is None or "=" not in text:
        return text
    pairs = [part.split("=") for part in text.split(",")]
    if any(len(pair) != 2 or not pair[1].strip().isdecimal() for pair in pairs):
        raise UsageError(
            f"--shapes: expected length=128,batch=2 or q:1x24x128x64, got "
            f"{shown(repr(text), NAME)}",
            code="RX110",
        )
    sizes = {name.strip(): counted("--shapes", size.strip()) for name, size in pairs}
    if len(sizes) < len(pairs):
        raise UsageError("--shapes: expected one size of each axis, got two of one", code="RX110")
    return sizes
