"""A module called on arrays, again and again, and what its calls leave behind put back.

Eager and the float64 oracle are such modules.  Several cases share one, each in a thread of its
own, so a row of calls has the module to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import RLock

import torch
from torch import Tensor, nn

from ropeexport.errors import ChangedInputError
from ropeexport.runners.arrays import Arrays, same_bits
from ropeexport.runners.module_state import ModuleState
from ropeexport.runners.torch_arrays import array_from, caller, tensor_from


class ModuleCalls:
    """Calls a module; what it holds is put back before each row of calls.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, on ``device``.
    output_names : sequence of str
        Names of what it returns, in order.
    device : str
        A torch device.
    may_change_inputs : bool
        Whether an input that was changed in place is no error: each call has copies anyway.

    Attributes
    ----------
    state : ModuleState
        What the module held when this was made.
    turn : RLock
        Whoever has acquired it has the module to itself.
    """

    def __init__(
        self,
        module: nn.Module,
        output_names: Sequence[str],
        device: str = "cpu",
        *,
        may_change_inputs: bool = False,
    ) -> None:
        self.state = ModuleState(module)
        self.turn = RLock()
        self.device = device
        self._may_change_inputs = may_change_inputs
        self._caller: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
        self._caller = caller(module, output_names)

    def row(
        self,
        calls: Sequence[Arrays],
        within: AbstractContextManager[object] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Call the module once for each of some inputs, nothing put back in between.

        Parameters
        ----------
        calls : sequence of mapping
            The inputs of each call, by name.
        within : context manager, optional
            Entered once the state is back and the module is ours.

        Raises
        ------
        ChangedInputError
            Where it changes an input in place.
        """
        with self.turn:
            self.state.restore()
            with within or nullcontext():
                return [self.call(inputs) for inputs in calls]

    @torch.no_grad()
    def call(self, inputs: Arrays) -> dict[str, Tensor]:
        """Call the module as it is now, on copies of its inputs."""
        copies = {name: tensor_from(x).to(self.device, copy=True) for name, x in inputs.items()}
        outputs = self._caller(copies)
        if not self._may_change_inputs:
            _check_inputs(inputs, copies)
        # a module may return its own buffer, which the next call would change
        return {name: x.clone() for name, x in outputs.items()}


def _check_inputs(inputs: Arrays, copies: Mapping[str, Tensor]) -> None:
    for name, x in inputs.items():
        if not same_bits(array_from(copies[name]), x):
            raise ChangedInputError(name)
