"""Models whose own way to compute cannot be traced: mixtures of experts, one key for all heads."""

from __future__ import annotations

import pytest
import torch

import ropeexport
from ropeexport.models.example import Example
from ropeexport.models.hub.load import traceable_experts

pytestmark = pytest.mark.tools  # models of other libraries, minutes of them

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
EXPERTS = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "num_experts_per_tok": 2}
CONFIGS = {
    "Mixtral": {**EXPERTS, "num_local_experts": 4},
    "Qwen3Moe": {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 16},
    "Falcon": SMALL,
}


def model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**CONFIGS[kind])
    return transformers.AutoModel.from_config(config).eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_is_exported_as_it_is(tmp_path, kind) -> None:
    module = model(kind)
    config = module.config
    ways = config._experts_implementation, config._attn_implementation
    inputs = {"input_ids": torch.arange(12).view(2, 6)}
    axes = {"input_ids": {0: "batch", 1: "length"}}
    example = Example(module, inputs, axes, constants={"use_cache": False})
    made = ropeexport.export(example, out=tmp_path, axes={"length": (1, 8, 16)})
    assert (made.found, made.replaced) == (1, 1)
    assert made.check(cases=3).verdict == "PASS"
    assert (config._experts_implementation, config._attn_implementation) == ways


def test_experts_are_put_back() -> None:
    module = model("Mixtral")
    former = module.config._experts_implementation
    assert former != "batched_mm"
    with traceable_experts(module):
        assert module.config._experts_implementation == "batched_mm"
    assert module.config._experts_implementation == former
