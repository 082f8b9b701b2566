"""A small config of a class, from the library's own default and the names that its sizes have.

Sizes that are equal in the default stay equal where they have to; heads keep their groups; layers
of every kind stay, at least two; positions lie on both sides of a switch of frequencies.  So a
class of next month's release is tried without a line about it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADS, GROUPS, HEAD, WIDTH, INNER = 4, 2, 16, 64, 96
LONGEST, SWITCH = 128, 32  # positions, and where frequencies for long sequences begin
_TOKENS = 160
_ROTARY = 8
_EXPERTS = 4
_LAYERS = 2

# whole names of sizes, as patterns: the first that fits is taken; a size that is smaller stays
_SIZES: tuple[tuple[str, int], ...] = (
    (r"num_(nextn_predict|kv_shared)_layers", 0),
    (r"first_k_dense_replace|n_shared_experts|\w*num_shared_experts|(moe_)?topk_group", 1),
    (r"n_group|num_expert_group|num_dense_layers", 1),
    (r"\w*(layers|blocks|depth|n_layer)|num_layers_per_stack", _LAYERS),
    (r"linear_num_key_heads|\w*experts_per_tok(en)?|moe_top_?k|moe_k|top_k_experts|router_top_?k",
     2),
    (r"mamba_(n|num)_heads|n_mamba_heads", 2 * HEADS),
    (r"mamba_d_ssm", 2 * HEADS * HEAD),
    (r"mamba_expand", 2),
    (r"quantization_dim", 2 * WIDTH),
    (r"qk_rope_head_dim|rotary_dim|mamba_chunk_size", _ROTARY),
    (r"qk_head_dim", HEAD + _ROTARY),
    (r"\w*(head_?dim\w*|_dim_head|d_head|d_state|state_size)|d_kv|kv_channels", HEAD),
    (r"index_n_heads", 16),  # of few, the sum of what a ReLU keeps is often 0: all scores are equal
    (r"\w*(heads|n_head)\w*", HEADS),
    (r"\w*_rank", 32),
    (r"(n|num|moe_num|num_local|n_routed|num_routed)_(routed_|local_)?experts", _EXPERTS),
    (r"\w*(intermediate|ffn|mlp|feed_forward|expert)\w*(size|dims?)|n_inner|d_ff|dim_feedforward",
     INNER),
    (r"\w*vocab_size\w*", _TOKENS),
    (r"\w*codebook_size", 64),
    (r"\w*(hidden_size\w*|embed_dim|embedding_(size|dim)|hidden_dim|projection_dim|output_dim|"
     r"input_dim|out_dim|in_dim)|d_model|n_embd|dim|lru_width", WIDTH),
    (r"\w*(attention_dim|context_in_dim|text_\w*dim|caption_channels|adaln_dim|latent_dim|freq_dim|"
     r"time_embed_dim|cond(ition)?_dim|source_dim|target_dim|model_dim)|upsample_groups|"
     r"adapter_input_size", WIDTH),
    (r"\w*(in|out|io|latent|acoustic_hidden)_(channels|dim)", 16),
    (r"sample_(height|width|size|frames)|base_(height|width)", 8),
    (r"original_max_position_embeddings", SWITCH),
    (r"\w*(position_embeddings|sequence_length|seq_len|positions)|n_ctx|model_max_length", LONGEST),
    (r"\w*sliding_window|local_attention|attention_(chunk|window)_size|index_topk|block_size", 8),
    (r"patch_size|index_kpool", 4),
    (r"window_size", 16),
    (r"image_size|crop_size", 32),
)  # fmt: skip
_OF_SIZE = tuple((re.compile(name), size) for name, size in _SIZES)
_KEPT = re.compile(r"num_residual_layers|num_res_blocks|num_adapter_layers|max_window_layers|"
                   r"num_mel_attn_blocks|num_feat_extract_layers|chunk_size_feed_forward"
                   )  # fmt: skip
_OF_GROUPS = re.compile(r"\w*(num_key_value|num_kv|n_kv)_?heads\w*|kv_heads")
_OF_INDICES = re.compile(r"vision_feature_layers?|intermediate_layers_indices|"
                         r"\w*(att|attn|attn_block|att_block|visual)_indexes")  # fmt: skip
_OF_AXES = re.compile(r"axes_dims?(_rope)?|rope_(axes_)?dim(_list)?")
_TOKEN = re.compile(r"\w*_token_(id|index)")
# what a default may leave open, and a model needs
_LEFT_OPEN = re.compile(r"sliding_window|local_attention|vocab_size|num_experts_per_tok|"
                        r"num_experts|n_(routed|shared)_experts|top_k_experts|moe_intermediate_size"
                        )  # fmt: skip
_KINDS_LEFT_OPEN = {"mlp_layer_types": ["dense", "sparse"]}
_NO_PART_OF_IT = {
    "transformers_version", "architectures", "id2label", "label2id", "dtype", "_name_or_path",
    "out_features", "out_indices", "stage_names",
}  # fmt: skip
_KNOWN_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class _Layers:
    """The layers of a config, and those that are kept of them."""

    count: int
    kept: tuple[int, ...]


def small(config: Any, source: str = "") -> dict[str, Any]:
    """Return the values of a small config, of which its class makes one.

    Parameters
    ----------
    config : PretrainedConfig
        The default of its class; parts are made small in their places.
    source : str
        The code of its models, which says what a config may hold beside its defaults.
    """
    values = {key: x for key, x in config.to_dict().items() if key not in _NO_PART_OF_IT}
    layers = _layers(values)
    made = {}
    for key, value in values.items():
        part = vars(config).get(key)
        is_part = hasattr(part, "to_dict") and isinstance(value, dict)
        made[key] = small(part, _source_of(part)) if is_part else _small(key, value, layers)
    made |= dict(_rotary(made, source))
    made |= dict(_tokens(made))
    made |= dict(_alike(values, made))
    made |= _by_layer(values, layers)
    rope = made.get("rope_parameters")
    if rope and isinstance(rope, Mapping):
        made["rope_parameters"] = _rope(_of_share(rope, values, made), made, source)
    return made


def _source_of(config: Any) -> str:
    """Return the code of the models of a config: it lies beside the config's."""
    file = Path(inspect.getfile(type(config)))
    beside = file.with_name(file.name.replace("configuration_", "modeling_"))
    return beside.read_text(encoding="utf-8") if beside.exists() else ""


def small_arguments(kind: Any) -> dict[str, Any]:
    """Return the values of a small config of a class that has them as arguments (diffusers)."""
    given = inspect.signature(kind.__init__).parameters.items()
    values = {key: x.default for key, x in given if x.default is not x.empty}
    made = {key: _small(key, value, None) for key, value in values.items()}
    made |= dict(_alike(values, made))
    head = next((made[key] for key in ("attention_head_dim", "head_dim") if key in made), HEAD)
    for key, value in values.items():
        if _OF_AXES.fullmatch(key) and isinstance(value, list | tuple):
            made[key] = type(value)(_even_shares(value, head))
    return made


def _even_shares(parts: Sequence[int], total: int) -> list[int]:
    """Share a number out as it was before, in even parts."""
    made = [max(4, 2 * (part * total // sum(parts) // 2)) for part in parts]
    return [*made[:-1], total - sum(made[:-1])]


def _small(key: str, value: Any, layers: _Layers | None) -> Any:
    """Return a value of a config made small."""
    if isinstance(value, list | tuple):
        return _small_list(key, value, layers)
    if value is None:
        value = _TOKENS if _LEFT_OPEN.fullmatch(key) else _KINDS_LEFT_OPEN.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0 or _KEPT.fullmatch(key):
        return value
    if layers and key in _OF_LAYERS and value == layers.count:
        return len(layers.kept)
    size = next((size for name, size in _OF_SIZE if name.fullmatch(key)), value)
    return min(size, value)


def _small_list(key: str, value: Sequence[Any], layers: _Layers | None) -> Sequence[Any]:
    """Return a list of a config for the layers that are kept."""
    if layers and len(value) == layers.count:
        if list(value) == list(range(layers.count)):  # the layers' own numbers
            return list(range(len(layers.kept)))
        return [value[index] for index in layers.kept]
    if value and _OF_INDICES.fullmatch(key):
        return [_LAYERS - 1]  # the first layer is of the other kind
    return [WIDTH] * len(value) if key == "downsample_channels" else value


_OF_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "depth")


def _layers(values: Mapping[str, Any]) -> _Layers | None:
    """Return the layers, one of each kind that lists say, at least two; None without lists."""
    count = next((values[key] for key in _OF_LAYERS if isinstance(values.get(key), int)), 0)
    rows = [x for x in values.values() if isinstance(x, list) and len(x) == count > _LAYERS]
    rows = [x for x in rows if all(isinstance(each, str | int) for each in x)]
    rows = [x for x in rows if len(set(x)) < count]
    if not rows:
        return None
    kinds = list(zip(*rows, strict=True))
    first = sorted(kinds.index(kind) for kind in dict.fromkeys(kinds))
    return _Layers(count, tuple(first if len(first) >= _LAYERS else range(_LAYERS)))


def _rotary(made: Mapping[str, Any], source: str) -> Iterator[tuple[str, Any]]:
    """Yield what has a model rotate where its default has it learn positions, or attend nowhere."""
    for key in made:
        if re.fullmatch(r"position_embeddings?_type", key) and '"rotary"' in source:
            yield key, "rotary"
        elif key == "use_rotary_embedding":
            yield key, True
        elif key == "attn_layer_indices" and not made[key]:
            yield key, [_LAYERS - 1]


def _tokens(made: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield tokens that a small vocabulary has, each another."""
    last = _TOKENS
    for key in sorted(made):
        if _TOKEN.fullmatch(key) and isinstance(made[key], int) and made[key] >= 0:
            last -= 1
            yield key, _KNOWN_TOKENS.get(key, 0 if key.endswith("pad_token_id") else last)
        elif _TOKEN.fullmatch(key) and isinstance(made[key], list):
            yield key, [_KNOWN_TOKENS.get(key, 2)]


def _alike(values: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what follows from other sizes, or stands for one where the default has none."""
    if values.get("head_dim", 0) is None and values.get("num_attention_heads"):
        yield "head_dim", HEAD
    for key, value in values.items():
        if not _OF_GROUPS.fullmatch(key):
            continue
        of_it = key.replace("key_value", "attention")  # of an encoder, say
        names = {"num_attention_heads", "num_heads", of_it} - {key}
        heads = {values[name] for name in names if name in values}
        if value is None or isinstance(value, int):
            yield key, _groups(value, heads)
        elif isinstance(value, list):  # by layer
            yield key, [_groups(each, heads) for each in made[key]]
    if isinstance(made.get("mamba_d_ssm"), int):
        yield "mamba_d_head", made["mamba_d_ssm"] // made["mamba_n_heads"]
    for key in ("head_dim", "qk_head_dim", "v_head_dim"):
        for other in ("qk_rope_head_dim", "qk_head_dim"):
            if other in made and values.get(key) and values.get(key) == values.get(other):
                yield key, made[other]


def _groups(value: int | None, heads: set[int]) -> int:
    return HEADS if value in heads else min(GROUPS, value or GROUPS)


def _by_layer(values: Mapping[str, Any], layers: _Layers | None) -> dict[str, Any]:
    """Return what single layers have of their own, for the layers that are kept."""
    given = values.get("per_layer_config")
    if not given:
        return {}
    kept = layers.kept if layers else range(_LAYERS)
    own = {new: given.get(f"{old:02d}") for new, old in enumerate(kept)}
    return {
        "per_layer_config": {
            f"{new:02d}": {key: 2 * HEAD if key == "head_dim" else _small(key, x, None)
                           for key, x in fields.items()}
            for new, fields in own.items() if fields
        }
    }  # fmt: skip


def _of_share(
    rope: Mapping[str, Any], values: Mapping[str, Any], made: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a rope with the rotary share of the small head, where it had that of the default's."""
    names = ("qk_rope_head_dim", "qk_nope_head_dim")
    if not all(isinstance(values.get(name), int) for name in names):
        return dict(rope)
    former, new = (x[names[0]] / (x[names[0]] + x[names[1]]) for x in (values, made))
    is_share = rope.get("partial_rotary_factor") == former
    return {**rope, "partial_rotary_factor": new} if is_share else dict(rope)


def _rope(rope: Mapping[str, Any], made: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return parameters of a rope for a small head."""
    if any(isinstance(value, dict) for value in rope.values()):  # by kind of layer
        return {k: _rope(x, made, source) if isinstance(x, dict) else x for k, x in rope.items()}
    sizes = (made.get(key) for key in ("qk_rope_head_dim", "head_dim", "attention_head_dim"))
    head = next((size for size in sizes if size), HEAD)
    part = rope.get("partial_rotary_factor") or made.get("partial_rotary_factor") or 1
    pairs = int(head * part) // 2
    found = dict(rope)
    is_of_text = found.get("rope_type") != "axial"
    if found.get("mrope_section") or (is_of_text and "mrope_section" in source):
        found["mrope_section"] = _shared(found.get("mrope_section") or _sections(source), pairs)
    for key in ("long_factor", "short_factor"):
        if found.get(key):
            found[key] = found[key][:pairs]
    if found.get("original_max_position_embeddings"):
        found["original_max_position_embeddings"] = SWITCH
    return found


def _sections(source: str) -> list[int]:
    """Return the sections of a rope that models take where a config says none."""
    found = re.search(r"mrope_section\W+(\d+), (\d+), (\d+)\]", source)
    return [int(part) for part in found.groups()] if found else [16, 24, 24]


def _shared(parts: Sequence[int], total: int) -> list[int]:
    """Share a number out as it was before, at least 1 each."""
    made = [max(1, part * total // sum(parts)) for part in parts]
    return [*made[:-1], total - sum(made[:-1])]
