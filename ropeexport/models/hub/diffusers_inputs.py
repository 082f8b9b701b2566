"""What ``forward`` of the classes of diffusers with RoPE takes: a table, a class to a row.

An axis is a dynamic one of :data:`ropeexport.models.hub.samples.SIZES` (``length``, a multiple of
it or a sum, ``4*length``, ``length+1``), a field of the config (or ``#field``, how many numbers it
holds, or a part of one, ``field/3``), a number, a sum or product of those, or ``name=number``, a
size that the file keeps as it was traced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Parameters
    ----------
    axes : str
        Its axes; an input of which the config has no such field is left out.
    kind : str
        ``float`` (in the model's type), ``float32``, ``int``, ``positions``, ``ids`` (floats),
        ``whole ids``, ``ones``, ``lengths`` (of the texts) or ``complex`` (rotations); empty: as
        the argument's name says.
    only : str
        A field of the config without which there is no such input.
    below : str
        The field that integers are below; empty: below 2.
    """

    axes: str
    kind: str = ""
    only: str = ""
    below: str = ""


Inputs = Mapping[str, str | Input | Sequence[Any]]

# a pipeline's step up to 1000, too coarse in a half type
_STEP = Input("batch", "float32")
_VIDEO = "batch in_channels frames height width"
_FIXED_VIDEO = "batch in_channels frames=3 height=8 width=8"
_TEXT = "batch text_length text_dim"
_FIXED_TEXT_MASK = Input("batch text_length=7", "ones")

_PACKED: Inputs = {  # FLUX and its kin: packed latents, and ids on several axes
    "hidden_states": "batch length in_channels",
    "encoder_hidden_states": "batch text_length joint_attention_dim",
    "timestep": "batch",
    "img_ids": "length #axes_dims_rope",
    "txt_ids": "text_length #axes_dims_rope",
}
_FLUX: Inputs = {
    **_PACKED,
    "pooled_projections": "batch pooled_projection_dim",
    "guidance": Input("batch", only="guidance_embeds"),
}
_WAN: Inputs = {
    "hidden_states": _VIDEO,
    "timestep": _STEP,
    "encoder_hidden_states": _TEXT,
}
_ANY_FLOW: Inputs = {
    "hidden_states": "batch frames in_channels height width",
    "timestep": Input("batch frames", "float32"),
    "r_timestep": Input("batch frames", "float32"),
    "encoder_hidden_states": _TEXT,
}
_COG_VIDEO: Inputs = {  # a table of cosines and one of sines, of the patches
    "hidden_states": "batch frames=2 in_channels height=8 width=8",
    "encoder_hidden_states": "batch text_length text_embed_dim",
    "timestep": _STEP,
    "image_rotary_emb": (
        Input("patches=32 attention_head_dim", "float32"),
        Input("patches=32 attention_head_dim", "float32"),
    ),
}
_HUNYUAN_DIT: Inputs = {
    "hidden_states": "batch in_channels height=8 width=8",
    "timestep": _STEP,
    "encoder_hidden_states": "batch text_len cross_attention_dim",
    "text_embedding_mask": "batch text_len",
    "encoder_hidden_states_t5": "batch text_len_t5 cross_attention_dim_t5",
    "text_embedding_mask_t5": "batch text_len_t5",
    "image_meta_size": Input("batch 6", only="use_style_cond_and_image_meta_size"),
    "style": Input("batch", "int", only="use_style_cond_and_image_meta_size"),
    "image_rotary_emb": (
        Input("patches=16 attention_head_dim", "float32"),
        Input("patches=16 attention_head_dim", "float32"),
    ),
}
_QWEN_IMAGE: Inputs = {
    "hidden_states": "batch patches=16 in_channels",
    "encoder_hidden_states": "batch text_length=7 joint_attention_dim",
    "encoder_hidden_states_mask": _FIXED_TEXT_MASK,
    "timestep": "batch",
}
_LTX2: Inputs = {
    "hidden_states": "batch patches=48 in_channels",
    "audio_hidden_states": "batch audio_frames=9 audio_in_channels",
    "encoder_hidden_states": "batch text_length caption_channels",
    "audio_encoder_hidden_states": "batch text_length caption_channels",
    "timestep": _STEP,
    "encoder_attention_mask": "batch text_length",
}
_HUNYUAN_VIDEO: Inputs = {
    "hidden_states": _FIXED_VIDEO,
    "timestep": "batch",
    "encoder_hidden_states": "batch text_length=7 text_embed_dim",
    "encoder_attention_mask": _FIXED_TEXT_MASK,
    "pooled_projections": "batch pooled_projection_dim",
    "guidance": Input("batch", only="guidance_embeds"),
}
_Z_IMAGE: Inputs = {  # lists of images and of texts, here of one
    "x": ["in_channels 1 height=8 width=8"],
    "t": "1",
    "cap_feats": ["text_length cap_feat_dim"],
}
_HISTORY = {"clean": 2, "history_2x": 2, "history_4x": 8}  # frames that were made before

INPUTS: dict[str, Inputs] = {
    "AceStepTransformer1DModel": {
        "hidden_states": "batch 2*length audio_acoustic_hidden_dim",
        "timestep": "batch",
        "timestep_r": "batch",
        "encoder_hidden_states": "batch text_length hidden_size",
        "context_latents": "batch 2*length 2*audio_acoustic_hidden_dim",
    },
    "AllegroTransformer3DModel": {
        "hidden_states": "batch in_channels frames=3 height=8 width=12",
        "encoder_hidden_states": "batch text_length caption_channels",
        "timestep": _STEP,
        "image_rotary_emb": (  # tables of cosines and sines of each axis, and positions on it
            tuple(
                (Input(f"{name} attention_head_dim/3", "float32"),) * 2
                for name in ("frames=3", "rows=4", "columns=6")
            ),
            (Input("1 patches=72", "int"),) * 3,
        ),
    },
    "AnimaTextConditioner": {
        "source_hidden_states": "batch text_length source_dim",
        "target_input_ids": Input("batch length", "int", below="target_vocab_size"),
    },
    "AnyFlowFARTransformer3DModel": {
        "hidden_states": "batch frames=4 in_channels height width",
        "timestep": Input("batch frames=4", "float32"),
        "r_timestep": Input("batch frames=4", "float32"),
        "encoder_hidden_states": _TEXT,
    },
    "AnyFlowTransformer3DModel": _ANY_FLOW,
    "BriaFiboTransformer2DModel": {
        **_FLUX,
        "img_ids": "length 3",
        "txt_ids": "text_length 3",
        "text_encoder_layers": ["batch text_length text_encoder_dim"] * 4,
    },
    "BriaTransformer2DModel": _FLUX,
    "ChromaTransformer2DModel": {  # its code makes its batch a constant
        name: str(axes).replace("batch", "batch=2") for name, axes in _PACKED.items()
    },
    "ChronoEditTransformer3DModel": _WAN,
    "CogVideoXTransformer3DModel": _COG_VIDEO,
    "CogView4Transformer2DModel": {
        "hidden_states": "batch in_channels height width",
        "encoder_hidden_states": "batch text_length text_embed_dim",
        "timestep": _STEP,
        "original_size": "batch 2",
        "target_size": "batch 2",
        "crop_coords": "batch 2",
    },
    "ConsisIDTransformer3DModel": _COG_VIDEO,
    "CosmosControlNetModel": {
        "controls_latents": "batch in_channels frames height width",
        "latents": "batch in_channels frames height width",
        "timestep": "batch",
        "encoder_hidden_states": "batch text_length text_embed_dim",
        "condition_mask": Input("batch 1 frames height width", "float"),
        "padding_mask": Input("1 1 height width", "float"),
    },
    "CosmosTransformer3DModel": {
        "hidden_states": _VIDEO,
        "timestep": "batch",
        "encoder_hidden_states": "batch text_length text_embed_dim",
        "padding_mask": Input("1 1 height width", "float", only="concat_padding_mask"),
    },
    "EasyAnimateTransformer3DModel": {
        "hidden_states": _FIXED_VIDEO,
        "timestep": _STEP,
        "encoder_hidden_states": "batch text_length text_embed_dim",
    },
    "ErnieImageTransformer2DModel": {
        "hidden_states": "batch in_channels height width",
        "timestep": "batch",
        "text_bth": "batch text_length text_in_dim",
        "text_lens": Input("batch", "lengths"),
    },
    "Flux2Transformer2DModel": {  # its pipelines give ids as integers, for each of the batch
        **_PACKED,
        "img_ids": Input("batch length #axes_dims_rope", "whole ids"),
        "txt_ids": Input("batch text_length #axes_dims_rope", "whole ids"),
        "guidance": Input("batch", only="guidance_embeds"),
    },
    "Flux3Transformer2DModel": _PACKED,
    "FluxControlNetModel": {**_FLUX, "controlnet_cond": "batch length in_channels"},
    "FluxTransformer2DModel": _FLUX,
    "GlmImageTransformer2DModel": {
        "hidden_states": "batch in_channels height width",
        "encoder_hidden_states": "batch text_length text_embed_dim",
        "prior_token_id": Input("batch 1", "int", below="prior_vq_quantizer_codebook_size"),
        "prior_token_drop": Input("batch", "ones"),
        "timestep": _STEP,
        "target_size": "batch 2",
        "crop_coords": "batch 2",
    },
    "HeliosTransformer3DModel": {
        **_WAN,
        "indices_hidden_states": Input("batch frames", "positions"),
        "indices_latents_history_short": Input("batch short=2", "positions"),
        "indices_latents_history_mid": Input("batch mid=2", "positions"),
        "indices_latents_history_long": Input("batch long=4", "positions"),
        "latents_history_short": "batch in_channels short=2 height width",
        "latents_history_mid": "batch in_channels mid=2 height width",
        "latents_history_long": "batch in_channels long=4 height width",
    },
    "HiDreamImageTransformer2DModel": {
        "hidden_states": "batch in_channels height=8 width=8",
        "timesteps": _STEP,
        "encoder_hidden_states_t5": "batch text_length 64",
        "encoder_hidden_states_llama3": "2 batch text_length 64",
        "pooled_embeds": "batch text_emb_dim",
    },
    "HunyuanDiT2DControlNetModel": {
        **_HUNYUAN_DIT,
        "controlnet_cond": "batch in_channels height=8 width=8",
    },
    "HunyuanDiT2DModel": _HUNYUAN_DIT,
    "HunyuanImageTransformer2DModel": {
        "hidden_states": "batch in_channels height width",
        "timestep": "batch",
        "encoder_hidden_states": "batch text_length text_embed_dim",
        "encoder_attention_mask": "batch text_length",
        "guidance": Input("batch", only="guidance_embeds"),
    },
    "HunyuanVideo15Transformer3DModel": {
        "hidden_states": _FIXED_VIDEO,
        "timestep": "batch",
        "encoder_hidden_states": "batch text_length=7 text_embed_dim",
        "encoder_attention_mask": _FIXED_TEXT_MASK,
        "encoder_hidden_states_2": "batch glyphs=4 text_embed_2_dim",
        "encoder_attention_mask_2": "batch glyphs=4",
        "image_embeds": "batch image_length=3 image_embed_dim",
    },
    "HunyuanVideoFramepackTransformer3DModel": {
        **_HUNYUAN_VIDEO,
        "image_embeds": Input("batch image_length=5 image_proj_dim", only="has_image_proj"),
        "indices_latents": Input("frames=3", "positions"),
        **{
            f"latents_{name}": Input(
                f"batch in_channels {name}={count} height=8 width=8", only="has_clean_x_embedder"
            )
            for name, count in _HISTORY.items()
        },
        **{
            f"indices_latents_{name}": Input(
                f"{name}={count}", "positions", only="has_clean_x_embedder"
            )
            for name, count in _HISTORY.items()
        },
    },
    "HunyuanVideoTransformer3DModel": _HUNYUAN_VIDEO,
    "Ideogram4Transformer2DModel": {
        "hidden_states": "batch length in_channels",
        "encoder_hidden_states": "batch length llm_features_dim",
        "timestep": "batch",
        "position_ids": Input("batch length 3", "whole ids"),
        "segment_ids": Input("batch length", "int"),
        "indicator": Input("batch length", "int"),
    },
    "JoyImageEditPlusTransformer3DModel": {
        "hidden_states": "batch=2 patches=2 in_channels 1 2 2",
        "encoder_hidden_states": "batch=2 text_length text_dim",
        "timestep": "batch=2",
    },
    "JoyImageEditTransformer3DModel": {
        "hidden_states": _FIXED_VIDEO,
        "encoder_hidden_states": _TEXT,
        "timestep": "batch",
    },
    "Kandinsky5Transformer3DModel": {
        "hidden_states": "batch frames=2 height=8 width=8 in_visual_dim",
        "encoder_hidden_states": "batch text_length in_text_dim",
        "timestep": "batch",
        "pooled_projections": "batch in_text_dim2",
        "visual_rope_pos": [
            Input("frames=2", "positions"),
            Input("rows=4", "positions"),
            Input("columns=4", "positions"),
        ],
        "text_rope_pos": Input("text_length", "positions"),
    },
    "Kandinsky6SRTransformer3DModel": {
        "hidden_states": "batch frames=2 height=8 width=8 2*in_visual_dim+1",
        "timestep": "batch",
    },
    "Kandinsky6Transformer3DModel": {
        "hidden_states": Input(
            "batch frames=2 height=8 width=8 2*in_visual_dim+1", only="visual_cond"
        ),
        "encoder_hidden_states": "batch text_length in_text_dim",
        "pooled_projections": "batch in_text_dim2",
        "timestep": "batch",
        "audio_hidden_states": "batch audio_length in_audio_dim",
    },
    "Krea2Transformer2DModel": {
        "hidden_states": "batch patches=9 in_channels",
        "encoder_hidden_states": "batch text_length=7 num_text_layers text_hidden_dim",
        "timestep": "batch",
        "position_ids": Input("tokens=16 3", "ids"),
        "encoder_attention_mask": _FIXED_TEXT_MASK,
    },
    "LTX2VideoTransformer3DModel": _LTX2,
    "LTXVideoTransformer3DModel": {
        "hidden_states": "batch patches=48 in_channels",
        "encoder_hidden_states": "batch text_length=7 caption_channels",
        "timestep": "batch",
        "encoder_attention_mask": _FIXED_TEXT_MASK,
    },
    "LongCatAudioDiTTransformer": {
        "hidden_states": "batch length latent_dim",
        "encoder_hidden_states": "batch text_length dit_text_dim",
        "encoder_attention_mask": "batch text_length",
        "timestep": "batch",
        "attention_mask": "batch length",
        "latent_cond": Input("batch length latent_dim", only="use_latent_condition"),
    },
    "LongCatImageTransformer2DModel": {**_PACKED, "guidance": "batch"},
    "Lumina2Transformer2DModel": {
        "hidden_states": "batch=2 in_channels height=8 width=8",
        "timestep": "batch=2",
        "encoder_hidden_states": "batch=2 text_length=7 cap_feat_dim",
        "encoder_attention_mask": "batch=2 text_length=7",
    },
    "LuminaNextDiT2DModel": {
        "hidden_states": "batch=2 in_channels height=16 width=16",
        "timestep": "batch=2",
        "encoder_hidden_states": "batch=2 text_length cross_attention_dim",
        "encoder_mask": Input("batch=2 text_length", "float"),
        "image_rotary_emb": Input("384 384 8", "complex"),
    },
    "MiniMaxH3Transformer3DModel": {  # a sequence of texts, sound and patches of 1 x 2 x 2
        "hidden_states": "batch length 4*in_channels",
        "audio_hidden_states": "batch audio_length audio_in_channels",
        "encoder_hidden_states": "batch text_length text_dim",
        "timestep": Input("steps", "float32"),
        "timestep_indices": Input("length+audio_length+text_length", "int"),
        "token_tags": Input("length+audio_length+text_length", "int"),
        "position_ids": Input("length+audio_length+text_length 3", "ids"),
        "video_indices": Input("length", "positions"),
        "audio_indices": Input("audio_length", "positions"),
        "text_indices": Input("text_length", "positions"),
    },
    "MiniMaxMusic3Transformer1DModel": {
        "hidden_states": "batch in_channels length",
        "encoder_hidden_states": "batch length condition_dim",
        "timestep": "batch",
    },
    "MochiTransformer3DModel": {
        "hidden_states": "batch=2 in_channels frames height=8 width=8",
        "timestep": "batch=2",
        "encoder_hidden_states": "batch=2 text_length=7 text_embed_dim",
        "encoder_attention_mask": "batch=2 text_length=7",
    },
    "MotifVideoTransformer3DModel": {
        "hidden_states": _VIDEO,
        "encoder_hidden_states": "batch text_length text_embed_dim",
        "timestep": _STEP,
    },
    "NucleusMoEImageTransformer2DModel": _QWEN_IMAGE,
    "OvisImageTransformer2DModel": _PACKED,
    "PRXTransformer2DModel": {
        "hidden_states": "batch in_channels height width",
        "encoder_hidden_states": "batch text_length context_in_dim",
        "timestep": "batch",
    },
    "QwenImage21Transformer2DModel": {  # texts, then the places of one image, four tokens each
        "hidden_states": "batch patches=16 in_channels",
        "encoder_hidden_states": "batch text_length=7 context_in_dim",
        "timestep": "batch",
        "encoder_hidden_states_mask": _FIXED_TEXT_MASK,
    },
    "QwenImageControlNetModel": {**_QWEN_IMAGE, "controlnet_cond": "batch patches=16 in_channels"},
    "QwenImageTransformer2DModel": _QWEN_IMAGE,
    "SanaVideoTransformer3DModel": {
        "hidden_states": _FIXED_VIDEO,
        "timestep": "batch",
        "encoder_hidden_states": "batch text_length=7 caption_channels",
    },
    "SkyReelsV2Transformer3DModel": _WAN,
    "StableAudio3DiTModel": {
        "hidden_states": "batch io_channels length",
        "timestep": "batch",
        "encoder_hidden_states": "batch text_length cond_token_dim",
        "global_hidden_states": "batch global_cond_dim",
    },
    "StableAudioDiTModel": {
        "hidden_states": "batch in_channels length",
        "timestep": "batch",
        "encoder_hidden_states": "batch text_length cross_attention_input_dim",
        "global_hidden_states": "batch 1 global_states_input_dim",
        "rotary_embedding": (Input("length+1 attention_head_dim/2", "float32"),) * 2,
    },
    "WanAnimateTransformer3DModel": {  # faces go through their encoder so many at a time
        "hidden_states": "batch=2 in_channels frames=21 height width",
        "timestep": Input("batch=2", "float32"),
        "encoder_hidden_states": "batch=2 text_length text_dim",
        "encoder_hidden_states_image": "batch=2 image_length image_dim",
        "pose_hidden_states": "batch=2 latent_channels frames=20 height width",
        "face_pixel_values": "batch=2 3 pictures=77 motion_encoder_size motion_encoder_size",
    },
    "WanTransformer3DModel": _WAN,
    "WanVACETransformer3DModel": {
        **_WAN,
        "control_hidden_states": "batch vace_in_channels frames height width",
    },
    "ZImageControlNetModel": {**_Z_IMAGE, "control_context": ["control_in_dim 1 height=8 width=8"]},
    "ZImageTransformer2DModel": _Z_IMAGE,
}

ARGUMENTS: dict[str, dict[str, Any]] = {  # that are no inputs
    "AnyFlowFARTransformer3DModel": {"chunk_partition": [2, 2]},
    "JoyImageEditPlusTransformer3DModel": {"shape_list": [[(1, 1, 1), (1, 1, 1)]] * 2},
    "LTX2VideoTransformer3DModel": {
        "num_frames": 3, "height": 4, "width": 4, "audio_num_frames": 9, "fps": 25.0,
    },
    "LTXVideoTransformer3DModel": {"num_frames": 3, "height": 4, "width": 4},
    "LuminaNextDiT2DModel": {"cross_attention_kwargs": {}},
    "NucleusMoEImageTransformer2DModel": {"img_shapes": [[(1, 4, 4)]] * 2},
    "QwenImage21Transformer2DModel": {
        "img_shapes": [[(1, 4, 4)]], "img_mask": torch.tensor([[False] * 7 + [True] * 4]),
    },
    "QwenImageControlNetModel": {"img_shapes": [[(1, 4, 4)]] * 2},
    "QwenImageTransformer2DModel": {"img_shapes": [[(1, 4, 4)]] * 2},
}  # fmt: skip

# classes that are given modules of another one, by their ``from_transformer``
PARTS_OF: dict[str, str] = {"ZImageControlNetModel": "ZImageTransformer2DModel"}
