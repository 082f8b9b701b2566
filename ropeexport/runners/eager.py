"""Eager torch: the module itself, in the type it was exported in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ropeexport.runners.arrays import Arrays
from ropeexport.runners.cause import cause_of
from ropeexport.runners.module_calls import ModuleCalls
from ropeexport.runners.registry import EAGER
from ropeexport.runners.runner import Facts, Runner
from ropeexport.runners.torch_arrays import array_from


class EagerRunner(Runner):
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

    name = EAGER

    def __init__(
        self, module: nn.Module, output_names: Sequence[str], device: str | None = None
    ) -> None:
        self._module = module
        self._output_names = tuple(output_names)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.facts = Facts(torch.__version__, (EAGER,), device=self.device)
        self._calls: ModuleCalls | None = None

    def __enter__(self) -> Self:
        self._module.to(self.device)
        self._calls = None
        return self

    def close(self) -> None:
        """Let the model go."""
        self._module.to("cpu")
        self._calls = None

    def call(self, loaded: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run the module once; whatever earlier runs have left in it is put back first."""
        return self.in_a_row([loaded])[0]

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, NDArray[np.generic]]]:
        """Run the module once for each of some inputs, nothing put back in between."""
        rows = self.calls.row(calls)
        return [{name: array_from(x) for name, x in row.items()} for row in rows]

    @property
    def calls(self) -> ModuleCalls:
        """The module on its device, with the state that it was entered in."""
        if self._calls is None:
            self._calls = ModuleCalls(self._module, self._output_names, self.device)
        return self._calls

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_of(self.calls, before, inputs)
