"""``export``, ``fuse``, ``build`` and ``plugin``: the verbs that write, and what they print."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropeexport.cli.terminal import console, echo, echo_json, quoted
from ropeexport.cli.types import PATH, TEXT
from ropeexport.dtypes import EXPORTED
from ropeexport.given import counted
from ropeexport.plain import NAME, shown
from ropeexport.trt.flavour import NAMES

if TYPE_CHECKING:
    from ropeexport import manifest as records

_flag = partial(click.option, is_flag=True)
_shown = partial(click.option, show_default=True)
_AXIS = re.compile(r"(?P<name>[^=]+)=(?P<min>\d+)(?::(?P<opt>\d+):(?P<max>\d+))?")
_SHAPES = "Shapes of the inputs as q:1x24x4096x128,k:1x24x4096x128, "
_SHOWN = 5
# why a range nobody gave is what it is
_REASONS = {"config": ", what its config allows", "module": ", all that the module takes"}

_output = click.option("-o", "--output", type=PATH, required=True, help="Output folder.")
_require_rope = click.option(
    "--require-rope", type=int, help="Fail unless so many rotary applications are found."
)
_max_position = _shown(
    "--max-position",
    type=int,
    default=1_049_599,
    help="Largest position that tables of exact angles hold; angles are NaN beyond.",
)


def _attention(*more: str, help: str = "") -> Callable[[Any], Any]:  # noqa: A002  (click's name)
    return _shown(
        "--attention",
        type=click.Choice(["standard", "blocks", *more]),
        default="standard",
        help="blocks: keep memory small on long sequences in a bare onnxruntime too, by an op of "
        f"its own.{help}",
    )


_fuse = _shown(
    "--fuse",
    type=click.Choice(["rope", "norm-rope", "none"]),
    default="rope",
    help="What becomes an op: each rope; or each with the norm of q and k before it, for one "
    "kernel that does both.",
)
_verbose = _flag("-v", "--verbose", help="Print each pass over the graph, and what it did.")


def _axes(
    _: click.Context, __: click.Parameter, texts: tuple[str, ...]
) -> dict[str, tuple[int, int, int]] | None:
    """Return ``length=1:512:4096`` as numbers; ``height=224`` is a range of one size."""
    axes = {}
    for text in texts:
        match = _AXIS.fullmatch(text)
        if match is None:
            raise click.BadParameter(f"expected NAME=MIN:OPT:MAX or NAME=SIZE, got {text!r}")
        name = match["name"]
        if name in axes:
            raise click.BadParameter(f"{name}: expected one range, got two")
        sizes = (match[part] or match["min"] for part in ("min", "opt", "max"))
        least, best, most = (counted(f"--axis {name}", size) for size in sizes)
        axes[name] = (least, best, most)
    return axes or None


_axis = click.option(
    "--axis",
    "axes",
    metavar="NAME=MIN:OPT:MAX",
    multiple=True,
    callback=_axes,
    help="Sizes that a dynamic axis is meant for; repeatable.  [default: printed by the export]",
)


@click.command(name="export")
@click.argument("model", type=TEXT)
@_output
@click.option("--batch", type=int, help="Batch size to tune for.  [default: 1]")
@click.option("--heads", type=int, help="Number of heads.  [default: 24]")
@click.option("--head-dim", type=int, help="Head size, even.  [default: 128]")
@click.option("--length", type=int, help="Sequence length to tune for.  [default: 1024]")
@click.option(
    "--dtype", type=click.Choice(list(EXPORTED)), help="Type of the data.  [default: fp32]"
)
@click.option("--config", type=PATH, help="Config of a class: a file or folder.")
@click.option(
    "--cache",
    type=click.Choice(["grow", "fixed"]),
    help="Of a language model, with what it keeps between calls: as long as the tokens so far, or "
    "of a fixed capacity, written in its place.",
)
@click.option(
    "--capacity",
    type=int,
    help="Tokens that the cache may hold.  [default: what the config allows; fixed: up to 4096]",
)
@_flag("--trust-remote-code", help="Run the code that a config of transformers brings along.")
@_flag("--copy-weights", help="Copy safetensors files instead of writing beside them.")
@_flag("--hash-weights", help="Hash them too, for load(verify='all').")
@_require_rope
@_axis
@_max_position
@_fuse
@_attention("gqa", help="  gqa: attention over a cache is onnxruntime's own GroupQueryAttention.")
@_shown("--opset", type=int, default=23, help="ONNX opset, 23 or later.")
@_flag("--force", help="Overwrite an existing export.")
@_flag("--json", "as_json", help="Print the manifest as JSON.")
@_verbose
def export_command(model: str, output: Path, as_json: bool, verbose: bool, **given: Any) -> None:
    """Trace MODEL to ONNX with the custom rotary op.

    MODEL is flux-attention, flux-self-attention, flux-self-attention-ids; diffusers:CLASS or
    transformers:CLASS with its --config, or transformers:CONFIG; or a factory,
    path/to/file.py:factory or package.module:factory, that returns (module, example inputs,
    dynamic axes).  Sizes are for the built-in models; batch and length stay dynamic.

    Safetensors files in the folder of a config are its weights: they stay as they are, and the
    ONNX file is written beside them (-o that folder), or they are copied (--copy-weights).
    """
    import ropeexport

    say = _say_pass if verbose else None
    manifest = ropeexport.export(model, out=output, say=say, **given).manifest
    if as_json:
        echo_json(manifest.model_dump_json(indent=2))
        return
    from rich.filesize import decimal

    made, file = manifest.model, output / manifest.model.file
    size = decimal(file.stat().st_size)
    echo(f"✓ export   {file}: opset {made.opset}, {made.dtype}, {size}")
    cache, specs = manifest.cache, made.inputs
    if cache is not None:  # two for each layer, all alike
        held = {past for past, _ in cache.pairs[2:]}
        specs = tuple(spec for spec in specs if spec.name not in held)
    kept = () if cache is None else (cache_line(cache),)
    _say_written(manifest, output, *map(spec_line, specs), *kept)


def _say_written(manifest: records.Manifest, output: Path, *more: str) -> None:
    for line in (*rope_lines(manifest.model), *_axes_line(manifest), *more):
        echo(f"  {line}")
    echo(f"next: ropeexport build {quoted(output)}")


@click.command(name="fuse")
@click.argument("path", type=PATH)
@_output
@_require_rope
@_axis
@_max_position
@_fuse
@_attention()
@_flag("--static", help="Axes of one size as that size, tables of fixed positions as constants.")
@_flag("--force", help="Overwrite an existing export.")
@_verbose
def fuse_command(path: Path, output: Path, verbose: bool, **choices: Any) -> None:
    """Replace the rotary applications of an ONNX file by the custom op.

    PATH is an ONNX file of opset 11 or later, its external data beside it.  A file without rotary
    position embedding is left as it is, and nothing is written.
    """
    import ropeexport

    made = ropeexport.fuse(path, output, say=_say_pass if verbose else None, **choices)
    if made.manifest is None:
        echo(f"- fuse     {path}: nothing to replace, nothing written")
        for line in _count_lines(made.count):
            echo(f"  {line}")
        return
    model = made.manifest.model
    echo(f"✓ fuse     {output / model.file}: opset {model.opset}")
    _say_written(made.manifest, output)


@click.command(name="build")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--min-shapes", type=TEXT, help=_SHAPES + "the smallest.  [default: the export's]")
@click.option("--opt-shapes", type=TEXT, help=_SHAPES + "tuned for.  [default: the export's]")
@click.option("--max-shapes", type=TEXT, help=_SHAPES + "the largest.  [default: the export's]")
@_shown(
    "--impl",
    type=click.Choice(["auto", "plugin", "native", "decomposed"]),
    default="auto",
    help="What computes the rope. auto: the plugin if there is one, else plain layers. "
    "native: TensorRT's rotary layer, right for rotations only.",
)
@click.option("--plugins", type=PATH, help="The plugin library, in place of the cached.")
@_shown(
    "--embed-plugin/--no-embed-plugin", default=True, help="Put the plugin library into the engine."
)
@_flag("--refit", help="Let weights be exchanged in the loaded engine, a merged LoRA's.")
@_flag("--strip", help="Leave those weights out of the engine: they come from the ONNX file.")
@_flag("--weight-streaming", help="Let weights stay in the host's memory, for a bounded load.")
@click.option("--flavour", type=click.Choice(NAMES), help="Which TensorRT.")
@_flag("--force", help="Overwrite an existing engine.")
@_flag("--json", "as_json", help="Print the engine's record as JSON.")
def build_command(folder: Path, as_json: bool, **given: Any) -> None:
    """Compile the exported model in DIR into a TensorRT engine."""
    import ropeexport

    with _bar() as on_progress:
        engine = ropeexport.build(
            folder,
            on_progress=on_progress,
            on_note=lambda text: echo(f"  attention: {text}", err=True),
            **given,
        )
    if as_json:
        echo_json(engine.model_dump_json(indent=2))
    else:
        echo(*_lines(folder, engine))


def _lines(folder: Path, engine: records.EngineRecord) -> Iterator[str]:
    from rich.filesize import decimal

    path = folder / engine.file
    ropes = ", ".join(f"{name} {kind}" for name, kind in engine.ropes.items()) or "no rope"
    yield (f"✓ build    {path}: {engine.flavour} {engine.version}, {decimal(path.stat().st_size)}")
    yield f"  rope: {ropes}; attention: {engine.attention}"
    if engine.plugin is not None:
        where = "embedded" if engine.plugin.embedded else "beside the engine"
        yield f"  plugin: {engine.plugin.file}, {where}"
    if engine.refittable:
        where = "which come from the ONNX file at load" if engine.stripped else "in the engine"
        yield f"  weights: {len(engine.refits)} can be exchanged, {where}"
        yield from _few(f"  not {name}: {why}" for name, why in engine.fixed.items())
    if engine.weight_streaming:
        yield "  weights: streamed from the host's memory where a load is bounded"
    yield f"next: ropeexport check {quoted(folder)}"


def _few(lines: Iterable[str]) -> Iterator[str]:
    """Yield the first lines, and how many more there are."""
    given = list(lines)
    yield from given[:_SHOWN]
    if len(given) > _SHOWN:
        yield f"  and {len(given) - _SHOWN} more"


@contextmanager
def _bar() -> Iterator[Callable[[str, float], None]]:
    """Show TensorRT's own progress on standard error, and take it away at the end."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("  {task.description:32}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    printer = console(err=True)
    hidden = not printer.is_terminal  # a log file is no place for a bar
    with Progress(*columns, console=printer, transient=True, disable=hidden) as progress:
        task = progress.add_task("starting", total=1.0)

        def update(phase: str, fraction: float) -> None:
            progress.update(task, description=shown(phase, NAME), completed=fraction)

        yield update


@click.group(name="plugin")
def plugin_command() -> None:
    """Compile the TensorRT plugin for the rotary op."""


@plugin_command.command(name="build")
@click.option(
    "--arch",
    "architectures",
    multiple=True,
    type=TEXT,
    help="CUDA architecture as CMake writes it, 89 or 90-real; may be repeated.",
)
@click.option(
    "--tensorrt-include",
    type=PATH,
    help="Folder of TensorRT's headers.  [default: TENSORRT_INCLUDE_DIR, the system's, a wheel's]",
)
@_flag("-v", "--verbose", help="Show what CMake and nvcc print.")
def plugin_build_command(
    architectures: tuple[str, ...], tensorrt_include: Path | None, verbose: bool
) -> None:
    """Compile the plugin with nvcc and put it where 'ropeexport build' finds it."""
    from rich.filesize import decimal

    from ropeexport.trt.plugin_build import compile_plugin

    show = (lambda line: echo(line.expandtabs(), err=True)) if verbose else None
    echo("compiling the plugin with CMake and nvcc: about a minute", err=True)
    path = compile_plugin(architectures, tensorrt_include, show)
    echo(f"✓ plugin   {path}: {decimal(path.stat().st_size)}{_proven(path)}")
    echo("next: ropeexport build DIR --impl plugin")


def _proven(path: Path) -> str:
    """Load the library where a flavour of TensorRT is installed, and say what it registers."""
    from ropeexport.trt.flavour import available_flavours, pick_flavour
    from ropeexport.trt.plugin_library import validate

    if not available_flavours():
        return ""
    flavour = pick_flavour()
    found = validate(path, flavour).record
    return f", {found.namespace}::{found.name} version {found.version} in {flavour}"


def _say_pass(name: str, did: str) -> None:
    """Print what a pass did; to the error output, which ``--json`` leaves free."""
    echo(f"  {name:17} {did}", err=True)


def spec_line(spec: records.TensorSpec) -> str:
    """Return what an input or output is."""
    return f"{spec.name:8} {spec.dtype:9} ({', '.join(map(str, spec.shape))})"


def cache_line(cache: records.CacheRecord) -> str:
    """Return what a decoder keeps between calls."""
    layers = f"{cache.layers} layer{'s' * (cache.layers > 1)}"
    again = f"; read again beyond {cache.reread_at}" if cache.reread_at else ""
    return f"cache: {cache.form}, {cache.capacity} tokens, {layers}{again}"


def _axes_line(manifest: records.Manifest) -> Iterator[str]:
    """Yield the sizes that the dynamic axes are meant for, in one line."""
    texts = []
    for name, axis in manifest.axes.items():
        if axis.broadcasts_to is not None:
            texts.append(f"{name} 1 or {axis.broadcasts_to}")
            continue
        reason = _REASONS.get(axis.chosen_by, "")
        texts.append(f"{name} {axis.min}..{axis.max} (best at {axis.opt}{reason})")
    if texts:
        yield f"axes: {', '.join(texts)}"
    for label, total in manifest.relations.items():
        why = "which it meets in a rotation"
        if manifest.source.kind != "onnx":
            why = "the only way that the module takes it (-v says why)"
        yield f"axis {label} is {total}, {why}"


def rope_lines(model: records.ModelRecord) -> Iterator[str]:
    """Yield the count of applications, the first refusals, and where the weights lie."""
    yield from _count_lines(model.recognition)
    if model.norms is not None:
        yield from _count_lines(model.norms, "norms before them")
    if model.table_limit is not None:
        limit, made = model.max_position, ""
        if limit is None:
            limit, made = model.table_limit, ", as the model makes them of its inputs"
        yield (
            f"positions: exact angles up to {limit:,}{made}; NaN beyond (--max-position raises it)"
        )
    if model.comparison is not None:
        yield from _comparison_lines(model.comparison)
    if model.weights is not None:
        weights, gigabytes = model.weights, model.weights.referenced_bytes / 1e9
        yield (
            f"weights: {weights.referenced_tensors} tensors, {gigabytes:.2f} GB "
            f"in {', '.join(file.file for file in weights.files)}; {len(weights.copied)} copied"
        )


def _comparison_lines(comparison: records.Comparison) -> Iterator[str]:
    """Yield what of the rewritten graph was compared with the graph as it was."""
    if comparison.left:
        yield "  angles that stay as they are written, off by up to 2^-24 of a position in float32:"
    for refusal in comparison.left[:_SHOWN]:
        yield f"    {refusal.node}: {refusal.reason}"
    if len(comparison.left) > _SHOWN:
        yield f"    and {len(comparison.left) - _SHOWN} more"
    whole = "the whole graph"
    if comparison.worst_whole is None:
        whole = f"not the whole graph: {comparison.without_whole}"
    if comparison.regions:
        plural = "s" if comparison.regions > 1 else ""
        whole = (
            f"{comparison.regions} rewritten rope{plural} at {len(comparison.shapes)} shapes and "
            f"positions up to {comparison.max_position:,}; {whole}"
        )
    yield f"compared with the graph as it was, in float64: {whole}"


def _count_lines(count: records.RopeCount, of: str = "rotary applications") -> Iterator[str]:
    """Yield the count of applications and the first refusals."""
    left = {"refused": count.refused, "not judged": count.not_judged}
    counts = (f"{len(refusals)} {what}" for what, refusals in left.items())
    yield ", ".join((f"{of}: {count.found} found", f"{count.replaced} replaced", *counts))
    for what, refusals in left.items():
        for refusal in refusals[:_SHOWN]:
            yield f"  {what} {refusal.node}: {refusal.reason}"
        if len(refusals) > _SHOWN:
            yield f"  and {len(refusals) - _SHOWN} more {what}"
