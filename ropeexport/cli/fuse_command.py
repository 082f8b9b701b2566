"""``ropeexport fuse IN.onnx -o DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ropeexport.cli.options import (
    attention_option,
    axis_option,
    max_position_option,
    output_option,
    require_rope_option,
    verbose_option,
)
from ropeexport.cli.rope_lines import axes_line, count_lines, rope_lines, say_pass


@click.command(name="fuse")
@click.argument("path", type=click.Path(path_type=Path))
@output_option
@require_rope_option
@axis_option
@max_position_option
@attention_option
@click.option("--force", is_flag=True, help="Overwrite an existing export.")
@verbose_option
def command(path: Path, output: Path, verbose: bool, **choices: Any) -> None:
    """Replace the rotary applications of an ONNX file by the custom op.

    PATH is an ONNX file of opset 17 or later, its external data beside it.  A file without rotary
    position embedding is left as it is, and nothing is written.
    """
    import ropeexport

    made = ropeexport.fuse(path, output, say=say_pass if verbose else None, **choices)
    if made.manifest is None:
        click.echo(f"- fuse     {path}: nothing to replace, nothing written")
        for line in count_lines(made.count):
            click.echo(f"  {line}")
        return
    model = made.manifest.model
    click.echo(f"✓ fuse     {output / model.file}: opset {model.opset}")
    for line in (*rope_lines(model), *axes_line(made.manifest)):
        click.echo(f"  {line}")
    click.echo(f"next: ropeexport build {output}")
