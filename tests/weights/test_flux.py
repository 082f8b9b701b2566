"""A LoRA merged into FLUX's transformer: one name from the state dict to the engine, and exchanged.

Source of the model: diffusers' ``FluxTransformer2DModel`` with one block of each kind.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from parsed_networks import network_weights, parsed

import ropeexport
from ropeexport.artifact import Artifact
from ropeexport.runners.ort import OrtRunner
from ropeexport.testing import assert_parity
from ropeexport.weights.updating import new_values, weights_of

diffusers = pytest.importorskip("diffusers")

CONFIG = {
    "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32,
    "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8], "guidance_embeds": True,
}  # fmt: skip
AXES = {
    "hidden_states": {0: "batch", 1: "image"}, "encoder_hidden_states": {0: "batch", 1: "text"},
    "pooled_projections": {0: "batch"}, "timestep": {0: "batch"}, "guidance": {0: "batch"},
    "img_ids": {0: "image"}, "txt_ids": {0: "text"},
}  # fmt: skip


def made() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.FluxTransformer2DModel(**CONFIG).eval()


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "hidden_states": drawn(2, 6, 16),
        "encoder_hidden_states": drawn(2, 4, 32),
        "pooled_projections": drawn(2, 32),
        "timestep": torch.rand(2, generator=generator),
        "img_ids": torch.arange(18.0).reshape(6, 3),
        "txt_ids": torch.zeros(4, 3),
        "guidance": torch.ones(2),
    }


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    folder: Path = tmp_path_factory.mktemp("flux")
    given = {**inputs(), "return_dict": False}
    return ropeexport.export(made(), given, folder, dynamic_axes=AXES).artifact


def merge_lora(module: torch.nn.Module) -> set[str]:
    generator = torch.Generator().manual_seed(2)
    merged = set()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if ".attn.to_" in name and name.endswith("weight"):
                thin = [torch.randn(n, 2, generator=generator) for n in weight.shape]
                weight.add_(0.05 * thin[0] @ thin[1].T)
                merged.add(name)
    return merged


def assert_is(got: dict[str, np.ndarray], module: torch.nn.Module) -> None:
    double = diffusers.FluxTransformer2DModel(**CONFIG).eval().double()
    double.load_state_dict(module.state_dict())

    def exact(**wide: np.ndarray) -> np.ndarray:
        given = {name: torch.from_numpy(x) for name, x in wide.items()}
        with torch.no_grad():
            return double(**given, return_dict=False)[0].numpy()

    (out,) = got.values()
    with torch.no_grad():
        eager = module(**inputs(), return_dict=False)[0]
    assert_parity(out, exact, inputs=inputs(), eager=eager)


def test_a_lora_is_merged_and_switched_back(artifact) -> None:
    module, given = made(), {name: x.numpy() for name, x in inputs().items()}
    original = {name: x.clone() for name, x in module.state_dict().items()}
    with OrtRunner(artifact.file) as runner:
        first = runner.run(given)
        assert_is(first, module)
        merged = merge_lora(module)
        runner.update(new_values(module.state_dict(), artifact))
        assert set(runner._updated) == merged  # the others stay the file's
        assert_is(runner.run(given), module)
        with pytest.raises(AssertionError):
            assert_is(first, module)
        runner.update(new_values(original, artifact))
        assert {n: x.tobytes() for n, x in runner.run(given).items()} == {
            n: x.tobytes() for n, x in first.items()
        }


def test_every_name_of_the_state_dict_is_one_weight_of_the_file(artifact) -> None:
    assert artifact.manifest.model.tied == artifact.manifest.model.absent == {}
    assert set(weights_of(artifact.file.graph)) == set(made().state_dict())


@pytest.mark.trt
def test_every_name_of_the_state_dict_is_one_weight_of_the_network(artifact) -> None:
    pytest.importorskip("tensorrt_rtx")
    state = made().state_dict()
    network = parsed(artifact)
    assert (set(network.refits), network.fixed) == (set(state), {})
    held = network_weights(network.network)
    for name, values in state.items():
        assert held[f"{name} weights"].tobytes() == values.numpy().tobytes()
        assert network.network.are_weights_marked_refittable(name)
