"""An exported language model inside transformers' own ``generate``, with its cache or without.

The cache's interface is that of optimum and onnxruntime-genai: inputs ``past_key_values.%d.key``
and ``.value``, outputs ``present.%d.key`` and ``.value``, of shape (batch, heads, length,
head_dim).

Source: transformers 5, ``generation/utils.py`` (what ``generate`` asks of a model) and
``cache_utils.py`` (``Cache``, ``DynamicLayer``).
"""

from __future__ import annotations

import re
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ropeexport.errors import UsageError
from ropeexport.inference.module import Adapt, ExportedModule
from ropeexport.manifest import TensorSpec

if TYPE_CHECKING:
    from ropeexport.inference.loaded import LoadedModel

_CACHE = "past_key_values"
_GROWING = (DynamicLayer, DynamicSlidingWindowLayer)
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")


class GeneratingModule(ExportedModule, GenerationMixin):  # type: ignore[misc]
    """An export that stands for a language model, ``generate`` included."""

    _FURTHER = (*ExportedModule._FURTHER, _CACHE, "use_cache")

    def __init__(self, model: LoadedModel, like: nn.Module, adapt: Adapt | None = None) -> None:
        super().__init__(model, like, adapt)
        found = [_PAST.fullmatch(spec.name) for spec in model.inputs]
        self._layers = 1 + max((int(match[1]) for match in found if match), default=-1)
        self._record = model.artifact.manifest.cache
        self._pasts = {spec.name: spec for spec in model.inputs if _PAST.fullmatch(spec.name)}

    @wraps(GenerationMixin.prepare_inputs_for_generation)  # whose arguments ``generate`` looks at
    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, past_key_values: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what a step takes: all tokens again where their rotations change (longrope)."""
        limit = self._record.reread_at if self._record is not None else None
        held = 0 if past_key_values is None else past_key_values.get_seq_length()
        if limit is not None and 0 < held <= limit < input_ids.shape[1]:
            past_key_values = kwargs["next_sequence_length"] = None
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, **kwargs
        )
        return prepared

    def get_experts_implementation(self) -> dict[str, str | None]:
        """Return that there is no choice how experts are computed, which ``generate`` asks."""
        return {}

    def _called(self, given: dict[str, Any]) -> dict[str, Any]:
        """Run the model on the tokens since the cache, which grows by them in its place."""
        uses = given.pop("use_cache", None)
        cache = given.pop(_CACHE, None)
        if self._layers == 0:
            if uses or (cache is not None and cache.get_seq_length()):
                raise UsageError(
                    "use_cache: the export has no cache: pass use_cache=False, or export it with "
                    "cache='grow'",
                    code="RX611",
                )
            return super()._called(self._with_mask(given, 0))
        if self._record is not None and self._record.form == "fixed":
            raise UsageError(
                "generate: the export's cache has a fixed capacity, which transformers' generate "
                "does not keep: call generate of what ropeexport.load returned, or export again "
                "with cache='grow'",
                code="RX612",
            )
        keeps = cache is not None or uses is not False
        if cache is None:
            cache = DynamicCache(config=self.config)
        self._check(cache)
        pasts = {name: self._past(name, cache, given) for name in self._pasts}
        outputs = super()._called({**self._with_mask(given, cache.get_seq_length()), **pasts})
        for index in range(self._layers):
            _put(cache, index, *(outputs[f"present.{index}.{x}"] for x in ("key", "value")))
        return {**outputs, _CACHE: cache} if keeps else outputs

    def _check(self, cache: Any) -> None:
        """Raise for a cache that does not hold the past alone: one of a fixed size, say."""
        layers = getattr(cache, "layers", [])
        if not isinstance(cache, DynamicCache) or any(type(x) not in _GROWING for x in layers):
            raise UsageError(
                f"{_CACHE}: expected a DynamicCache, which grows, got a {type(cache).__name__}: "
                "leave it out, and cache_implementation too",
                code="RX612",
            )

    def _with_mask(self, given: dict[str, Any], past: int) -> dict[str, Any]:
        """Return arguments with the mask and the positions that the file takes.

        ``generate`` leaves out a mask that hides nothing, but gives positions always: without them
        the models count from the cache's length, padding and all.
        """
        tokens = given.get("input_ids")
        if tokens is None or tokens.ndim != 2:
            return given
        mask = given.get("attention_mask")
        if mask is not None and "attention_mask" not in self._types:
            if not bool((mask != 0).all()):
                raise UsageError(
                    "attention_mask: it hides tokens, and the export has no such input: export "
                    "again with attention_mask among the arguments",
                    code="RX612",
                )
            del given["attention_mask"]
        batch, length = tokens.shape
        if given.get("attention_mask") is None and "attention_mask" in self._types:
            given["attention_mask"] = tokens.new_ones((batch, past + length))
        if "position_ids" in self._types:
            positions = given.get("position_ids")
            if positions is None:
                positions = torch.arange(past, past + length, device=tokens.device)[None]
            if positions.ndim == 2 and positions.shape[0] == 1:  # one row for all, as generate has
                positions = positions.expand(batch, length)
            given["position_ids"] = positions
        return given

    def _past(self, name: str, cache: Any, given: dict[str, Any]) -> torch.Tensor:
        """Return what a cache holds; nothing yet is a tensor without a length."""
        match = _PAST.fullmatch(name)
        assert match is not None
        spec, index = self._pasts[name], int(match[1])
        if index < len(cache.layers) and cache.layers[index].is_initialized:
            held: torch.Tensor = getattr(cache.layers[index], f"{match[2]}s")
            return held
        batch = next(x.shape[0] for x in given.values() if isinstance(x, torch.Tensor))
        return torch.empty(_empty(spec, batch), dtype=self._types[name], device=self.device)

    def _returned(self, outputs: dict[str, Any], wants_class: bool) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        if "logits" not in outputs:
            return super()._returned(outputs, wants_class)
        made = CausalLMOutputWithPast(logits=outputs["logits"], past_key_values=outputs.get(_CACHE))
        return made if wants_class else made.to_tuple()


def _put(cache: Any, index: int, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Have a layer of a cache hold what the model returned: the past, and the new tokens."""
    if index >= len(cache.layers) or not cache.layers[index].is_initialized:
        cache.update(keys[:, :, :0], values[:, :, :0], index)
    layer = cache.layers[index]
    layer.keys, layer.values = keys, values
    if layer.is_sliding:  # of which all is held: the file's mask has the window
        layer.cumulative_length = keys.shape[2]


def _empty(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    """Return the shape of a cache that holds nothing."""
    _, heads, length, width = spec.shape
    if isinstance(length, int) or not (isinstance(heads, int) and isinstance(width, int)):
        raise UsageError(
            f"{spec.name}: expected shape (batch, heads, past, head_dim) with a dynamic past, got "
            f"{spec.shape}",
            code="RX612",
        )
    return batch, heads, 0, width
