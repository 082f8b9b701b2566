"""Small modules of other people's packages, as ``ropeexport export FILE.py:factory`` takes them.

Each factory imports its own package; ``make others`` brings all of them.  Weights are random, and
the same each time: ``check`` makes the module anew.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

HEADS, SIZE, LAYERS = 2, 16, 2
WIDTH = HEADS * SIZE
ROWS = 30  # tokens that there are
LONGEST = 64
# torchvision registers shapes for operators of its own, of which it has no build for a CPU's torch
# on PyPI; timm and torchtune import it and use none of them
_UNUSED = "torchvision._meta_registrations"
sys.modules.setdefault(_UNUSED, ModuleType(_UNUSED))
Made = tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]
BY_TOKEN = {0: "batch", 1: "length"}


class Called(nn.Module):
    """A module under one input name, with settings of its call."""

    def __init__(self, module: nn.Module, **settings: Any) -> None:
        super().__init__()
        self.module, self.settings = module, settings

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, **self.settings)


def data(*shape: int) -> Tensor:
    return torch.randn(*shape)


def tokens(batch: int = 2, length: int = 12) -> Tensor:
    return torch.randint(4, ROWS, (batch, length))


# x-transformers


def _layers(causal: bool = False, **settings: Any) -> Made:
    from x_transformers.x_transformers import AttentionLayers

    torch.manual_seed(0)
    module = AttentionLayers(
        causal=causal, dim=WIDTH, depth=LAYERS, heads=HEADS, attn_dim_head=SIZE, **settings
    )
    return Called(module), {"x": data(2, 12, WIDTH)}, {"x": BY_TOKEN}


def x_encoder() -> Made:
    return _layers(rotary_pos_emb=True, rotary_emb_dim=SIZE)


def x_encoder_partial() -> Made:
    return _layers(rotary_pos_emb=True, rotary_emb_dim=SIZE // 2)


def x_decoder_xpos() -> Made:
    return _layers(causal=True, rotary_xpos=True, rotary_emb_dim=SIZE)


def x_decoder() -> Made:
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(0)
    layers = Decoder(
        dim=WIDTH, depth=LAYERS, heads=HEADS, attn_dim_head=SIZE,
        rotary_pos_emb=True, rotary_emb_dim=SIZE,
    )  # fmt: skip
    module = TransformerWrapper(num_tokens=ROWS, max_seq_len=LONGEST, attn_layers=layers)
    return Called(module), {"x": tokens()}, {"x": BY_TOKEN}


# rotary-embedding-torch


class Rotated(nn.Module):
    """Attention whose queries and keys a RotaryEmbedding of that package rotates."""

    def __init__(self, xpos: bool = False, seq_before_head_dim: bool = False, **given: Any) -> None:
        from rotary_embedding_torch import RotaryEmbedding

        super().__init__()
        self.xpos, self.first = xpos, seq_before_head_dim
        self.to_qkv, self.to_out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.rotary = RotaryEmbedding(
            SIZE, use_xpos=xpos, seq_before_head_dim=seq_before_head_dim, **given
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, HEADS, SIZE)).unbind(2)
        if not self.first:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        if self.xpos:
            q, k = self.rotary.rotate_queries_and_keys(q, k)
        else:
            q, k = (self.rotary.rotate_queries_or_keys(y) for y in (q, k))
        if self.first:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v.transpose(1, 2))
        return self.to_out(mixed.transpose(1, 2).flatten(2))


def _rotated(**settings: Any) -> Made:
    torch.manual_seed(0)
    return Rotated(**settings), {"x": data(2, 12, WIDTH)}, {"x": BY_TOKEN}


def rotary_cached() -> Made:
    return _rotated()


def rotary() -> Made:
    return _rotated(cache_if_possible=False)


def rotary_interpolated() -> Made:
    return _rotated(cache_if_possible=False, interpolate_factor=2.0)


def rotary_length_first() -> Made:
    return _rotated(cache_if_possible=False, seq_before_head_dim=True)


def rotary_xpos() -> Made:
    return _rotated(cache_if_possible=False, xpos=True)


class Axial(nn.Module):
    """Rows and columns of a picture, as the package's README does it."""

    def __init__(self, freqs_for: str) -> None:
        from rotary_embedding_torch import RotaryEmbedding

        super().__init__()
        self.rotary = RotaryEmbedding(
            SIZE // 2, freqs_for=freqs_for, max_freq=256, cache_if_possible=False
        )

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        from rotary_embedding_torch import apply_rotary_emb

        freqs = self.rotary.get_axial_freqs(q.shape[-3], q.shape[-2])
        return apply_rotary_emb(freqs, q), apply_rotary_emb(freqs, k)


def _axial(freqs_for: str, **axes: int) -> Made:
    torch.manual_seed(0)
    given = {name: data(2, HEADS, 6, 5, SIZE) for name in ("q", "k")}
    return Axial(freqs_for), given, {name: {n: x for x, n in axes.items()} for name in given}


def rotary_axial() -> Made:
    return _axial("lang", batch=0, height=2, width=3)


def rotary_pixels() -> Made:
    """Of one size, which torch.linspace takes."""
    return _axial("pixel", batch=0)


# timm


def _eva(**settings: Any) -> Made:
    from timm.models.eva import Eva

    torch.manual_seed(0)
    module = Eva(
        img_size=32, patch_size=8, embed_dim=WIDTH, depth=LAYERS, num_heads=HEADS, num_classes=5,
        use_rot_pos_emb=True, **settings,
    )  # fmt: skip
    picture = {2: "8*height", 3: "8*width"} if settings.get("dynamic_img_size") else {}
    return module, {"x": data(2, 3, 32, 32)}, {"x": {0: "batch"} | picture}


def timm_eva() -> Made:
    """Rows and columns as of pretraining's grid, as EVA-02 has them."""
    return _eva(swiglu_mlp=True, scale_mlp=True, ref_feat_shape=(2, 2))


def timm_any_size() -> Made:
    return _eva(dynamic_img_size=True, use_abs_pos_emb=False)


def timm_perception_encoder() -> Made:
    return _eva(attn_type="rope", rope_grid_offset=1.0, rope_grid_indexing="xy")


def timm_mixed() -> Made:
    """Learned frequencies, of a layer and head each."""
    return _eva(rope_type="mixed", dynamic_img_size=True, use_abs_pos_emb=False)


def _dinov3(**settings: Any) -> Made:
    """Halves, behind registers that are not rotated."""
    return _eva(
        rope_type="dinov3", rope_rotate_half=True, rope_temperature=100, num_reg_tokens=4,
        use_abs_pos_emb=False, **settings,
    )  # fmt: skip


def timm_dinov3() -> Made:
    return _dinov3()


def timm_dinov3_any_size() -> Made:
    return _dinov3(dynamic_img_size=True)


# torchtune


def torchtune_attention() -> Made:
    from torchtune.modules import MultiHeadAttention, RotaryPositionalEmbeddings

    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kinds = {"q": HEADS, "k": 1, "v": 1, "output": HEADS}
            linear = {
                f"{name}_proj": nn.Linear(WIDTH, n * SIZE, bias=False) for name, n in kinds.items()
            }
            self.attention = MultiHeadAttention(
                embed_dim=WIDTH, num_heads=HEADS, num_kv_heads=1, head_dim=SIZE,
                pos_embeddings=RotaryPositionalEmbeddings(SIZE, LONGEST), max_seq_len=LONGEST,
                **linear,
            )  # fmt: skip

        def forward(self, x: Tensor, input_pos: Tensor) -> Tensor:
            return self.attention(x, x, input_pos=input_pos)

    torch.manual_seed(0)
    given = {"x": data(2, 12, WIDTH), "input_pos": torch.arange(12).expand(2, -1).clone()}
    return SelfAttention(), given, {"x": BY_TOKEN, "input_pos": BY_TOKEN}


def _torchtune(build: Any, **settings: Any) -> Made:
    torch.manual_seed(0)
    module = build(
        vocab_size=ROWS, num_layers=LAYERS, num_heads=2 * HEADS, num_kv_heads=HEADS,
        embed_dim=2 * WIDTH, max_seq_len=LONGEST, **settings,
    )  # fmt: skip
    return Called(module), {"x": tokens()}, {"x": BY_TOKEN}


def torchtune_llama3() -> Made:
    from torchtune.models.llama3 import llama3

    return _torchtune(llama3)


def torchtune_phi3() -> Made:
    from torchtune.models.phi3 import phi3

    return _torchtune(phi3, intermediate_dim=48)


def torchtune_vision() -> Made:
    """Pictures of two tiles, each with its own class token."""
    from torchtune.models.clip import clip_vision_encoder

    torch.manual_seed(0)
    module = clip_vision_encoder(
        tile_size=32, patch_size=8, embed_dim=WIDTH, num_layers=LAYERS, num_heads=HEADS,
        use_rope=True, max_num_tiles=2, append_cls_token=True, use_tile_pos_embed=False,
    )  # fmt: skip

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = module

        def forward(self, images: Tensor) -> Tensor:
            tiles = torch.tensor([2, 1]).expand(images.shape[0], -1)
            return self.encoder(images, tiles)[0]

    return Encoder(), {"images": data(2, 1, 2, 3, 32, 32)}, {"images": {0: "batch"}}


# fair-esm


def _esm() -> nn.Module:
    from esm.data import Alphabet
    from esm.model.esm2 import ESM2

    torch.manual_seed(0)
    alphabet = Alphabet.from_architecture("ESM-1b")
    return ESM2(num_layers=LAYERS, embed_dim=WIDTH, attention_heads=HEADS, alphabet=alphabet)


def esm2() -> Made:
    """As it is, from tokens: residues, none of them masked or padding."""
    return _esm(), {"tokens": tokens()}, {"tokens": BY_TOKEN}


def esm2_layers() -> Made:
    """Its layers, from embeddings: length first."""

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = _esm().layers

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x, _ = layer(x)
            return x

    return Layers(), {"x": data(12, 2, WIDTH)}, {"x": {0: "length", 1: "batch"}}
