"""Ten modules of public repositories, in writings that no other test has.

The list was drawn up before the first of them was tried, and none was exchanged afterwards.
Each is restated here in our own words; its repository and file are named.
"""

from __future__ import annotations

# repository, file, what is written there
SOURCES: dict[str, tuple[str, str, str]] = {
    "llama": (
        "meta-llama/llama", "llama/model.py",
        "precompute_freqs_cis and apply_rotary_emb: torch.polar, complex product, start position",
    ),
    "rotary_embedding_torch": (
        "lucidrains/rotary-embedding-torch", "rotary_embedding_torch/rotary_embedding_torch.py",
        "RotaryEmbedding with interpolate_factor: positions divided, einsum, each angle repeated",
    ),
    "sam2": (
        "facebookresearch/sam2", "sam2/modeling/position_encoding.py",
        "compute_axial_cis and apply_rotary_enc: rows and columns of a grid, complex",
    ),
    "gpt_neox": (
        "EleutherAI/gpt-neox", "megatron/model/positional_embeddings.py",
        "RotaryEmbedding and apply_rotary_pos_emb: length first, tables kept in attributes",
    ),
    "torchtune": (
        "pytorch/torchtune", "torchtune/modules/position_embeddings.py",
        "RotaryPositionalEmbeddings: a table of cosines and sines side by side, read by input_pos",
    ),
    "nanochat": (
        "karpathy/nanochat", "nanochat/gpt.py",
        "apply_rotary_emb: halves rotated the other way round, tables cut to the length",
    ),
    "gemma": (
        "google/gemma_pytorch", "gemma/model.py",
        "precompute_freqs_cis and apply_rotary_emb: halves stacked into complex numbers and back",
    ),
    "litgpt": (
        "Lightning-AI/litgpt", "litgpt/model.py",
        "build_rope_cache and apply_rope: condense_ratio, a part of the head, tables by index",
    ),
    "x_transformers": (
        "lucidrains/x-transformers", "x_transformers/x_transformers.py",
        "RotaryEmbedding with use_xpos and apply_rotary_pos_emb: a scale for each position",
    ),
    "mochi": (
        "genmoai/mochi", "src/genmo/mochi_preview/dit/joint_model/rope_mixed.py",
        "compute_mixed_rotation and apply_rotary_emb_qk_real: frequencies by head, einsum",
    ),
}  # fmt: skip
