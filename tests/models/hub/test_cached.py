"""A decoder with the tensors of its cache: what it computes, beside its own cache and masks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import DynamicCache

import ropeexport
from ropeexport.errors import UsageError
from ropeexport.models.hub.cached import CachedDecoder
from ropeexport.models.hub.cached_proof import states_of
from ropeexport.models.hub.decoders import cached_example
from tests.decoders import KINDS, decoder

PROMPTS = ([5, 9, 17, 3, 22, 8, 31, 77, 44, 3, 61, 12, 90], [90, 3, 45])


def alone(model: Any, tokens: list[int]) -> torch.Tensor:
    """Return the logits of a text by the model's own means: its masks, its positions, no cache."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([tokens])).logits[0]
    return logits


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, PROMPTS))
    ids = torch.zeros(len(PROMPTS), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(PROMPTS):
        place = slice(longest - len(prompt), None) if side == "left" else slice(len(prompt))
        ids[row, place], mask[row, place] = torch.tensor(prompt), 1
    return ids, mask


def in_steps(model: Any, form: str, ids: torch.Tensor, mask: torch.Tensor, ends: list[int]) -> Any:
    """Return logits of a text that is read in pieces, from an empty cache."""
    made = cached_example(model, form, 32)
    batch, held, logits = ids.shape[0], 0, []
    slots = 32 if form == "fixed" else 0
    past = [
        {name: torch.zeros(batch, x.shape[1], slots, x.shape[3]) for name, x in layer.items()}
        for layer in made.inputs["past_key_values"]
    ]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        for start, end in pairwise([0, *ends]):
            found = made.module(ids[:, start:end], mask[:, :end], positions[:, start:end], past)
            past, held = found["present"], end
            logits.append(found["logits"])
    assert held == ids.shape[1]
    return torch.cat(logits, 1), past


@pytest.mark.parametrize("form", ["grow", "fixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_what_it_is_alone(kind: str, form: str) -> None:
    model = decoder(kind)
    for side in ("left", "right"):
        ids, mask = padded(side)
        # more tokens behind the padding, as decoding puts them there
        more = torch.tensor([[7, 11, 100, 23], [64, 2, 81, 5]])
        ids, mask = torch.cat([ids, more], 1), torch.cat([mask, torch.ones_like(more)], 1)
        got, _ = in_steps(model, form, ids, mask, [6, 13, 14, 15, 16, 17])
        for row in range(2):
            real = mask[row].bool()
            expected = alone(model, ids[row][real].tolist())
            torch.testing.assert_close(got[row][real], expected, rtol=1e-4, atol=1e-4)


def test_padding_makes_nothing_that_is_not_finite() -> None:
    """A query that sees nothing would: its values are in the cache that later ones read."""
    ids, mask = padded("left")
    for form in ("grow", "fixed"):
        logits, past = in_steps(decoder("llama"), form, ids, mask, [13])
        assert all(x.isfinite().all() for x in (logits, *past[0].values(), *past[1].values()))


def test_the_window_is_no_wider_and_no_narrower() -> None:
    """Of a window of 8, the ninth token before is unseen and the eighth is seen."""
    model = decoder("gemma3", layer_types=["sliding_attention"], num_hidden_layers=1)
    tokens = torch.arange(3, 15)[None]
    mask = torch.ones_like(tokens)
    usual, _ = in_steps(model, "grow", tokens, mask, [11, 12])
    for place, is_seen in ((3, False), (4, True)):  # of the last token, at 11
        other = tokens.clone()
        other[0, place] = 99
        changed, _ = in_steps(model, "grow", other, mask, [11, 12])
        assert bool((changed[:, -1] != usual[:, -1]).any()) is is_seen


def test_the_decoder_is_left_as_it_was() -> None:
    model = decoder("gemma2").train()
    implementation = model.config._attn_implementation
    names = list(model.state_dict())
    made = cached_example(model, "grow")
    assert list(made.module.state_dict()) == names
    assert made.module.training
    assert model.training
    made.module.eval()
    assert not model.training
    assert not any(part.training for part in model.modules())
    assert model.config._attn_implementation == implementation


def test_shapes_are_those_of_the_models_own_cache() -> None:
    for kind in KINDS:
        model = decoder(kind)
        cache = DynamicCache()
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 3, dtype=torch.int64), past_key_values=cache)
        own = [
            tuple((x.shape[1], x.shape[3]) for x in (layer.keys, layer.values))
            for layer in cache.layers
        ]
        assert states_of(model) == own


def test_what_keeps_another_state_is_refused_by_name() -> None:
    from transformers import (
        BertConfig,
        BertLMHeadModel,
        BloomConfig,
        BloomForCausalLM,
        LlamaConfig,
        LlamaModel,
        MambaConfig,
        MambaForCausalLM,
        Qwen3NextConfig,
        Qwen3NextForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    small = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2}
    hybrid = Qwen3NextConfig(
        **small, num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=0,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, intermediate_size=16, mlp_only_layers=[0, 1],
        layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    for model, reason in (
        (Qwen3NextForCausalLM(hybrid), "Qwen3NextForCausalLM.*LinearAttentionLayer"),
        (MambaForCausalLM(MambaConfig(**small, state_size=4)), "MambaForCausalLM"),
        (T5ForConditionalGeneration(T5Config(
            vocab_size=32, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=16,
        )), "T5ForConditionalGeneration.*encoder"),
        (BertLMHeadModel(BertConfig(**small, intermediate_size=16, num_attention_heads=2)),
         "BertLMHeadModel.*sees what comes later"),
        (BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2)),
         "BloomForCausalLM.*position_ids"),
        (LlamaModel(LlamaConfig(**small, intermediate_size=16, num_attention_heads=2)),
         "LlamaModel.*logits"),
        (torch.nn.Linear(2, 2), "decoder of transformers, got a Linear"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=reason):
            cached_example(model.eval(), "grow")


def test_a_decoder_that_knows_its_tokens_by_other_means_is_refused() -> None:
    """Here by how many there are in a call, which is another number with a cache."""
    model = decoder("llama")
    forward = type(model).forward

    def counting(self: Any, input_ids: Any, position_ids: Any = None, **given: Any) -> Any:
        made = forward(self, input_ids=input_ids, position_ids=position_ids, **given)
        made.logits = made.logits + input_ids.shape[1]
        return made

    model.__class__ = type("Counting", (type(model),), {"forward": counting})
    with pytest.raises(UsageError, match=r"Counting: with its cache it gives other logits"):
        cached_example(model, "grow")


def test_a_cache_ends_where_all_tokens_would_be_turned_anew() -> None:
    """Of a model that keeps its cache there; Phi-3's reads the text again."""
    longrope = KINDS["phi3"][2]["rope_parameters"]
    made = cached_example(decoder("llama", rope_parameters=longrope), "grow").cache
    again = cached_example(decoder("phi3"), "grow").cache
    assert made is not None
    assert again is not None
    assert (made.capacity, made.reread_at) == (64, None)
    assert (again.capacity, again.reread_at) == (256, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_proven_too(dtype: torch.dtype) -> None:
    assert cached_example(decoder("gemma3", scale=3).to(dtype), "fixed", 16).cache is not None


def test_bad_requests_say_what_is_wrong(tmp_path: Any) -> None:
    model = decoder("llama")
    for options, reason in (
        ({"cache": "shrink"}, "grow or fixed"),
        ({"cache": "fixed", "capacity": 1}, "a whole number of 2 to"),
        ({"capacity": 8}, "only with a cache"),
        ({"cache": "grow", "kwargs": {"x": torch.zeros(1)}}, "decoder alone"),
    ):
        with pytest.raises(UsageError, match=reason):
            ropeexport.export(model, out=tmp_path / "out", **options)
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    longrope = KINDS["phi3"][2]["rope_parameters"]
    for other, reason in (
        (decoder("falcon", alibi=True), r"got ALiBi"),
        (decoder("llama", rope_parameters=dynamic), "at most 256, beyond which Llama.*got 300"),
        (decoder("llama", rope_parameters=longrope), "at most 64, beyond which Llama.*got 300"),
    ):
        with pytest.raises(UsageError, match=reason):
            ropeexport.export(other, out=tmp_path / "out", cache="grow", capacity=300)
    with pytest.raises(UsageError, match="only for transformers:CONFIG"):
        ropeexport.export("flux-attention", out=tmp_path / "out", cache="grow")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module", params=["grow", "fixed"])
def made(request: Any, tmp_path_factory: Any) -> ropeexport.Export:
    folder = tmp_path_factory.mktemp("cached") / request.param
    return ropeexport.export(decoder("llama"), out=folder, cache=request.param, capacity=48)


def test_the_interface_is_what_other_runtimes_read(made: ropeexport.Export) -> None:
    cache = made.manifest.cache
    assert cache is not None
    assert (cache.capacity, cache.layers) == (48, 2)
    model = onnx.load(made.artifact.model_path)
    length: Any = 48 if cache.form == "fixed" else "past"
    present: Any = 48 if cache.form == "fixed" else "past + length"
    steps = ("batch", "length")
    expected = {
        "input_ids": steps,
        "attention_mask": ("batch", "past + length"),
        "position_ids": steps,
        **{past: ("batch", 2, length, 16) for past, _ in cache.pairs},
    }
    assert shapes_of(model.graph.input) == expected
    outputs = {"logits": (*steps, 512)} | {x: ("batch", 2, present, 16) for _, x in cache.pairs}
    assert shapes_of(model.graph.output) == outputs
    assert cache.pairs[1] == ("past_key_values.0.value", "present.0.value")
    assert {o.domain: o.version for o in model.opset_import}[""] == (
        24 if cache.form == "fixed" else 23
    )
    kinds = {node.op_type for node in model.graph.node}
    assert ("TensorScatter" in kinds) is (cache.form == "fixed")
    masks = [n.input[3] for n in model.graph.node if n.op_type == "Attention"]
    assert len(masks) == 2
    assert len(set(masks)) == 1  # made once
    assert not any(len(n.input) > 4 for n in model.graph.node if n.op_type == "Attention")
    assert (made.found, made.replaced) == (2, 2)
    assert (cache.eos, cache.bos, cache.pad) == ((2,), 1, 0)


def shapes_of(values: Any) -> dict[str, tuple[Any, ...]]:
    return {
        value.name: tuple(
            dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }


def test_the_file_is_what_the_module_is(made: ropeexport.Export) -> None:
    import onnxruntime

    cache = made.manifest.cache
    assert cache is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.artifact.model_path, options)
    ids, mask = padded("left")
    slots = 48 if cache.form == "fixed" else 0
    feeds = {
        "input_ids": ids.numpy(),
        "attention_mask": mask.numpy(),
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0).numpy(),
        **{past: np.zeros((2, 2, slots, 16), np.float32) for past, _ in cache.pairs},
    }
    logits = session.run(["logits"], feeds)[0]
    for row, prompt in enumerate(PROMPTS):
        expected = alone(decoder("llama"), prompt)
        np.testing.assert_allclose(logits[row, -len(prompt) :], expected, rtol=1e-4, atol=1e-4)


def test_a_held_decoder_is_wrapped_where_it_is_needed(made: ropeexport.Export) -> None:
    from ropeexport.models.sources import rebuild_example

    model = decoder("llama")
    for given in (model, lambda: model, lambda: (model, {}, {})):
        example = rebuild_example(made.artifact, given)
        assert isinstance(example.module, CachedDecoder)
        assert example.axes == made.manifest.axes
