"""The files beside a decoder with a cache, by which other runtimes generate text with it.

``genai_config.json`` is onnxruntime-genai's; ``config.json`` and ``generation_config.json`` are
transformers', which optimum reads; a tokenizer's files come along where the decoder's folder has
them.

Source: onnxruntime-genai's configuration reference (``genai_config.json``), read with 0.18.
"""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from ropeexport.errors import UsageError
from ropeexport.manifest import CacheRecord, Manifest, TensorSpec
from ropeexport.models.example import Example

GENAI, CONFIG, GENERATION = "genai_config.json", "config.json", "generation_config.json"
_TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
)  # fmt: skip
# the type of which onnxruntime-genai reads a text again at 4097 tokens, and of no other length
_PHI3, _PHI3_SWITCH = "phi3", 4096
_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")


def companions(
    example: Example, record: Manifest, folder: Path, former: Container[str] = ()
) -> dict[str, bytes]:
    """Return the files to be written beside an export with a cache, by their names.

    Parameters
    ----------
    example : Example
        What was exported.
    record : Manifest
        Of the export.
    folder : Path
        Where it is written.
    former : container of str
        Files of an earlier export there, which these replace; others stay as they are.

    Raises
    ------
    UsageError
        For a config of another model in the folder.
    """
    cache = record.cache
    if cache is None:
        return {}
    decoder: Any = example.module.decoder
    made = {GENERATION: _generation_config(decoder), CONFIG: decoder.config.to_json_string()}
    genai = _genai_config(decoder, record, cache)
    if genai is not None:
        made[GENAI] = json.dumps(genai, indent=2) + "\n"
    files = {name: text.encode() for name, text in made.items()}
    home = Path(str(getattr(decoder.config, "_name_or_path", "") or folder))
    if home.is_dir() and home.resolve() != folder.resolve():
        files |= {
            name: (home / name).read_bytes() for name in _TOKENIZER if (home / name).is_file()
        }
    kept = {name for name in files if (folder / name).exists() and name not in former}
    if CONFIG in kept:
        _check_same(folder / CONFIG, decoder.config)
    return {name: text for name, text in files.items() if name not in kept}


def _check_same(path: Path, config: Any) -> None:
    """Raise for the config of another model, which other runtimes would read."""
    try:
        values = json.loads(path.read_text())
        found = values.get("model_type") or "no config"
        own = type(config).from_dict(values) if found == config.model_type else None
    except (OSError, ValueError, AttributeError, TypeError):
        found, own = "no config", None
    sizes = {} if own is None else _sizes(own)
    other = next((name for name, n in _sizes(config).items() if sizes.get(name) != n), "")
    if own is None or other:
        what = found if own is None else f"{other}={sizes.get(other)}"
        expected = config.model_type if own is None else f"{other}={getattr(config, other)}"
        raise UsageError(
            f"{path}: expected none, or the config of the model that is exported ({expected}), got "
            f"that of another one ({what}); choose another output folder",
            code="RX302",
        )


def _sizes(config: Any) -> dict[str, int]:
    """Return the whole numbers of a config: its sizes, and its tokens."""
    return {name: x for name, x in config.to_dict().items() if type(x) is int}


def _generation_config(decoder: Any) -> str:
    made = getattr(decoder, "generation_config", None)
    text: str = made.to_json_string(use_diff=True) if made is not None else "{}\n"
    return text


def _genai_config(decoder: Any, record: Manifest, cache: CacheRecord) -> dict[str, Any] | None:
    """Return onnxruntime-genai's configuration; None where layers differ, which it has no word for.

    It is told the tensors' names; what the model computes is the file's own business.  Where the
    text would have to be read again, which it does for one length alone, its context ends.
    """
    specs = {spec.name: spec for spec in record.model.inputs}
    pasts = [specs[past] for past, _ in cache.pairs]
    sizes = {(spec.shape[1], spec.shape[3]) for spec in pasts}
    if len(sizes) != 1:
        return None
    ((heads, width),) = sizes
    config = decoder.config.get_text_config(decoder=True)
    is_phi3 = cache.reread_at == _PHI3_SWITCH
    longest = cache.capacity if is_phi3 else min(cache.capacity, cache.reread_at or cache.capacity)
    tokens = {
        "bos_token_id": cache.bos,
        "eos_token_id": list(cache.eos) if len(cache.eos) > 1 else next(iter(cache.eos), None),
        "pad_token_id": cache.pad if cache.pad is not None else next(iter(cache.eos), 0),
    }
    asked = getattr(decoder, "generation_config", None)
    sampling = {name: getattr(asked, name, None) for name in _SAMPLING}
    return {
        "model": {
            "type": _PHI3 if is_phi3 else "decoder",
            **{name: value for name, value in tokens.items() if value is not None},
            "context_length": longest,
            "vocab_size": config.vocab_size,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": record.model.file,
                "head_size": width,
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.num_attention_heads,
                "num_hidden_layers": cache.layers,
                "num_key_value_heads": heads,
                "inputs": {
                    **{name: name for name in _others(record.model.inputs, cache)},
                    "past_key_names": _pattern(cache.pairs[0][0]),
                    "past_value_names": _pattern(cache.pairs[1][0]),
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": _pattern(cache.pairs[0][1]),
                    "present_value_names": _pattern(cache.pairs[1][1]),
                },
            },
        },
        "search": {
            "do_sample": bool(getattr(asked, "do_sample", False)),
            **{name: value for name, value in sampling.items() if value is not None},
            "max_length": longest,
            "num_beams": 1,
            "past_present_share_buffer": cache.form == "fixed",
        },
    }


def _others(specs: tuple[TensorSpec, ...], cache: CacheRecord) -> list[str]:
    """Return the inputs that are not the cache's."""
    pasts = {past for past, _ in cache.pairs}
    return [spec.name for spec in specs if spec.name not in pasts]


def _pattern(name: str) -> str:
    """Return a name of the first layer for all: ``past_key_values.%d.key``."""
    return name.replace(".0.", ".%d.")
