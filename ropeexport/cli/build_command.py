"""``ropeexport build DIR``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropeexport.trt.flavour import NAMES

if TYPE_CHECKING:
    from ropeexport.manifest import EngineRecord

_SHAPES = "Shapes of the inputs as q:1x24x4096x128,k:1x24x4096x128, "


@click.command(name="build")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--min-shapes", help=_SHAPES + "the smallest.  [default: the export's]")
@click.option("--opt-shapes", help=_SHAPES + "tuned for.  [default: the export's]")
@click.option("--max-shapes", help=_SHAPES + "the largest.  [default: the export's]")
@click.option(
    "--impl",
    type=click.Choice(["auto", "plugin", "native", "decomposed"]),
    default="auto",
    show_default=True,
    help="What computes the rope. auto: the plugin if there is one, else plain layers. "
    "native: TensorRT's rotary layer, right for rotations only.",
)
@click.option(
    "--plugins", type=click.Path(path_type=Path), help="The plugin library, in place of the cached."
)
@click.option(
    "--embed-plugin/--no-embed-plugin",
    default=True,
    show_default=True,
    help="Put the plugin library into the engine.",
)
@click.option("--flavour", type=click.Choice(NAMES), help="Which TensorRT.")
@click.option("--force", is_flag=True, help="Overwrite an existing engine.")
@click.option("--json", "as_json", is_flag=True, help="Print the engine's record as JSON.")
def command(folder: Path, as_json: bool, **given: Any) -> None:
    """Compile the exported model in DIR into a TensorRT engine."""
    import ropeexport

    with _bar() as on_progress:
        engine = ropeexport.build(
            folder,
            on_progress=on_progress,
            on_note=lambda text: click.echo(f"  attention: {text}", err=True),
            **given,
        )
    click.echo(engine.model_dump_json(indent=2) if as_json else "\n".join(_lines(folder, engine)))


def _lines(folder: Path, engine: EngineRecord) -> Iterator[str]:
    from rich.filesize import decimal

    path = folder / engine.file
    ropes = ", ".join(f"{name} {kind}" for name, kind in engine.ropes.items()) or "no rope"
    yield (f"✓ build    {path}: {engine.flavour} {engine.version}, {decimal(path.stat().st_size)}")
    yield f"  rope: {ropes}; attention: {engine.attention}"
    if engine.plugin is not None:
        where = "embedded" if engine.plugin.embedded else "beside the engine"
        yield f"  plugin: {engine.plugin.file}, {where}"
    yield f"next: ropeexport check {folder}"


@contextmanager
def _bar() -> Iterator[Callable[[str, float], None]]:
    """Show TensorRT's own progress on standard error, and take it away at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("  {task.description:32}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    hidden = not console.is_terminal  # a log file is no place for a bar
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("starting", total=1.0)
        yield lambda phase, fraction: progress.update(task, description=phase, completed=fraction)
