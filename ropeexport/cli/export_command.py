"""``ropeexport export MODEL -o DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropeexport.cli.options import (
    attention_option,
    axis_option,
    max_position_option,
    output_option,
    require_rope_option,
    verbose_option,
)
from ropeexport.cli.rope_lines import axes_line, rope_lines, say_pass
from ropeexport.dtypes import EXPORTED

if TYPE_CHECKING:
    from ropeexport.manifest import Manifest


@click.command(name="export")
@click.argument("model")
@output_option
@click.option("--batch", type=int, help="Batch size to tune for.  [default: 1]")
@click.option("--heads", type=int, help="Number of heads.  [default: 24]")
@click.option("--head-dim", type=int, help="Head size, even.  [default: 128]")
@click.option("--length", type=int, help="Sequence length to tune for.  [default: 1024]")
@click.option(
    "--dtype",
    type=click.Choice(list(EXPORTED)),
    help="Type of the data.  [default: fp32]",
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="Config of diffusers:CLASS: a file or folder."
)
@click.option(
    "--copy-weights", is_flag=True, help="Copy safetensors files instead of writing beside them."
)
@require_rope_option
@axis_option
@max_position_option
@attention_option
@click.option("--opset", type=int, default=23, show_default=True, help="ONNX opset, 23 or later.")
@click.option("--force", is_flag=True, help="Overwrite an existing export.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@verbose_option
def command(model: str, output: Path, as_json: bool, verbose: bool, **given: Any) -> None:
    """Trace MODEL to ONNX with the custom rotary op.

    MODEL is flux-attention, flux-self-attention, flux-self-attention-ids; diffusers:CLASS with its
    --config, or transformers:CONFIG; or a factory, path/to/file.py:factory or
    package.module:factory, that returns (module, example inputs, dynamic axes).  Sizes are for the
    built-in models; batch and length stay dynamic.

    Safetensors files in the folder of a config are its weights: they stay as they are, and the
    ONNX file is written beside them (-o that folder), or they are copied (--copy-weights).
    """
    import ropeexport

    say = say_pass if verbose else None
    manifest = ropeexport.export(model, out=output, say=say, **given).manifest
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
    else:
        _print(manifest, output)


def _print(manifest: Manifest, output: Path) -> None:
    from rich.filesize import decimal

    model = manifest.model
    size = (output / model.file).stat().st_size
    click.echo(
        f"✓ export   {output / model.file}: opset {model.opset}, {model.dtype}, {decimal(size)}"
    )
    for line in (*rope_lines(model), *axes_line(manifest)):
        click.echo(f"  {line}")
    for spec in model.inputs:
        click.echo(f"  {spec.name:8} {spec.dtype:9} ({', '.join(str(dim) for dim in spec.shape)})")
    click.echo(f"next: ropeexport build {output}")
