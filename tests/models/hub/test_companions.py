"""The files beside an export with a cache: what is in them, and what is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ropeexport
from ropeexport.errors import UsageError
from ropeexport.manifest import read
from tests.decoders import continued, decoder

pytestmark = pytest.mark.pipelines  # exports of several models, one after the other

NAMES = ("config.json", "genai_config.json", "generation_config.json")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder of a model as the hub has them, with a tokenizer of a kind."""
    model = decoder("llama")
    model.generation_config.eos_token_id = [2, 9]
    model.save_pretrained(tmp_path / "home")
    (tmp_path / "home" / "tokenizer.json").write_text("{}")
    return tmp_path / "home"


def texts_in(folder: Path) -> dict[str, str]:
    return {x.name: x.read_text() for x in folder.glob("*.json") if x.name != "manifest.json"}


def test_another_folder_gets_what_generates_text(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    model = f"transformers:{home}"
    made = ropeexport.export(model, out=folder, cache="fixed", capacity=32, copy_weights=True)
    cache = made.manifest.cache
    assert cache is not None
    assert cache.files == tuple(sorted((*NAMES, "tokenizer.json")))
    assert set(texts_in(folder)) == set(cache.files)
    assert cache.eos == (2, 9)
    genai = json.loads((folder / "genai_config.json").read_text())
    assert genai["model"]["eos_token_id"] == [2, 9]
    assert genai["model"]["context_length"] == genai["search"]["max_length"] == 32
    assert genai["search"]["past_present_share_buffer"] is True
    inner = genai["model"]["decoder"]
    assert (inner["num_key_value_heads"], inner["head_size"]) == (2, 16)
    assert inner["filename"] == "model.onnx"
    assert inner["inputs"]["past_value_names"] % 1 == cache.pairs[3][0]
    assert inner["outputs"]["present_key_names"] % 1 == cache.pairs[2][1]
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"


def test_files_of_the_users_stay_and_former_ones_go(home: Path) -> None:
    before = texts_in(home)
    model = f"transformers:{home}"
    first = ropeexport.export(model, out=home, cache="grow")
    assert first.manifest.cache is not None
    assert first.manifest.cache.files == ("genai_config.json",)
    assert {name: texts_in(home)[name] for name in before} == before
    shared = texts_in(home)["genai_config.json"]
    ropeexport.export(model, out=home, cache="fixed", capacity=16, force=True)
    assert texts_in(home)["genai_config.json"] != shared
    ropeexport.export(
        model, out=home, force=True
    )  # one without a cache, which nothing generates by
    assert texts_in(home) == before


def test_another_models_config_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(UsageError, match=r"\(llama\), got that of another one \(qwen3\)"):
        ropeexport.export(decoder("llama"), out=folder, cache="grow")
    decoder("llama", vocab_size=64).config.save_pretrained(folder)
    with pytest.raises(
        UsageError, match=r"vocab_size=512\), got that of another one \(vocab_size=64"
    ):
        ropeexport.export(decoder("llama"), out=folder, cache="grow")
    assert sorted(x.name for x in folder.iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    ("kind", "changes", "referred"),
    [
        ("llama", {"tie_word_embeddings": True}, 20),  # one tensor in the file, of two names
        ("mixtral", {}, 0),  # a tensor for each expert in the file
        ("gpt_neox", {}, 0),  # another name for the head
    ],
)
def test_a_folder_as_the_hub_has_it(
    tmp_path: Path, kind: str, changes: dict[str, Any], referred: int
) -> None:
    model = decoder(kind, **changes)
    model.save_pretrained(tmp_path)
    made = ropeexport.export(f"transformers:{tmp_path}", out=tmp_path, cache="grow")
    weights = made.manifest.model.weights
    assert (weights.referenced_tensors if weights else 0) == referred
    with ropeexport.load(tmp_path, device="cpu") as loaded:
        said = loaded.generate([[5, 9, 17, 3]], max_new_tokens=12, eos_token_id=())
    assert said[0, 4:].tolist() == continued(model, [5, 9, 17, 3], 12)


def test_a_context_ends_where_another_runtime_would_go_on_wrongly(tmp_path: Path) -> None:
    """onnxruntime-genai reads a text again at 4097 tokens, and where it is called phi3 alone."""
    made = ropeexport.export(decoder("phi3"), out=tmp_path / "out", cache="grow")
    cache = made.manifest.cache
    assert cache is not None
    assert (cache.capacity, cache.reread_at) == (256, 64)
    genai = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert (genai["model"]["type"], genai["model"]["context_length"]) == ("decoder", 64)


def test_a_manifest_is_read_again(tmp_path: Path) -> None:
    made = ropeexport.export(decoder("qwen3"), out=tmp_path / "out", cache="grow", capacity=16)
    assert read(tmp_path / "out") == made.manifest


def test_weights_are_exchanged_by_the_models_own_names(tmp_path: Path) -> None:
    import numpy as np

    model: Any = decoder("llama")
    ropeexport.export(model, out=tmp_path / "out", cache="grow", capacity=16)
    loaded = ropeexport.load(tmp_path / "out", device="cpu")
    other = decoder("llama", seed=1)
    loaded.update(other.state_dict())
    feeds = {
        "input_ids": np.array([[5, 9, 17]]),
        "attention_mask": np.ones((1, 3), np.int64),
        "position_ids": np.arange(3)[None],
        **{
            spec.name: np.zeros((1, 2, 0, 16), np.float32)
            for spec in loaded.inputs
            if spec.name.startswith("past")
        },
    }
    with torch.no_grad():
        expected = other(torch.tensor([[5, 9, 17]])).logits
    np.testing.assert_allclose(loaded.run(feeds)["logits"], expected, rtol=1e-4, atol=1e-4)
