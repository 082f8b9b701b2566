"""Sample inputs of transformers' models, from their configs and their ``forward``."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ropeexport.errors import UsageError
from ropeexport.models.hub.samples import Sample, Samples


def samples_of(module: nn.Module, config: Any) -> Samples:
    """Return the inputs of a text or vision model, by what its ``forward`` takes."""
    takes = inspect.signature(module.forward).parameters
    if "input_ids" in takes:
        return _text(takes, config)
    if "pixel_values" in takes and isinstance(getattr(config, "image_size", None), int):
        size = config.image_size
        return Samples({"pixel_values": Sample(("batch", config.num_channels, size, size))}, {})
    raise UsageError(
        f"{type(module).__name__}: no sample inputs are known for it; write a factory that "
        "returns (module, example inputs, dynamic axes) and name it as MODEL"
    )


def _text(takes: Any, config: Any) -> Samples:
    words = getattr(config, "text_config", config)
    inputs = {"input_ids": Sample(("batch", "length"), "int", high=words.vocab_size)}
    if "position_ids" in takes:
        sections = getattr(words, "rope_parameters", None) or {}
        lead = (3,) if "mrope_section" in sections else ()
        inputs["position_ids"] = Sample((*lead, "batch", "length"), "positions")
    constants = {"use_cache": False} if "use_cache" in takes else {}
    return Samples(inputs, constants)
