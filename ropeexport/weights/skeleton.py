"""A module without the memory of its weights: parameters are fake, buffers are real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose parameters have a shape and a type, and no values.

    Buffers keep their values: frequencies and the like are computed when a module is made, and are
    in no file.  A parameter's memory is given back before a page of it is touched.
    """
    with _parameters_on_meta():
        module = make()
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    fakes: dict[nn.Parameter, nn.Parameter] = {}  # tied parameters stay tied
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if parameter not in fakes:
                    fakes[parameter] = _fake(parameter, mode)
                part._parameters[name] = fakes[parameter]
    return module.eval()


def is_fake(tensor: object) -> bool:
    """Say whether a tensor has no values."""
    return isinstance(tensor, FakeTensor)


def _fake(parameter: nn.Parameter, mode: FakeTensorMode) -> nn.Parameter:
    with mode:
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
        return nn.Parameter(empty, requires_grad=False)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move each new parameter to the meta device, where initialising it costs nothing."""
    original = nn.Parameter.__new__

    def on_meta(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        moved = data.to("meta") if type(data) is torch.Tensor else data
        return original(cls, moved, requires_grad)

    nn.Parameter.__new__ = staticmethod(on_meta)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Parameter.__new__ = original  # type: ignore[method-assign]
