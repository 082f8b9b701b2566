"""``ropeexport plugin build``."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(name="plugin")
def command() -> None:
    """Compile the TensorRT plugin for the rotary op."""


@command.command(name="build")
@click.option(
    "--arch",
    "architectures",
    multiple=True,
    help="CUDA architecture as CMake writes it, 89 or 90-real; may be repeated.",
)
@click.option(
    "--tensorrt-include",
    type=click.Path(path_type=Path),
    help="Folder of TensorRT's headers.  [default: TENSORRT_INCLUDE_DIR, the system's, a wheel's]",
)
@click.option("-v", "--verbose", is_flag=True, help="Show what CMake and nvcc print.")
def build(architectures: tuple[str, ...], tensorrt_include: Path | None, verbose: bool) -> None:
    """Compile the plugin with nvcc and put it where 'ropeexport build' finds it."""
    from rich.filesize import decimal

    from ropeexport.trt.plugin_build import compile_plugin

    def show(line: str) -> None:
        if verbose:
            click.echo(line, err=True)

    click.echo("compiling the plugin with CMake and nvcc: about a minute", err=True)
    path = compile_plugin(architectures, tensorrt_include, show)
    click.echo(f"✓ plugin   {path}: {decimal(path.stat().st_size)}{_proven(path)}")
    click.echo("next: ropeexport build DIR --impl plugin")


def _proven(path: Path) -> str:
    """Load the library where a flavour of TensorRT is installed, and say what it registers."""
    from ropeexport.trt.flavour import available_flavours, pick_flavour
    from ropeexport.trt.plugin_library import validate

    if not available_flavours():
        return ""
    flavour = pick_flavour()
    found = validate(path, flavour)
    return f", {found.namespace}::{found.name} version {found.version} in {flavour}"
