"""Small decoders of transformers, by what is theirs, whose texts vary."""

from __future__ import annotations

from typing import Any

import torch

SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 256, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = SIZES | {"num_key_value_heads": 2}
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.5 * i for i in range(8)],
}  # fmt: skip
# name of the classes, and their config
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _GROUPED | {"head_dim": 16}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _GROUPED | {
        "num_hidden_layers": 4, "head_dim": 16, "sliding_window": 8, "tie_word_embeddings": False,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES | {"rotary_pct": 0.5}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _GROUPED | {
        "original_max_position_embeddings": 64, "rope_parameters": _LONGROPE,
    }),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _GROUPED | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
    }),
    "falcon": ("FalconForCausalLM", "FalconConfig", SIZES | {
        "alibi": False, "new_decoder_architecture": False, "multi_query": True,
    }),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", SIZES | {
        "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
        "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16, "v_head_dim": 16, "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    }),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", _GROUPED | {
        "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
    }),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _GROUPED | {
        "num_hidden_layers": 4, "head_dim": 16, "sliding_window": 8, "tie_word_embeddings": False,
    }),
}  # fmt: skip


def decoder(kind: str, scale: float = 12.0, seed: int = 0, **changes: Any) -> Any:
    """Return a model of random weights, the same every time, its matrices scaled.

    With weights as they are initialised a model says one token again and again, and so does
    Gemma with the weights of its embeddings for its logits.
    """
    import transformers

    model_name, config_name, config = KINDS[kind]
    torch.manual_seed(seed)
    made = getattr(transformers, config_name)(**config | changes)
    model = getattr(transformers, model_name)(made).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)
    return model


def continued(model: Any, prompt: list[int], new: int, **options: Any) -> list[int]:
    """Return what the model's own ``generate`` says after a prompt, alone and without an end."""
    tokens = torch.tensor([prompt])
    said = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=new,
        do_sample=False,
        **{"eos_token_id": None} | options,
    )
    text: list[int] = said[0].tolist()
    return text[len(prompt) :]
