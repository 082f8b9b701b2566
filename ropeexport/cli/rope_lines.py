"""What a model's record says of its rotary applications and of its weights, in lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ropeexport.manifest import Comparison, Manifest, ModelRecord, RopeCount

_SHOWN = 5


def say_pass(name: str, did: str) -> None:
    """Print what a pass did; to the error output, which ``--json`` leaves free."""
    click.echo(f"  {name:17} {did}", err=True)


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
