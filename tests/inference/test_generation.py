"""An exported language model inside transformers' own ``generate``: the same tokens as eager's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from decoders import decoder
from torch import nn
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
)

import ropeexport
from ropeexport.errors import UsageError

pytestmark = pytest.mark.pipelines  # minutes of them, see Makefile

SIZES = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def made(kind, config) -> nn.Module:
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)  # else a few tokens come again and again
    return model


def exported(model: nn.Module, folder: Path) -> Path:
    ropeexport.export(model, out=folder, cache="grow")
    return folder


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    return made(LlamaForCausalLM, LlamaConfig(**SIZES))


@pytest.fixture(scope="module")
def cached(llama, tmp_path_factory) -> Path:
    return exported(llama, tmp_path_factory.mktemp("cached"))


@pytest.fixture(scope="module")
def served(cached, llama):
    return ropeexport.load(cached, device="cpu").as_module(like=llama)


@pytest.fixture
def prompt() -> torch.Tensor:
    return torch.randint(3, 128, (2, 7), generator=torch.Generator().manual_seed(1))


WAYS = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "top_k": 20},
    "beams": {"do_sample": False, "num_beams": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_tokens_as_eager(llama, served, prompt, way: str) -> None:
    found = []
    for model in (llama, served):
        torch.manual_seed(1)
        found.append(model.generate(prompt, max_new_tokens=60, **WAYS[way]))
    assert torch.equal(*found)
    assert len(set(found[0].flatten().tolist())) > 40


def test_a_batch_that_is_padded_on_the_left(llama, served, prompt) -> None:
    mask = torch.ones_like(prompt)
    mask[0, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 40, "do_sample": False}
    wanted, found = llama.generate(prompt, **options), served.generate(prompt, **options)
    assert torch.equal(wanted, found)
    unmasked = llama.generate(prompt, max_new_tokens=40, do_sample=False)
    assert not torch.equal(unmasked, wanted)  # the mask is no ornament


def test_a_wrong_cache_changes_the_tokens(llama, served, prompt, monkeypatch) -> None:
    """What is compared above depends on what lies in the cache."""
    from ropeexport.inference import generation

    put = generation._put
    monkeypatch.setattr(generation, "_put", lambda x, i, k, v: put(x, i, k.roll(1, -2), v))
    options = {"max_new_tokens": 40, "do_sample": False}
    wanted, found = llama.generate(prompt, **options), served.generate(prompt, **options)
    assert not torch.equal(wanted, found)


def test_calls_of_ones_own_with_a_cache(llama, served, prompt) -> None:
    cache, other = DynamicCache(config=llama.config), DynamicCache(config=llama.config)
    with torch.no_grad():
        for tokens in (prompt, prompt[:, :1]):
            found = served(tokens, past_key_values=cache)
            wanted = llama(tokens, past_key_values=other)
            torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
            assert found.past_key_values is cache
    assert cache.get_seq_length() == other.get_seq_length() == 8


def continued(model, prompt: torch.Tensor) -> torch.Tensor:
    options = {"do_sample": False, "return_dict_in_generate": True}
    first = model.generate(prompt, max_new_tokens=5, **options)
    longer = torch.cat([first.sequences, prompt[:, :1]], 1)
    cache = first.past_key_values
    return model.generate(longer, past_key_values=cache, max_new_tokens=9, do_sample=False)


def test_a_batch_without_a_mask_and_a_cache(llama, tmp_path) -> None:
    """``generate`` gives the positions of one row for all."""
    tokens = torch.randint(3, 64, (2, 6))
    inputs = {"input_ids": tokens, "position_ids": torch.arange(6).expand(2, 6).contiguous()}
    steps = {0: "batch", 1: "length"}
    axes = {"input_ids": steps, "position_ids": steps}
    example = ropeexport.Example(llama, inputs, axes, constants={"use_cache": False})
    ropeexport.export(example, out=tmp_path / "out")
    module = ropeexport.load(tmp_path / "out", device="cpu").as_module(like=llama)
    options = {"max_new_tokens": 5, "do_sample": False, "use_cache": False}
    assert torch.equal(module.generate(tokens, **options), llama.generate(tokens, **options))


CACHES = {
    "its own": lambda model, prompt, options: model.generate(prompt, **options),
    "none": lambda model, prompt, options: model.generate(prompt, use_cache=False, **options),
    "that knows no layers": lambda model, prompt, options: model.generate(
        prompt, past_key_values=DynamicCache(), **options
    ),
    "of the call before": lambda model, prompt, options: continued(model, prompt),
    "that is cut back": lambda model, prompt, options: model.generate(
        prompt[:1], prompt_lookup_num_tokens=3, **options
    ),
    "filled in parts": lambda model, prompt, options: model.generate(
        prompt, prefill_chunk_size=3, **options
    ),
}


@pytest.fixture(scope="module")
def sliding(tmp_path_factory) -> tuple[nn.Module, nn.Module]:
    """Return a model whose cache has layers of a window, and its export."""
    model = made(MistralForCausalLM, MistralConfig(**SIZES, sliding_window=512))
    folder = exported(model, tmp_path_factory.mktemp("sliding"))
    return model, ropeexport.load(folder, device="cpu").as_module(like=model)


@pytest.mark.parametrize("which", CACHES)
@pytest.mark.parametrize("kind", ["full", "sliding"])
def test_every_cache_that_grows(llama, served, sliding, prompt, kind: str, which: str) -> None:
    models = (llama, served) if kind == "full" else sliding
    options = {"max_new_tokens": 12, "do_sample": False}
    wanted, found = (CACHES[which](model, prompt, options) for model in models)
    assert torch.equal(wanted, found)


@pytest.fixture(scope="module", params=["gemma3", "phi3"])
def other(request, tmp_path_factory) -> tuple[nn.Module, nn.Module]:
    """Return a model of a window of 8 tokens, or whose rotations change after 64; its export."""
    model = decoder(request.param)
    folder = exported(model, tmp_path_factory.mktemp(request.param))
    return model, ropeexport.load(folder, device="cpu").as_module(like=model)


@pytest.mark.parametrize("way", WAYS)
def test_beyond_a_window_and_across_a_switch(other, prompt, way: str) -> None:
    found = []
    for model in other:
        torch.manual_seed(1)
        options = {"max_new_tokens": 80, "eos_token_id": None, **WAYS[way]}
        found.append(model.generate(prompt, **options))
    assert torch.equal(*found)
    assert len(set(found[0][:, 7:].flatten().tolist())) > 20


# of longrope transformers turns all by the longest text, and reads again by the padded length
@pytest.mark.parametrize("other", ["gemma3"], indirect=True)
def test_a_batch_with_padding_beyond_a_window(other, prompt) -> None:
    model, served = other
    mask = torch.ones_like(prompt)
    mask[0, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 40, "do_sample": False}
    assert torch.equal(model.generate(prompt, **options), served.generate(prompt, **options))


def test_an_export_with_a_fixed_cache_generates_by_itself(llama, prompt, tmp_path) -> None:
    ropeexport.export(llama, out=tmp_path / "out", cache="fixed", capacity=64)
    model = ropeexport.load(tmp_path / "out", device="cpu")
    with pytest.raises(UsageError, match=r"call generate of what ropeexport.load returned"):
        model.as_module(like=llama).generate(prompt, max_new_tokens=4)
    wanted = llama.generate(prompt, max_new_tokens=40, do_sample=False)
    assert torch.equal(model.generate(prompt, max_new_tokens=40), wanted)


def test_a_cache_of_a_fixed_size_is_refused(served, prompt) -> None:
    with pytest.raises(UsageError, match=r"expected a DynamicCache, .* got a StaticCache: leave"):
        served.generate(prompt, cache_implementation="static", max_new_tokens=4)
    cache = StaticCache(config=served.config, max_cache_len=16)
    with torch.no_grad(), pytest.raises(UsageError, match="got a StaticCache"):
        served(prompt, past_key_values=cache)


def test_without_a_cache(llama, prompt, tmp_path) -> None:
    kwargs = {
        "input_ids": prompt, "attention_mask": torch.ones_like(prompt), "use_cache": False,
    }  # fmt: skip
    axes = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
    ropeexport.export(llama, kwargs, tmp_path / "out", dynamic_axes=axes)
    served = ropeexport.load(tmp_path / "out", device="cpu").as_module(like=llama)
    options = {"max_new_tokens": 20, "do_sample": False, "use_cache": False}
    assert torch.equal(llama.generate(prompt, **options), served.generate(prompt, **options))
    with pytest.raises(UsageError, match="use_cache: the export has no cache"):
        served.generate(prompt, max_new_tokens=20)


def test_a_model_without_its_head_does_not_generate(llama, prompt, tmp_path) -> None:
    kwargs = {"input_ids": prompt, "use_cache": False}
    ropeexport.export(llama.model, kwargs, tmp_path / "out")
    model = ropeexport.load(tmp_path / "out", device="cpu")
    with pytest.raises(UsageError, match=r"expected what was exported, .*LlamaModel, got a LlamaF"):
        model.as_module(like=llama)


def test_a_mask_that_hides_nothing_needs_no_input(llama, prompt, tmp_path) -> None:
    made = ropeexport.export(llama, out=tmp_path / "out")  # with the inputs that are known
    assert "attention_mask" not in [spec.name for spec in made.manifest.model.inputs]
    served = ropeexport.load(tmp_path / "out", device="cpu").as_module(like=llama)
    options = {"max_new_tokens": 20, "do_sample": False, "use_cache": False}
    options["attention_mask"] = torch.ones_like(prompt)
    assert torch.equal(llama.generate(prompt, **options), served.generate(prompt, **options))
    options["attention_mask"][0, 0] = 0
    with pytest.raises(UsageError, match="attention_mask: it hides tokens"):
        served.generate(prompt, **options)
