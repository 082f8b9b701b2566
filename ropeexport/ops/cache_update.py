"""Writing new keys and values into a cache of a fixed length: ONNX's TensorScatter, for torch.

Source: ONNX operator specification, TensorScatter 24 (``mode`` linear).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ropeexport.errors import UsageError


@torch.library.custom_op("ropeexport::cache_update", mutates_args=())
def cache_update(past: Tensor, new: Tensor, write: Tensor) -> Tensor:
    """Return a cache with new entries written at an index along its third axis.

    Parameters
    ----------
    past : Tensor
        ``(batch, heads, capacity, width)``; it stays as it is.
    new : Tensor
        ``(batch, heads, length, width)``.
    write : Tensor
        ``(batch,)``, int64: the index of the first new entry.

    Raises
    ------
    UsageError
        Where the new entries do not fit behind the index.

    Examples
    --------
    >>> import torch
    >>> past, new = torch.zeros(1, 1, 4, 1), torch.ones(1, 1, 2, 1)
    >>> cache_update(past, new, torch.tensor([1])).flatten().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    length, capacity = new.shape[2], past.shape[2]
    if bool((write < 0).any()) or bool((write + length > capacity).any()):
        raise UsageError(
            f"cache: expected room for {length} tokens, got a capacity of {capacity} and "
            f"{int(write.max())} that are held",
            code="RX610",
        )
    rows = write[:, None] + torch.arange(length, device=write.device)
    return past.scatter(2, rows[:, None, :, None].expand(new.shape), new)


@cache_update.register_fake
def _(past: Tensor, new: Tensor, write: Tensor) -> Tensor:
    return torch.empty_like(past, memory_format=torch.contiguous_format)
