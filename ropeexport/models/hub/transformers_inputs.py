"""What ``forward`` of classes of transformers takes where no rule finds it: a class to a row.

The grammar of axes is that of :mod:`ropeexport.models.hub.diffusers_inputs`.  A field of a part of
the config has a dot, ``audio_config.num_mel_bins``; a field may be divided by another,
``hidden_size/num_attention_heads``, and be the factor of a dynamic axis, ``patch_size*height``.
Three kinds of inputs are of these classes alone: ``zeros``, a mask that says where nothing is,
``places``, the column and the row of each patch, and ``sound lengths``, the samples of each sound.
"""

from __future__ import annotations

from typing import Any

from ropeexport.models.hub.diffusers_inputs import Input, Inputs

_POSITIONS = Input("batch length", "positions")
_HIDDEN = "batch length hidden_size"
_TOKENS = Input("batch length", "int", below="vocab_size")
_DECODER_TOKENS = Input("batch text_length", "int", below="vocab_size")

_MEL: Inputs = {"input_features": "batch mel_frames num_mel_bins"}
_MEL_FIRST: Inputs = {"input_features": "batch num_mel_bins mel_frames"}
_MEL_OF_PART: Inputs = {"input_features": "batch mel_frames audio_config.num_mel_bins"}
_STACKED_MEL: Inputs = {"input_features": "batch mel_frames feature_projection_input_dim"}
_SPEECH_TO_TEXT: Inputs = {
    "input_features": "batch mel_frames encoder_config.num_mel_bins",
    "decoder_input_ids": _DECODER_TOKENS,
}
_EMBEDDED: Inputs = {"inputs_embeds": _HIDDEN, "position_ids": _POSITIONS}
_LATENTS: Inputs = {"latents": "batch hidden_size length"}
_WAVE: Inputs = {"input_values": "batch samples"}
_WAVE_OF_CHANNELS: Inputs = {"input_values": "batch audio_channels samples"}
_CODEC: Inputs = {  # the same sound twice: a frame is 320 samples
    "input_values": "batch 1 320*length",
    "input_features": "batch length semantic_model_config.feature_projection_input_dim",
}
_TEXT_AND_SOUND: Inputs = {
    "input_ids": Input("batch text_length", "int", below="text_config.vocab_size"),
    "input_values": "batch 1 samples",
}
_DECODER: Inputs = {
    "input_ids": _TOKENS,
    "position_ids": _POSITIONS,
    "encoder_hidden_states": "batch text_length hidden_size",
}
_PATCHES_AFTER_TOKENS: Inputs = {  # only the patches are rotated
    "hidden_states": "batch patches+1 hidden_size",
    "position_embeddings": ("patches hidden_size/num_attention_heads",) * 2,
}
_IMAGE_OF_SAM: Inputs = {
    "pixel_values": "batch sam_config.num_channels sam_config.image_size sam_config.image_size",
}

INPUTS: dict[str, Inputs] = {
    "BltLocalDecoder": {
        "inputs_embeds": _HIDDEN,
        "patch_embeds": "batch patches hidden_size_global",
        "position_ids": _POSITIONS,
    },
    "BltLocalEncoder": {
        "input_ids": _TOKENS,
        "position_ids": _POSITIONS,
        "patch_ids": Input("batch length", "int"),
    },
    "CanaryModel": _SPEECH_TO_TEXT,
    "CohereAsrModel": _SPEECH_TO_TEXT,
    "CsmBackboneModel": {
        "input_ids": Input("batch length num_codebooks", "int", below="vocab_size"),
        "position_ids": _POSITIONS,
    },
    "DINOv3ViTEncoder": _PATCHES_AFTER_TOKENS,
    "DeepseekOcr2VisionEncoder": _EMBEDDED,
    "DeepseekOcr2VisionModel": _IMAGE_OF_SAM,
    "DiaDecoder": {
        "input_ids": Input("batch length num_channels", "int", below="vocab_size"),
        "position_ids": _POSITIONS,
        "encoder_hidden_states": "batch text_length cross_hidden_size",
    },
    "DiaModel": {
        "input_ids": Input("batch text_length", "int", below="encoder_config.vocab_size"),
        "decoder_input_ids": Input(
            "batch length decoder_config.num_channels", "int", below="decoder_config.vocab_size"
        ),
        "decoder_position_ids": _POSITIONS,
    },
    "Dots3NoteAudioModel": {
        "input_features": "batch feature_size mel_frames",
        "chunk_sample_lengths": Input("batch", "sound lengths"),
    },
    "EfficientLoFTRModel": {"pixel_values": "batch 2 3 height=64 width=96"},  # pairs of images
    "Gemma3nAudioEncoder": {
        "audio_mel": "batch mel_frames input_feat_size",
        "audio_mel_mask": Input("batch mel_frames", "zeros"),
    },
    "Gemma4AudioModel": {
        "input_features": "batch mel_frames 128",
        "attention_mask": "batch mel_frames",
    },
    # patches are pooled by 3 rows and 3 columns, by a root that Python takes of their number; its
    # processor fills every image up to one number of them
    "Gemma4VisionModel": {
        "pixel_values": "batch patches=90 3*patch_size*patch_size",
        "pixel_position_ids": Input("batch patches=90 2", "places"),
    },
    "GlmAsrEncoder": _MEL_FIRST,
    "IdeficsModel": {
        "input_ids": _TOKENS,
        "position_ids": _POSITIONS,
        "pixel_values": (
            "batch pictures vision_config.num_channels vision_config.image_size "
            "vision_config.image_size"
        ),
        "image_attention_mask": "batch length pictures",
    },
    "KyutaiSpeechToTextModel": {  # a token of the text, and those of the sound
        "input_ids": Input("batch length num_codebooks+1", "int", below="codebook_vocab_size"),
        "position_ids": _POSITIONS,
    },
    "LasrEncoder": _MEL,
    "LightGlueForKeypointMatching": {"pixel_values": "batch=2 2 3 height=64 width=96"},
    "MimiDecoderModel": _LATENTS,
    "MimiEncoderModel": _WAVE_OF_CHANNELS,
    "MimiModel": _WAVE_OF_CHANNELS,
    "MllamaVisionModel": {
        "pixel_values": "batch pictures max_num_tiles num_channels image_size image_size",
        "aspect_ratio_ids": Input("batch pictures", "int"),
        "aspect_ratio_mask": "batch pictures max_num_tiles",
    },
    "Molmo2Adapter": {
        "image_features": "pictures patches hidden_size*#vision_feature_layer",
        "pooled_patches_idx": Input("length 4", "int"),
    },
    "Molmo2VisionModel": {
        "pixel_values": "pictures num_position_embeddings num_channels*patch_size*patch_size",
    },
    "MoonshineDecoder": _DECODER,
    "MoonshineEncoder": _WAVE,
    "MoonshineModel": {**_WAVE, "decoder_input_ids": _DECODER_TOKENS},
    "MoonshineStreamingDecoder": {
        **_DECODER,
        "encoder_hidden_states": "batch text_length encoder_config.hidden_size",
    },
    "MoonshineStreamingModel": {  # a frame is 80 samples
        "input_values": "batch 80*mel_frames",
        "decoder_input_ids": _DECODER_TOKENS,
    },
    "MoshiDepthDecoder": {
        "input_ids": Input("batch num_codebooks", "int", below="audio_vocab_size"),
        "last_hidden_state": "batch 1 input_size",
    },
    "Nemotron3DiarizationAudioModel": _MEL,
    "Nemotron3DiarizationModel": _MEL_OF_PART,
    "Nemotron3_5TranscribeAsrAudioModel": _MEL,
    "Nemotron3_5TranscribeAudioModel": {
        "input_features": "batch mel_frames=48 asr_config.num_mel_bins",
    },
    "NemotronAsrStreamingEncoder": _MEL,
    "NeuCodecModel": _CODEC,
    "ParakeetEncoder": _MEL,
    "PeAudioEncoder": {"input_values": "batch 1 samples"},
    "PeAudioFrameLevelModel": _TEXT_AND_SOUND,
    "PeAudioModel": _TEXT_AND_SOUND,
    "PixtralVisionModel": {  # Python loops over the images
        "pixel_values": "batch=1 num_channels patch_size*height patch_size*width",
    },
    "PocketTTSAudioTokenizerDecoderModel": _LATENTS,
    "PocketTTSAudioTokenizerEncoderModel": _WAVE_OF_CHANNELS,
    "PocketTTSAudioTokenizerModel": _WAVE_OF_CHANNELS,
    "Qwen2_5OmniToken2WavDiTModel": {
        "hidden_states": "batch 2*length mel_dim",
        "condition_vector": "batch mel_frames mel_dim",
        "speaker_embedding": "batch 2*length enc_emb_dim",
        "quantized_code": Input("batch length", "int", below="num_embeds"),
        "time_step": "batch",
    },
    "Qwen3OmniMoeAudioEncoder": {  # the frames of all sounds in one axis
        "input_features": "num_mel_bins mel_frames=14",
        "feature_lens": Input("sounds=2", "lengths"),
    },
    "Qwen3OmniMoeCode2Wav": {
        "codes": Input("batch num_quantizers length", "int", below="codebook_size"),
    },
    "Qwen3OmniMoeCode2WavTransformerModel": _EMBEDDED,
    "Qwen3OmniMoeTalkerCodePredictorModel": _EMBEDDED,
    "Qwen3OmniMoeTalkerModel": {
        "inputs_embeds": _HIDDEN,
        "position_ids": Input("3 batch length", "positions"),
    },
    "Sam3DetrDecoder": {
        "vision_features": "batch patches hidden_size",
        "text_features": "batch text_length hidden_size",
        "vision_pos_encoding": "batch patches hidden_size",
        "text_mask": "batch text_length",
    },
    "Sam3DetrEncoder": {
        "vision_features": ["batch hidden_size height width"],
        "text_features": "batch text_length hidden_size",
        "vision_pos_embeds": ["batch hidden_size height width"],
        "text_mask": "batch text_length",
    },
    "Sam3MaskDecoder": {
        "decoder_queries": "batch queries hidden_size",
        "backbone_features": [
            "batch hidden_size height=32 width=48",
            "batch hidden_size height=16 width=24",
            "batch hidden_size height=8 width=12",
        ],
        "encoder_hidden_states": "batch patches=96 hidden_size",
    },
    "Sam3Model": {
        "pixel_values": (
            "batch vision_config.backbone_config.num_channels "
            "vision_config.backbone_config.image_size vision_config.backbone_config.image_size"
        ),
        "input_ids": Input("batch text_length", "int", below="text_config.vocab_size"),
        "attention_mask": Input("batch text_length", "ones"),
    },
    "Sam3VisionModel": {
        "pixel_values": (
            "batch backbone_config.num_channels backbone_config.image_size "
            "backbone_config.image_size"
        ),
    },
    "Sapiens2Encoder": _PATCHES_AFTER_TOKENS,
    "SeamlessM4TCodeHifiGan": {
        "input_ids": Input("batch length", "int", below="unit_hifi_gan_vocab_size"),
        "spkr_id": Input("batch 1", "int"),
        "lang_id": Input("batch 1", "int"),
    },
    "SeamlessM4TSpeechEncoder": _STACKED_MEL,
    "SeamlessM4TTextToUnitModel": {
        "inputs_embeds": _HIDDEN,
        "decoder_input_ids": Input("batch text_length", "int", below="t2u_vocab_size"),
    },
    "T5Gemma2Decoder": _DECODER,
    "T5GemmaDecoder": {
        **_DECODER,
        "encoder_hidden_states": "batch text_length cross_attention_hidden_size",
    },
    "TimesFm2_5Model": {"past_values": "batch steps=128"},
    "UnlimitedOcrVisionEncoder": {"patch_embeds": "batch hidden_size height width"},
    "UnlimitedOcrVisionModel": _IMAGE_OF_SAM,
    "VJEPA2Model": {"pixel_values_videos": "batch 2*frames in_chans crop_size crop_size"},
    "VoxtralRealtimeEncoder": _MEL_FIRST,
    "VoxtralRealtimeModel": {  # a token has 8 frames
        "input_ids": Input("batch length", "int", below="text_config.vocab_size"),
        "input_features": "batch audio_config.num_mel_bins 8*length",
        "position_ids": _POSITIONS,
    },
    "VoxtralRealtimeTextModel": {
        "input_ids": _TOKENS,
        "position_ids": _POSITIONS,
        "t_cond": "1 1 hidden_size",
    },
    "Wav2Vec2BertModel": _STACKED_MEL,
    "Wav2Vec2ConformerModel": _WAVE,
    "Xcodec2Model": _CODEC,
}

# classes that change a tensor that they are given, which a caller of theirs has no use of
CHANGES_INPUTS = {"MoonshineStreamingDecoder"}

ARGUMENTS: dict[str, dict[str, Any]] = {  # that are no tensors
    "BltLocalEncoder": {"num_patches": 4},
    "DeepseekOcr2VisionEncoder": {"num_patches": 6},
}
