"""The reference of a decoder with a cache: each row of a text alone, in one call, by itself.

The decoder is transformers' own, without our wrapper: its masks, its positions, and a cache of its
own that keeps everything.  What a runtime makes of padding, of windows and of many calls is held to
what has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

from ropeexport.manifest import CacheRecord
from ropeexport.parity.text_inputs import Ints


class RowsAlone(nn.Module):
    """A decoder as a function of whole texts, see :mod:`ropeexport.parity.texts`.

    Parameters
    ----------
    decoder : PreTrainedModel
        It is shared.
    cache : CacheRecord
        Of the export.
    names : sequence of str
        Of the outputs, in order.
    """

    def __init__(self, decoder: Any, cache: CacheRecord, names: Sequence[str]) -> None:
        super().__init__()
        self.decoder = decoder
        self._presents = [present for _, present in cache.pairs]
        self._names = tuple(names)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, calls: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the logits of all calls after each other, and what is kept after the last."""
        real, logits, kept = attention_mask != 0, [], [torch.empty(0)]
        for reading in _readings(calls.tolist()):
            stop = reading[-1][1]
            found, *kept = self._read(input_ids[:, :stop], real[:, :stop])
            logits += [found[:, start:stop] for start, stop in reading]
        named = {"logits": torch.cat(logits, dim=1), **dict(zip(self._presents, kept, strict=True))}
        return tuple(named[name] for name in self._names)

    def _read(self, ids: Tensor, real: Tensor) -> list[Tensor]:
        rows = [self._alone(row[seen]) for row, seen in zip(ids, real, strict=True)]
        logits, *kept = zip(*rows, strict=True)
        return [_spread(logits, real, 0), *(_spread(state, real, 1) for state in kept)]

    def _alone(self, ids: Tensor) -> list[Tensor]:
        """Return logits, and each layer's key and value, of one text."""
        cache = DynamicCache()  # without a config: no layer forgets
        logits = self.decoder(input_ids=ids[None], past_key_values=cache, use_cache=True).logits
        layers = (layer for layer in cache.layers if layer.is_initialized)
        states = [state[0] for layer in layers for state in (layer.keys, layer.values)]
        return [logits[0], *states]

    @torch.no_grad()
    def continued(self, words: Ints, mask: Ints, count: int) -> Ints:
        """Return what ``generate()`` says behind prompts, greedily, whatever else it is set to."""
        device = next(self.decoder.parameters()).device
        ids, seen = (torch.from_numpy(x.copy()).to(device) for x in (words, mask))
        former = self.decoder.generation_config
        self.decoder.generation_config = GenerationConfig()
        try:
            made = self.decoder.generate(
                input_ids=ids, attention_mask=seen, max_new_tokens=count, do_sample=False
            )
        finally:
            self.decoder.generation_config = former
        said: Ints = made[:, ids.shape[1] :].cpu().numpy()
        return said


def _readings(calls: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Return calls in groups that begin with an empty cache."""
    found: list[list[tuple[int, int]]] = []
    for start, stop in calls:
        if start == 0:
            found.append([])
        found[-1].append((start, stop))
    return found


def _spread(rows: Sequence[Tensor], real: Tensor, axis: int) -> Tensor:
    """Return rows in one tensor, each element in the slot of its token, zeros at padding."""
    shape = list(rows[0].shape)
    shape[axis] = real.shape[1]
    out = rows[0].new_zeros(len(rows), *shape)
    for index, (row, seen) in enumerate(zip(rows, real, strict=True)):
        out[index].transpose(0, axis)[seen] = row.transpose(0, axis)
    return out
