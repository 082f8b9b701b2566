"""What a module's own code rounds on the way, and the same code without that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ropeexport.dtypes import HALVES

_HALVES = frozenset(kind.torch for kind in HALVES)
_CASTS: dict[Callable[..., Any], torch.dtype] = {
    Tensor.float: torch.float32,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
}
_REINTERPRETS = (Tensor.view, torch.ops.aten.view.dtype)


class Widened(TorchFunctionMode):
    """Within it, torch functions that are asked for a narrower floating type return float64.

    Inside ropeexport's own ops nothing is widened: what they round is their contract.

    Parameters
    ----------
    single : bool
        Whether float32 is widened too, and not half types alone.

    Attributes
    ----------
    met_single : bool
        Whether float32 was asked for.
    """

    def __init__(self, *, single: bool) -> None:
        super().__init__()
        self.met_single = False
        self._widened = _HALVES | {torch.float32} if single else _HALVES

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func`` with float64 for the types that are widened."""
        named = kwargs or {}
        if func in _REINTERPRETS:
            return func(*args, **named)
        if func in _CASTS:
            cast = _CASTS[func]
            self.met_single |= cast is torch.float32
            return _copied(args[0]) if cast in self._widened else func(*args, **named)
        result = func(
            *(self._wide(x) for x in args), **{name: self._wide(x) for name, x in named.items()}
        )
        # what is narrowed is a copy, which the module's code may change in place
        return _copied(result) if args and result is args[0] and self._asks(args, named) else result

    def _asks(self, args: tuple[Any, ...], named: dict[str, Any]) -> bool:
        """Say whether a type that is widened is asked for."""
        types = [x for x in (*args, *named.values()) if isinstance(x, torch.dtype)]
        return any(x in self._widened for x in types)

    def _wide(self, argument: Any) -> Any:
        if not isinstance(argument, torch.dtype):
            return argument
        self.met_single |= argument is torch.float32
        return torch.float64 if argument in self._widened else argument


def _copied(x: Tensor) -> Tensor:
    return x.to(torch.float64, copy=True)
