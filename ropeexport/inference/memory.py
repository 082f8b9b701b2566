"""A caller's memory for the outputs of a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ropeexport.axes import shape_at, sum_of
from ropeexport.errors import UsageError
from ropeexport.manifest import TensorSpec

Parts = Mapping[str, Any]


def memory_of(
    out: Any, specs: Sequence[TensorSpec], sizes: Mapping[str, int], feeds: Parts, device: str
) -> dict[str, Any]:
    """Return the caller's memory by output.

    Parameters
    ----------
    out : array, tensor, sequence or mapping
        What the caller gave: by name, in the outputs' order, or the only one's.
    specs : sequence of TensorSpec
        Of the outputs.
    sizes : mapping of str to int
        Of each dynamic axis.
    feeds : mapping of str to array or tensor
        The inputs, which are of one kind.
    device : str
        Where the runtime writes.

    Raises
    ------
    UsageError
        For another type, shape, kind or device, and for memory that is shared.
    """
    names = [spec.name for spec in specs]
    if not isinstance(out, Mapping):
        several = out if isinstance(out, list | tuple) else [out]
        out = dict(zip(names, several, strict=False)) if len(several) == len(names) else {}
    if out.keys() != set(names):
        got = ", ".join(map(str, out))
        raise UsageError(f"out: expected memory for {', '.join(names)}, got {got}", code="RX608")
    is_array = all(isinstance(x, np.ndarray) for x in feeds.values())
    for spec in specs:
        x = out[spec.name]
        if not (_is_whole_array(x) if is_array else _is_whole_tensor(x, device)):
            raise UsageError(
                f"out: {spec.name}: expected a writable, C-contiguous one of the inputs' kind on "
                f"{device}, got {type(x).__name__}",
                code="RX608",
            )
        _check_fit(spec, x, shape_of(spec, sizes))
    into = {name: out[name] for name in names}
    _check_apart(feeds, into)
    return into


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the shape of an output; None where the inputs' sizes do not tell it."""
    known = all(name in sizes for dim in spec.shape for name in sum_of(dim).names)
    return shape_at(spec, sizes) if known else None


def _is_whole_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.flags.c_contiguous and x.flags.writeable


def _is_whole_tensor(x: Any, device: str) -> bool:
    torch = sys.modules["torch"]
    if not isinstance(x, torch.Tensor) or x.layout is not torch.strided:
        return False
    is_plain = x.is_contiguous() and not x.is_neg() and not x.requires_grad
    return is_plain and x.device.type == device


def _check_fit(spec: TensorSpec, x: Any, shape: tuple[int, ...] | None) -> None:
    got = tuple(x.shape)
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype != spec.dtype or (shape is not None and got != shape):
        wanted = shape if shape is not None else spec.shape
        raise UsageError(
            f"out: {spec.name}: expected {spec.dtype} {wanted}, got {dtype} {got}", code="RX608"
        )


def _check_apart(feeds: Parts, into: Parts) -> None:
    """Raise unless each output has memory of its own: a runtime reads inputs while it writes."""
    spans = [(*_span(x), name, False) for name, x in feeds.items()]
    spans += [(*_span(x), name, True) for name, x in into.items()]
    furthest = {False: (0, ""), True: (0, "")}  # end and name, of what is read and written so far
    for start, end, name, is_written in sorted(spans):
        for kind in (True, False) if is_written else (True,):
            if start < furthest[kind][0] and start < end:
                raise UsageError(
                    f"out: expected memory of its own for each output, got some that "
                    f"{furthest[kind][1]} and {name} share",
                    code="RX608",
                )
        furthest[is_written] = max(furthest[is_written], (end, name))


def _span(x: Any) -> tuple[int, int]:
    """Return the first address of an array or a tensor, and the one after its last."""
    if isinstance(x, np.ndarray):
        low, high = np.lib.array_utils.byte_bounds(x)
        return int(low), int(high) if x.size else int(low)
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    low = x.data_ptr()
    return low, low + (last + 1) * x.element_size() if x.numel() else low
