"""What a caller gives a loaded model: arrays of any library, and sizes that the export is for."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ropeexport.axes import axis_sizes, sum_of
from ropeexport.errors import UsageError
from ropeexport.manifest import Axis, CacheRecord, TensorSpec


def taken(x: Any, name: str) -> Any:
    """Return what a runtime takes: tensors and arrays as they are, others by DLPack, not copied."""
    torch = sys.modules.get("torch")
    if isinstance(x, np.ma.MaskedArray):
        raise UsageError(
            f"{name}: expected an array, got a masked one: fill what is masked first", code="RX603"
        )
    if isinstance(x, np.ndarray) or (torch is not None and isinstance(x, torch.Tensor)):
        return x
    if isinstance(x, np.generic):
        return np.asarray(x)
    if hasattr(x, "__dlpack__"):
        kind, _ = x.__dlpack_device__()
        if int(kind) == 1:  # a CPU's, by DLPack
            return np.from_dlpack(x)
        from torch.utils.dlpack import from_dlpack

        return from_dlpack(x)
    raise UsageError(f"{name}: expected an array or a tensor, got {type(x).__name__}", code="RX603")


def check_rank(spec: TensorSpec, shape: Sequence[int]) -> None:
    """Raise :class:`UsageError` for a shape of another rank, or of another size that is fixed."""
    fits = len(shape) == len(spec.shape) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, spec.shape))
        raise UsageError(
            f"{spec.name}: expected shape ({expected}), got {tuple(shape)}", code="RX601"
        )


def checked_sizes(
    specs: Sequence[TensorSpec],
    axes: Mapping[str, Axis],
    shapes: Mapping[str, Sequence[int]],
    cache: CacheRecord | None = None,
) -> dict[str, int]:
    """Return the size of each axis from the shapes of inputs.

    Raises
    ------
    UsageError
        For a shape that the file does not take, a size that the export is not for, or more tokens
        than its cache holds: a runtime may leave out those that do not fit without a word.
    """
    for spec in specs:
        check_rank(spec, shapes[spec.name])
    sizes = axis_sizes(specs, shapes, "inputs")
    for name, size in sizes.items():
        axis = axes.get(name)
        if axis is None:
            continue
        if not axis.min <= size <= axis.max:
            wider = min(axis.min, size), axis.opt, max(axis.max, size)
            cure = (
                f": export again with axes={{{name!r}: {wider}}} (--axis "
                f"{name}={':'.join(map(str, wider))})"
            )
            raise UsageError(
                f"axis {name}: the export is for {axis.min} to {axis.max}, got {size}"
                f"{cure if size > 0 else ''}",
                code="RX602",
            )
        target = axis.broadcasts_to
        full = sizes.get(target) if isinstance(target, str) else target
        if full is not None and size not in (1, full):
            raise UsageError(f"axis {name}: expected 1 or {full}, got {size}", code="RX601")
    if cache is not None and (total := sum_of(cache.total).at(sizes)) > cache.capacity:
        raise UsageError(
            f"{cache.total}: expected at most {cache.capacity} tokens, the capacity of the cache, "
            f"got {total}: export again with a larger one (--capacity)",
            code="RX610",
        )
    return sizes
