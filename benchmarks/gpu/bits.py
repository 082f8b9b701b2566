"""Equality bit for bit, any NaN equal to any NaN."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {2: torch.int16, 4: torch.int32}


def differing(expected: Tensor, got: Tensor) -> str:
    """Return in words how two tensors of one device differ; empty where they do not."""
    if (expected.shape, expected.dtype) != (got.shape, got.dtype):
        return f"expected {_kind(expected)}, got {_kind(got)}"
    integer = _INTEGERS[expected.element_size()]
    a, b = (x.contiguous().view(integer) for x in (expected, got))
    wrong = (a != b) & ~(expected.isnan() & got.isnan())
    count = int(wrong.sum())
    if count == 0:
        return ""
    first = tuple(int(i) for i in wrong.nonzero()[0])
    values = f"expected {expected[first].item()!r}, got {got[first].item()!r}"
    return f"{count} of {expected.numel()} elements, the first at {first}: {values}"


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
