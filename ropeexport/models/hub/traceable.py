"""Parts of transformers' code that are replaced while a module is traced, or run in float64.

Its dynamic NTK asks a position's value in Python and keeps the frequencies of the longest sequence
so far.  A graph has neither: here the frequencies are computed from the positions of each call, as
a model that has seen no other sequence would (source: transformers ``modeling_rope_utils.py``).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_UTILITIES = "transformers.modeling_rope_utils"


@contextmanager
def traceable_ropes(module: nn.Module) -> Iterator[None]:
    """Let the dynamic ropes inside a module compute their frequencies in the graph for a while."""
    parts = make_stateless(module)
    try:
        yield
    finally:
        for part in parts:
            part.__dict__.pop("forward", None)


def traceable_experts(module: nn.Module) -> AbstractContextManager[None]:
    """Let mixtures of experts sort the tokens by expert for a while: a product for each expert.

    transformers' other ways loop over the experts that the numbers ask for, or give each token its
    own copy of its experts' matrices.
    """
    return _experts_computed(module, "grouped_mm")


def experts_of_any_type(module: nn.Module) -> AbstractContextManager[None]:
    """Let them loop over the experts that are asked for, for a while: products that float64 has.

    transformers' other way for it takes a copy of its experts' matrices for each token.
    """
    return _experts_computed(module, "eager")


@contextmanager
def _experts_computed(module: nn.Module, how: str) -> Iterator[None]:
    configs = {id(x): x for part in module.modules() if (x := getattr(part, "config", None))}
    former = {
        key: config._experts_implementation
        for key, config in configs.items()
        if getattr(config, "_experts_implementation", how) != how
    }
    try:
        for key in former:
            configs[key]._experts_implementation = how
        yield
    finally:
        for key, implementation in former.items():
            configs[key]._experts_implementation = implementation


def make_stateless(module: nn.Module) -> list[nn.Module]:
    """Let them do so for good, which a comparison with the graph needs; return those parts."""
    parts = [part for part in module.modules() if _is_dynamic(part)]
    for part in parts:
        part.forward = _stateless(part)
    return parts


def _is_dynamic(part: nn.Module) -> bool:
    return (
        _UTILITIES in sys.modules
        and getattr(part, "rope_type", None) == "dynamic"  # by layer it is a dictionary
        and "inv_freq" in part._buffers
        and hasattr(type(part).forward, "__wrapped__")
    )


def _stateless(part: Any) -> Callable[..., Any]:
    forward = type(part).forward
    while hasattr(forward, "__wrapped__"):  # beneath no_grad and the update of the state
        forward = forward.__wrapped__
    frequencies = sys.modules[_UTILITIES].ROPE_INIT_FUNCTIONS["dynamic"]

    def rotate(x: Tensor, position_ids: Tensor) -> Any:
        length = torch.max(position_ids) + 1
        inv_freq, scaling = frequencies(part.config, x.device, seq_len=length)
        stand_in = copy.copy(part)
        stand_in._buffers = part._buffers | {"inv_freq": inv_freq}
        stand_in.attention_scaling = scaling
        return forward(stand_in, x, position_ids)

    return rotate
