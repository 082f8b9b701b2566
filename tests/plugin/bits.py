"""Equality bit for bit, any NaN equal to any NaN."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {2: torch.int16, 4: torch.int32}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors have one shape, one type and the same bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    kind = _INTEGERS[a.element_size()]
    equal = a.contiguous().view(kind) == b.contiguous().view(kind)
    return bool((equal | (a.isnan() & b.isnan())).all())


def random_data(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Normal numbers, whose products round in most places."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def random_matrices(shape: tuple[int, ...], seed: int) -> Tensor:
    """General matrices, no rotations: each of the four entries matters."""
    return torch.randn((*shape, 2, 2), generator=torch.Generator().manual_seed(seed))
