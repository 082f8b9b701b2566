"""transformers' dynamic NTK, whose frequencies follow the longest position, made traceable.

transformers asks a position's value in Python and keeps the frequencies of the longest sequence so
far.  A graph has neither: here the frequencies are computed from the positions of each call, as a
model that has seen no other sequence would (source: transformers ``modeling_rope_utils.py``).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_UTILITIES = "transformers.modeling_rope_utils"


@contextmanager
def traceable_ropes(module: nn.Module) -> Iterator[None]:
    """Let the dynamic ropes inside a module compute their frequencies in the graph."""
    parts = make_stateless(module)
    try:
        yield
    finally:
        for part in parts:
            part.__dict__.pop("forward", None)


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
