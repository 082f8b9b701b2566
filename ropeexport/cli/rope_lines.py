"""What a model's record says of its rotary applications and of its weights, in lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropeexport.manifest import ModelRecord, RopeCount

_SHOWN = 5


def rope_lines(model: ModelRecord) -> Iterator[str]:
    """Yield the count of applications, the first refusals, and where the weights lie."""
    yield from count_lines(model.recognition)
    if model.weights is not None:
        weights = model.weights
        gigabytes = weights.referenced_bytes / 1e9
        yield (
            f"weights: {weights.referenced_tensors} tensors, {gigabytes:.2f} GB "
            f"in {', '.join(file.file for file in weights.files)}; {len(weights.copied)} copied"
        )


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
