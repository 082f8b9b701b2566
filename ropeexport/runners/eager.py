"""Eager torch: the module itself, in the type it was exported in."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ropeexport.runners import Arrays
from ropeexport.runners.torch_arrays import array_from, call, tensor_from


class EagerRunner:
    """Runs a module as it is.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    output_names : sequence of str
        Names of what it returns, in order.
    device : str, optional
        A torch device; the first GPU where torch has one, else the CPU.
    """

    name = "eager"
    implementation = "eager"
    version = torch.__version__

    def __init__(
        self, module: nn.Module, output_names: Sequence[str], device: str | None = None
    ) -> None:
        self._module = module
        self._output_names = tuple(output_names)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    def __enter__(self) -> Self:
        self._module.to(self.device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._module.to("cpu")

    @torch.no_grad()
    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run the module once, see :class:`ropeexport.runners.Runner`."""
        tensors = {name: tensor_from(x).to(self.device) for name, x in inputs.items()}
        outputs = call(self._module, tensors, self._output_names)
        return {name: array_from(x) for name, x in outputs.items()}
