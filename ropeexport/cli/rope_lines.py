"""What a model's record says of its rotary applications and of its weights, in lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ropeexport.manifest import Comparison, Manifest, ModelRecord, RopeCount

_SHOWN = 5

max_position_option = click.option(
    "--max-position",
    type=int,
    default=1_049_599,
    show_default=True,
    help="Largest position that tables of exact angles hold; angles are NaN beyond.",
)


attention_option = click.option(
    "--attention",
    type=click.Choice(["standard", "blocks"]),
    default="standard",
    show_default=True,
    help="blocks: keep memory small on long sequences in a bare onnxruntime too, by an op of its "
    "own.",
)

verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Print each pass over the graph, and what it did."
)


def say_pass(name: str, did: str) -> None:
    """Print what a pass did; to the error output, which ``--json`` leaves free."""
    click.echo(f"  {name:12} {did}", err=True)


_AXIS = re.compile(r"(?P<name>[^=]+)=(?P<min>\d+):(?P<opt>\d+):(?P<max>\d+)")


def _axes(
    _: click.Context, __: click.Parameter, texts: tuple[str, ...]
) -> dict[str, tuple[int, int, int]] | None:
    """Return ``length=1:512:4096`` as numbers."""
    axes = {}
    for text in texts:
        match = _AXIS.fullmatch(text)
        if match is None:
            raise click.BadParameter(f"expected NAME=MIN:OPT:MAX, got {text!r}")
        axes[match["name"]] = (int(match["min"]), int(match["opt"]), int(match["max"]))
    return axes or None


axis_option = click.option(
    "--axis",
    "axes",
    metavar="NAME=MIN:OPT:MAX",
    multiple=True,
    callback=_axes,
    help="Sizes that a dynamic axis is meant for; repeatable.  [default: printed by the export]",
)

# why a range nobody gave is what it is
_REASONS = {"config": ", what its config allows", "module": ", all that the module takes"}


def axes_line(manifest: Manifest) -> Iterator[str]:
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


def rope_lines(model: ModelRecord) -> Iterator[str]:
    """Yield the count of applications, the first refusals, and where the weights lie."""
    yield from count_lines(model.recognition)
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
        weights = model.weights
        gigabytes = weights.referenced_bytes / 1e9
        yield (
            f"weights: {weights.referenced_tensors} tensors, {gigabytes:.2f} GB "
            f"in {', '.join(file.file for file in weights.files)}; {len(weights.copied)} copied"
        )


def _comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Yield what of the rewritten graph was compared with the graph as it was."""
    for refusal in comparison.left[:_SHOWN]:
        yield f"  angles of {refusal.node} left in float32: {refusal.reason}"
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


def count_lines(count: RopeCount) -> Iterator[str]:
    """Yield the count of applications and the first refusals."""
    yield (
        f"rotary applications: {count.found} found, {count.replaced} replaced, "
        f"{len(count.refused)} refused"
    )
    for refusal in count.refused[:_SHOWN]:
        yield f"  refused {refusal.node}: {refusal.reason}"
    if len(count.refused) > _SHOWN:
        yield f"  and {len(count.refused) - _SHOWN} more"
