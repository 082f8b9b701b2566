"""Random weights of a library's model: none that its class leaves at zero, and no cache."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Cache, DynamicCache, MoonshineStreamingConfig
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput

from ropeexport.models.builtin_models import seeded
from ropeexport.models.hub.load import _return_no_cache, transformers_example


class Zeros(nn.Module):
    """As transformers starts padding tokens and routers, and diffusers last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 8, padding_idx=1)
        self.router = nn.Linear(8, 4)
        nn.init.zeros_(self.router.weight)
        nn.init.zeros_(self.router.bias)


def test_no_matrix_and_no_padding_token_is_zero() -> None:
    state = torch.random.get_rng_state()
    module, again = seeded(Zeros), seeded(Zeros)
    assert module.router.weight.count_nonzero() == 32
    assert module.words.weight.count_nonzero() == 32
    assert not module.router.bias.any()  # a vector says nothing of an order
    assert module.router.weight.requires_grad
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_part_returns_a_cache() -> None:
    class Config:
        use_cache = True

    whole, part = nn.Module(), nn.Module()
    whole.config, part.config, whole.part = Config(), Config(), part
    _return_no_cache(whole)
    assert not whole.config.use_cache
    assert not part.config.use_cache


class Encoder(nn.Module):
    """As DiffusionGemma's, which makes a cache and returns it whatever its config says."""

    def forward(self, x: torch.Tensor, past_key_values: Cache | None = None) -> ModelOutput:
        return BaseModelOutputWithPast(x, past_key_values or DynamicCache())


def test_a_whole_that_returns_a_cache_whatever_is_said_returns_the_rest() -> None:
    whole = Encoder()
    _return_no_cache(whole)
    assert list(whole(torch.ones(1))) == ["last_hidden_state"]


def test_a_class_that_changes_what_it_is_given_is_given_copies(tmp_path) -> None:
    config = MoonshineStreamingConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16, head_dim=8,
        encoder_config={"hidden_size": 16},
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    example = transformers_example(tmp_path, torch.float32, seeded, "MoonshineStreamingDecoder")
    given = {name: x.clone() for name, x in example.inputs.items()}
    with torch.no_grad():
        example.module(**example.inputs, **example.constants)
    for name, x in given.items():
        assert torch.equal(x, example.inputs[name])
