"""What a module computes of fixed arguments alone, computed while it is traced.

A fixed tensor that says how a sequence is laid out (which of its tokens are an image's) decides in
Python how that is cut and put together.  torch's tracer has no numbers of any tensor, so it refuses
what hangs on them; of a fixed one they are known.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from ropeexport.models.example import Example

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_MAKERS = (torch.tensor, torch.arange)  # of whole numbers: places
_INDEXED = (Tensor.__getitem__, Tensor.__setitem__)
_REPEATED = (Tensor.repeat_interleave, torch.repeat_interleave)


@contextmanager
def fixed_known(example: Example) -> Iterator[None]:
    """Let a module know the numbers of its fixed arguments for a while, where any is a tensor."""
    module = example.module
    if not any(map(_is_known, example.constant_leaves)):
        yield
        return
    former, forward = module.__dict__.get("forward"), module.forward

    @functools.wraps(forward)
    def knowing(*args: Any, **kwargs: Any) -> Any:
        with _Knowing():
            own = pytree.tree_map_only(Tensor, Tensor.clone, dict(example.constants))
            return forward(*args, **{**kwargs, **own})

    module.forward = knowing
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if former is not None:
            module.forward = former


def _is_known(x: object) -> bool:
    """Say whether something is a tensor with numbers, which none is of a trace."""
    return isinstance(x, Tensor) and type(x) in (Tensor, nn.Parameter) and not x.is_meta


class _Knowing(TorchFunctionMode):
    """Computes what is made of known tensors alone, and reads places off known flags."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = pytree.tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if not all(map(_is_known, tensors)):
            if function in _INDEXED:
                args = (args[0], _places(args[1]), *args[2:])
            elif function in _REPEATED and _is_repeated(*args, **kwargs):
                return _repeated(*args, **kwargs)
        elif not any(isinstance(x, _SYMBOLIC) for x in leaves):
            is_made = function in _MAKERS
            if tensors or is_made:
                with _disable_current_modes():
                    found = function(*args, **kwargs)
                if not is_made or not found.is_floating_point():
                    return found
        return function(*args, **kwargs)


def _places(index: Any) -> Any:
    """Return an index with the places of known flags in their place."""
    parts = index if isinstance(index, tuple) else (index,)
    made: list[Any] = []
    for part in parts:
        is_flags = isinstance(part, Tensor) and _is_known(part) and part.dtype is torch.bool
        if is_flags and part.ndim:
            with _disable_current_modes():
                made += torch.unbind(part.nonzero(), dim=1)
        else:
            made.append(part)
    return tuple(made) if len(made) > 1 or isinstance(index, tuple) else made[0]


def _is_repeated(x: Any, repeats: Any = None, dim: Any = None, **_: Any) -> bool:
    return isinstance(repeats, Tensor) and _is_known(repeats) and dim is not None


def _repeated(x: Tensor, repeats: Tensor, dim: int, **_: Any) -> Tensor:
    with _disable_current_modes():
        places = torch.repeat_interleave(repeats.expand(int(x.shape[dim])))
    return x.index_select(dim, places)
