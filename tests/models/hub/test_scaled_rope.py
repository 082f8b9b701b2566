"""Scaled RoPE as transformers computes it: linear, YaRN, Llama 3, longrope and dynamic NTK."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from ropeexport import export
from ropeexport.exporting.exporter import onnx_model
from ropeexport.manifest import Source
from ropeexport.models.example import unchanged
from ropeexport.models.hub.load import transformers_example

pytestmark = pytest.mark.tools  # models of other libraries, minutes of them

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
    "max_position_embeddings": 128,
}  # fmt: skip
PHI3 = LLAMA | {"model_type": "phi3", "original_max_position_embeddings": 32, "pad_token_id": 0}
ORIGINAL = {"original_max_position_embeddings": 32}
SCALED = {
    "linear": (LLAMA, {"factor": 4.0}),
    "yarn": (LLAMA, {"factor": 4.0, **ORIGINAL}),
    "llama3": (
        LLAMA,
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL},
    ),
}
# the angles change with the length of the sequence
DYNAMIC = {"dynamic": (LLAMA | {"max_position_embeddings": 32}, {"factor": 4.0})}
LONGROPE = {
    "longrope": (PHI3, {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 4.0,
                        **ORIGINAL}),
}  # fmt: skip


def example(folder, kind: str, table):
    config, scaling = table[kind]
    parameters = {"rope_type": kind, "rope_theta": 10000.0, **scaling}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": parameters}))
    torch.manual_seed(0)
    return transformers_example(folder, torch.float32)


def outputs(made, model: ir.Model, length: int) -> tuple[np.ndarray, np.ndarray]:
    ids = torch.randint(0, 64, (2, length), generator=torch.Generator().manual_seed(length))
    inputs = {"input_ids": ids, "position_ids": torch.arange(length).repeat(2, 1)}
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    taken = {value.name for value in session.get_inputs()}
    ours = session.run(None, {n: x.numpy() for n, x in inputs.items() if n in taken})[0]
    with torch.no_grad():
        theirs = made.module(**{n: inputs[n] for n in made.inputs}, **made.constants)
    theirs = next(iter(theirs.values())) if isinstance(theirs, dict) else theirs[0]
    return ours, theirs.numpy()


@pytest.mark.parametrize("kind", SCALED)
def test_a_scaled_rope_is_replaced_and_computes_the_same(tmp_path, kind: str) -> None:
    made = example(tmp_path, kind, SCALED)
    exported = onnx_model(made, Source(kind="config", name=kind))
    assert (exported.count.found, exported.count.replaced) == (1, 1)
    for length in (8, 100):  # within and beyond what the model was first trained with
        ours, theirs = outputs(made, exported.model, length)
        assert np.abs(ours - theirs).max() < 1e-5, length


def test_longrope_changes_its_angles_with_the_length(tmp_path) -> None:
    made = example(tmp_path, "longrope", LONGROPE)
    with unchanged(made.module):
        exported = onnx_model(made, Source(kind="config", name="longrope"))
    assert (exported.count.found, exported.count.replaced) == (1, 1)
    for length in (8, 32, 33, 100, 9):
        ours, theirs = outputs(made, exported.model, length)
        assert np.abs(ours - theirs).max() < 1e-5, length


def test_a_module_is_left_as_it_was(tmp_path) -> None:
    made = example(tmp_path, "longrope", LONGROPE)
    axes = {0: "batch", 1: "length"}
    inputs = {name: x.repeat(2, 1)[:2] for name, x in made.inputs.items()}
    export(made.module, inputs | made.constants, tmp_path / "out",
           dynamic_axes=dict.fromkeys(inputs, axes))  # fmt: skip
    long = torch.arange(40)[None]
    with torch.no_grad():
        after = made.module(long, position_ids=long)[0]
        fresh = example(tmp_path, "longrope", LONGROPE).module(long, position_ids=long)[0]
    assert torch.equal(after, fresh)


def test_dynamic_ntk_follows_the_longest_position(tmp_path) -> None:
    made = example(tmp_path, "dynamic", DYNAMIC)
    exported = onnx_model(made, Source(kind="config", name="dynamic"))
    assert (exported.count.found, exported.count.replaced) == (1, 1)
    assert "forward" not in vars(made.module.rotary_emb)
    for length in (8, 32, 33, 100, 60, 9):
        # transformers keeps the frequencies of the longest sequence so far: a model of its own each
        ours, theirs = outputs(example(tmp_path, "dynamic", DYNAMIC), exported.model, length)
        assert np.abs(ours - theirs).max() < 1e-5, length
