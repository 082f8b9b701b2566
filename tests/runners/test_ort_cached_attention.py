"""Decoders with a cache in onnxruntime: attention by its own operator is what the file says."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import ropeexport
from ropeexport.artifact import Artifact
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.runners.ort import OrtRunner

pytestmark = pytest.mark.pipelines  # exports of several models, one after the other

transformers = pytest.importorskip("transformers")

CAPACITY, VOCABULARY = 48, 96
BASE = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CAPACITY,
}  # fmt: skip
KINDS = {
    "Llama": {},
    "Qwen3": {"head_dim": 16},
    "Gemma3Text": {"head_dim": 16, "sliding_window": 6,
                   "layer_types": ["sliding_attention", "full_attention"]},
    "GPTNeoX": {"rotary_pct": 0.5},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "Gemma2": {"head_dim": 16, "sliding_window": 6},
}  # fmt: skip


def decoder(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    given = BASE | KINDS[kind]
    if kind == "GPTNeoX":
        del given["num_key_value_heads"]
    config = getattr(transformers, f"{kind}Config")(**given)
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config).eval()
    with torch.no_grad():  # so that attention is far from the same for all tokens
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    return model


def inputs(folder: Path, batch: int, past: int, length: int) -> dict[str, np.ndarray]:
    """Return random tokens, padding anywhere, and a cache of random numbers."""
    rng, record = np.random.default_rng(past + length), Artifact.read(folder).manifest
    mask = rng.integers(0, 2, (batch, past + length))
    mask[0] = 1
    mask[1:2] = 0  # a row of padding
    given: dict[str, np.ndarray] = {
        "input_ids": rng.integers(0, VOCABULARY, (batch, length)),
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(1) - 1, 0)[:, past:],
    }
    for spec in record.model.inputs[3:]:
        _, heads, slots, width = spec.shape
        shape = (batch, heads, slots if isinstance(slots, int) else past, width)
        given[spec.name] = rng.standard_normal(shape).astype(np.float32)
    return given


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("Llama", "grow"), ("Qwen3", "fixed"), ("Gemma3Text", "fixed"), ("GPTNeoX", "grow"),
        ("Mixtral", "fixed"), ("Gemma2", "grow"),
    ],
)  # fmt: skip
def test_it_computes_what_the_file_says(kind: str, form: str, tmp_path: Path) -> None:
    ropeexport.export(decoder(kind), out=tmp_path, cache=form, capacity=CAPACITY)
    file = OnnxFile(tmp_path / "model.onnx")
    with OrtRunner(file) as best, OrtRunner(file, as_written=True) as bare:
        softcap = kind == "Gemma2"  # its attention is written out
        grouped = "function body" if softcap else "function body, grouped attention"
        assert (best.facts.made_of, bare.facts.made_of) == (grouped, "function body")
        for batch, past, length in product((1, 3), (0, 1, 20), (1, 5)):
            given = inputs(tmp_path, batch, past, length)
            found, expected = best.run(given), bare.run(given)
            for (
                name,
                x,
            ) in expected.items():  # what lies behind the tokens that are held is not read
                held = slice(None) if name == "logits" else (..., slice(past + length), slice(None))
                error = np.abs(found[name][held] - x[held]).max()
                assert error <= 4e-6 * np.abs(x).max(), (batch, past, length, name)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("gqa")
    ropeexport.export(
        decoder("Llama"), out=folder, cache="fixed", capacity=CAPACITY, attention="gqa"
    )
    return folder


def test_a_file_that_has_it_written_is_run_as_it_is(written: Path) -> None:
    message = onnx.load(written / "model.onnx")
    choices = [node for node in message.graph.node if node.op_type == "If"]
    kernels = [n.op_type for c in choices for n in c.attribute[0].g.node if n.domain]
    assert kernels == ["GroupQueryAttention"] * 2
    assert len(Artifact.read(written).manifest.model.ropes) == 2
    file = OnnxFile(written / "model.onnx")
    with OrtRunner(file) as best, OrtRunner(file, as_written=True) as bare:
        given = inputs(written, 2, 9, 1)
        one, other = best.run(given)["logits"], bare.run(given)["logits"]
        assert np.abs(one - other).max() <= 4e-6 * np.abs(one).max()


@pytest.mark.trt
def test_tensorrt_gets_the_standards_attention_of_it(written: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    assert ropeexport.build(written, impl="decomposed").attention in ("fused", "decomposed")


def test_it_is_for_a_cache(tmp_path: Path) -> None:
    with pytest.raises(ropeexport.UsageError, match="gqa is for an export with a cache"):
        ropeexport.export("flux-attention", out=tmp_path / "out", attention="gqa")
    with pytest.raises(ropeexport.UsageError, match="computes, found none"):
        ropeexport.export(decoder("Gemma2"), out=tmp_path / "out", cache="grow", attention="gqa")
    assert not (tmp_path / "out").exists()
