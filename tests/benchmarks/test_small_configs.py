"""Classes of the libraries that rotate, and configs of them that a laptop runs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from transformers import (
    DeepseekV3Config,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    Qwen2VLConfig,
    Qwen2VLModel,
)

from benchmarks.models.configs import OWN
from benchmarks.models.discovery import discovered
from benchmarks.models.records import OTHER_RELEASES, read
from benchmarks.models.small import small

MODELS = {each.name: each for each in discovered()}


def test_what_rotates_is_found_and_what_does_not_is_left() -> None:
    """Nothing is imported: classes are read from the libraries' sources."""
    assert {"LlamaModel", "Qwen2VLTextModel", "Qwen2VisionTransformerPretrainedModel"} < {*MODELS}
    assert {"FluxTransformer2DModel", "WanTransformer3DModel", "VJEPA2Model"} < {*MODELS}
    assert not {"BertModel", "LlamaForCausalLM", "LlamaPreTrainedModel", "UNet2DModel"} & {*MODELS}
    assert "LightGlueForKeypointMatching" in MODELS  # all that its file has
    assert len(MODELS) > 300
    elsewhere = {record.name for record in read(OTHER_RELEASES).values()}
    assert {*OWN} - elsewhere <= {*MODELS}


def test_heads_keep_their_groups_and_equal_sizes_stay_equal() -> None:
    grouped, alike = small(LlamaConfig(num_key_value_heads=8)), small(LlamaConfig())
    assert (grouped["num_attention_heads"], grouped["num_key_value_heads"]) == (4, 2)
    assert (alike["num_attention_heads"], alike["num_key_value_heads"]) == (4, 4)
    mla = small(DeepseekV3Config())
    assert mla["head_dim"] == mla["qk_rope_head_dim"] == 8
    assert mla["qk_head_dim"] == mla["qk_rope_head_dim"] + mla["qk_nope_head_dim"]


def test_layers_of_every_kind_stay_at_least_two() -> None:
    gemma = small(Gemma3TextConfig())
    assert gemma["layer_types"] == ["sliding_attention", "full_attention"]
    assert gemma["num_hidden_layers"] == 2
    assert small(LlamaConfig())["num_hidden_layers"] == 2


def test_positions_lie_on_both_sides_of_a_switch() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48,
            "original_max_position_embeddings": 4096, "rope_theta": 1e4}  # fmt: skip
    made = small(Phi3Config(rope_parameters=rope, original_max_position_embeddings=4096))
    assert made["original_max_position_embeddings"] < made["max_position_embeddings"]
    assert len(made["rope_parameters"]["short_factor"]) == 8  # pairs of a head of 16


def test_parts_fit_together_and_tokens_differ() -> None:
    source = MODELS["Qwen2VLModel"].path.read_text(encoding="utf-8")
    made = small(Qwen2VLConfig(), source)
    text, vision = made["text_config"], made["vision_config"]
    assert sum(text["rope_parameters"]["mrope_section"]) == 8
    assert vision["hidden_size"] == text["hidden_size"]
    own = {made[f"{kind}_token_id"] for kind in ("image", "video", "vision_start", "vision_end")}
    assert len(own) == 4
    assert max(own) < text["vocab_size"]
    torch.manual_seed(0)
    model = Qwen2VLModel(Qwen2VLConfig(**made)).eval()
    with torch.no_grad():
        found = model(input_ids=torch.arange(3, 15).view(1, 12), use_cache=False)
    assert found.last_hidden_state.shape == (1, 12, 64)
