"""What a sample input is: its shape by the config, its type, its dynamic axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Sizes to trace with: unequal, so that no two axes are taken for one
BATCH, LENGTH, TEXT = 2, 12, 7
FRAMES, HEIGHT, WIDTH = 3, 8, 8


@dataclass(frozen=True)
class Sample:
    """An input of a model.

    Parameters
    ----------
    shape : tuple
        Sizes; a string is the name of a dynamic axis, of the size in :data:`SIZES`.
    kind : str
        ``float`` (in the model's type), ``float32``, ``int``, ``positions`` or ``ones``.
    high : int
        Integers are below it.
    """

    shape: tuple[int | str, ...]
    kind: str = "float"
    high: int = 2

    @property
    def axes(self) -> dict[int, str]:
        """The dynamic axes by their number."""
        return {axis: dim for axis, dim in enumerate(self.shape) if isinstance(dim, str)}

    def make(self, dtype: torch.dtype, sizes: Mapping[str, int]) -> Tensor:
        """Make a tensor, the same every time."""
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)
        generator = torch.Generator().manual_seed(len(shape) + sum(shape))
        if self.kind == "int":
            return torch.randint(0, self.high, shape, generator=generator)
        if self.kind == "positions":
            return torch.arange(shape[-1]).expand(shape).contiguous()
        if self.kind == "ids":  # float positions on several axes, as FLUX has them
            return torch.arange(shape[0])[:, None].expand(shape).contiguous().to(torch.float32)
        if self.kind == "ones":
            return torch.ones(shape, dtype=torch.bool)
        values = torch.randn(shape, generator=generator)
        return values if self.kind == "float32" else values.to(dtype)


SIZES = {"batch": BATCH, "length": LENGTH, "text_length": TEXT}


@dataclass(frozen=True)
class Samples:
    """All inputs of a model, and the arguments that are no tensors."""

    inputs: dict[str, Sample]
    constants: dict[str, Any]
