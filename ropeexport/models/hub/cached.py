"""A decoder of transformers with the tensors of its cache in place of the cache.

A cache is an object, which no graph has.  The wrapper takes and returns its tensors, by the names
that optimum and onnxruntime-genai read, in one of two forms:

- ``grow``: past and present hold the tokens so far, ``(batch, heads, past, head_dim)``;
- ``fixed``: both hold ``capacity`` of them, and the new tokens are written behind those that are
  there, in the same memory where a runtime can.

Source: transformers 5, ``cache_utils.py`` (``Cache``, ``DynamicLayer``, ``StaticLayer``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from ropeexport.manifest import CacheForm
from ropeexport.models.hub.masks_by_position import Slots, attention_by_position
from ropeexport.ops.cache_update import cache_update

PAST, PRESENT = "past_key_values", "present"
HALVES = ("key", "value")
State = dict[str, Tensor]  # of a layer: key and value


class CachedDecoder(nn.Module):
    """A decoder as a function of tokens and of what its cache holds.

    Its weights have the names that the decoder has for them.

    Parameters
    ----------
    decoder : PreTrainedModel
        With logits; it is shared, and left as it is.
    form : str
        ``grow`` or ``fixed``.
    """

    def __init__(self, decoder: Any, form: CacheForm) -> None:
        self.__dict__["_decoder"] = decoder  # no part, which would prefix the weights' names
        training = decoder.training
        super().__init__()
        self.training = training
        self._modules = decoder._modules
        self._parameters = decoder._parameters
        self._buffers = decoder._buffers
        self.form = form

    @property
    def decoder(self) -> Any:
        """What it computes with."""
        return self.__dict__["_decoder"]

    @property
    def training(self) -> bool:
        """The decoder's own."""
        return bool(self.decoder.training)

    @training.setter
    def training(self, mode: bool) -> None:
        self.decoder.training = mode

    @property
    def config(self) -> Any:
        """The decoder's own."""
        return self.decoder.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: list[State],
    ) -> dict[str, Any]:
        """Return logits, and the cache with the new tokens in it.

        Parameters
        ----------
        input_ids : Tensor
            ``(batch, length)``, the new tokens.
        attention_mask : Tensor
            ``(batch, past + length)``, 1 for each token that is none of padding, those held first.
        position_ids : Tensor
            ``(batch, length)``, which the rotations are by.
        past_key_values : list of dict
            ``key`` and ``value`` of each layer, see the module.
        """
        length, total = input_ids.shape[1], attention_mask.shape[1]
        held = total - length
        if self.form == "fixed":
            write = torch.full((input_ids.shape[0],), 1, dtype=torch.int64) * held
            layers = [_FixedLayer(state, write, held) for state in past_key_values]
            slots = past_key_values[0]["key"].shape[2]
        else:
            layers = [_GrowingLayer(state) for state in past_key_values]
            slots = total
        cache = Cache(layers=layers)
        with attention_by_position(self.decoder, Slots.of(attention_mask, length, slots)):
            made = self.decoder(
                input_ids=input_ids,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            )
        present = [dict(zip(HALVES, (x.keys, x.values), strict=True)) for x in cache.layers]
        return {"logits": made.logits, PRESENT: present}


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values so far; new ones are put behind them."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.lazy_initialization(state["key"], state["value"])
        self.keys, self.values = state["key"], state["value"]


class _FixedLayer(StaticLayer):  # type: ignore[misc]
    """A layer's keys and values in memory of a fixed length; new ones are written at an index."""

    is_compileable = False  # there is nothing to be compiled, and the mask is never left out

    def __init__(self, state: State, write: Tensor, held: Any) -> None:
        super().__init__(state["key"].shape[2])
        self.keys, self.values = state["key"], state["value"]
        self._write, self._held = write, held
        self.is_initialized = True

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values."""
        self.keys = cache_update(self.keys, keys, self._write)
        self.values = cache_update(self.values, values, self._write)
        return self.keys, self.values

    def get_seq_length(self) -> Any:
        """Return how many tokens are held."""
        return self._held
