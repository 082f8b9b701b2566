"""``ropeexport export MODEL -o DIR``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal

if TYPE_CHECKING:
    from ropeexport.manifest import Manifest

_BUILTINS = "flux-attention, flux-self-attention, flux-self-attention-ids"


@click.command(name="export")
@click.argument("model")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Output folder."
)
@click.option("--batch", type=int, help="Batch size to tune for.  [default: 1]")
@click.option("--heads", type=int, help="Number of heads.  [default: 24]")
@click.option("--head-dim", type=int, help="Head size, even.  [default: 128]")
@click.option("--length", type=int, help="Sequence length to tune for.  [default: 1024]")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="Type of the data.  [default: fp32]",
)
@click.option("--opset", type=int, default=23, show_default=True, help="ONNX opset, 23 or later.")
@click.option("--force", is_flag=True, help="Overwrite an existing export.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(model: str, output: Path, opset: int, force: bool, as_json: bool, **sizes: Any) -> None:
    """Trace MODEL to ONNX with the custom rotary op.

    MODEL is flux-attention, flux-self-attention, flux-self-attention-ids, or a factory,
    path/to/file.py:factory or package.module:factory, that returns (module, example inputs,
    dynamic axes).  Sizes and type are for the built-in models; batch and length stay dynamic.
    """
    from ropeexport.packages import require

    require("torch", "onnxscript", "onnx_ir")
    from ropeexport.exporter import export_model

    manifest = export_model(_request(model, sizes), output, opset=opset, force=force)
    if as_json:
        click.echo(json.dumps(manifest.model_dump(mode="json"), indent=2))
    else:
        _print(manifest, output)


def _request(model: str, sizes: dict[str, Any]) -> Any:
    from ropeexport.builtin_models import BUILTINS, Options
    from ropeexport.errors import UsageError
    from ropeexport.sources import Request

    given = {name: value for name, value in sizes.items() if value is not None}
    if given and model not in BUILTINS:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{options}: only for the built-in models ({_BUILTINS})")
    return Request(model, Options(**given))


def _print(manifest: Manifest, output: Path) -> None:
    model = manifest.model
    size = (output / model.file).stat().st_size
    count = len(model.ropes)
    click.echo(
        f"✓ export   {output / model.file}: opset {model.opset}, {model.dtype}, "
        f"{count} ropeexport::ApplyRope, {decimal(size)}"
    )
    for spec in model.inputs:
        click.echo(f"  {spec.name:8} {spec.dtype:9} ({', '.join(str(dim) for dim in spec.shape)})")
    click.echo(f"next: ropeexport build {output}")
