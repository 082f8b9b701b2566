"""An entered runtime as a module in a pipeline."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ropeexport.parity.contenders import Contender
from ropeexport.runners.torch_arrays import array_from, tensor_from


def served(contender: Contender, like: nn.Module) -> nn.Module:
    """Return a module whose forward is a runtime's."""
    return _Served(contender, like)


class _Served(nn.Module):
    def __init__(self, contender: Contender, like: nn.Module) -> None:
        super().__init__()
        self.contender = contender
        self.__dict__["like"] = like

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["like"], name)

    def forward(self, *, return_dict: bool = True, **given: Any) -> Any:
        """Run the file."""
        arrays = {n: array_from(x) for n, x in given.items() if isinstance(x, Tensor)}
        assert self.contender.runner is not None
        out = tensor_from(next(iter(self.contender.runner.run(arrays).values())))
        if not return_dict:
            return (out,)
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=out)
