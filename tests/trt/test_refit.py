"""Engines whose weights can be exchanged: one name in module, file and network; else the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from parsed_networks import network_weights, parsed
from torch import nn

import ropeexport
from ropeexport import manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import BuildError, MissingError
from ropeexport.machine import find_gpu
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.profiles import make_profiles
from ropeexport.trt import flavour, refit
from ropeexport.trt.build import BuildOptions, build
from ropeexport.trt.child import BuildRequest
from ropeexport.trt.engine import layers
from ropeexport.trt.reporting import Journal, make_builder
from ropeexport.weights.updating import new_values, weights_of

pytestmark = [pytest.mark.trt, pytest.mark.pipelines]

WIDTH, HEADS = 32, 4
NO_GPU = pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")


class Transformer(nn.Module):
    """A patch embedding, a rotated attention, norms of all kinds, and a head that is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv1d(8, WIDTH, 2, stride=2)
        self.embed = nn.Embedding(16, WIDTH)
        self.batch_norm = nn.BatchNorm1d(WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.norm_q = nn.RMSNorm(WIDTH // HEADS)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.group_norm = nn.GroupNorm(4, WIDTH)
        self.gate = nn.Parameter(torch.ones(1, 1, WIDTH))
        self.pooler = nn.Linear(WIDTH, 3)
        self.head = nn.Linear(WIDTH, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, pixels, ids, pe):
        x = self.batch_norm(self.patches(pixels)).transpose(1, 2) + self.embed(ids)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.gate * self.out(ropeexport.attention(self.norm_q(q), k, v, pe))
        return self.head(self.group_norm(x.transpose(1, 2)).transpose(1, 2))


def made_export(folder: Path, dtype: torch.dtype) -> tuple[Transformer, Artifact]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Transformer().eval().to(dtype)
    given = {
        "pixels": torch.zeros(2, 8, 12).to(dtype),
        "ids": torch.zeros(2, 6, dtype=torch.int64),
        "pe": torch.zeros(1, 1, 6, WIDTH // HEADS // 2, 2, 2),
    }
    axes = {name: {0: "batch"} for name in ("pixels", "ids")}
    return module, ropeexport.export(module, given, folder, dynamic_axes=axes).artifact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_name_is_one_tensor_in_module_file_and_network(tmp_path, dtype) -> None:
    module, artifact = made_export(tmp_path, dtype)
    record, state = artifact.manifest.model, module.state_dict()
    made = parsed(artifact)
    normed = {f"batch_norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")}
    assert set(made.fixed) == normed  # which the parser makes a scale and a shift of
    assert all("when the file is parsed" in why for why in made.fixed.values())
    unused = {"pooler.weight", "pooler.bias", "batch_norm.num_batches_tracked"}
    assert set(record.absent) == unused
    assert set(record.tied) | set(record.tied.values()) == {"embed.weight", "head.weight"}
    assert set(state) == {*made.refits, *made.fixed, *record.tied, *record.absent}
    assert set(new_values(state, artifact)) == {*made.refits, *made.fixed}
    for name in made.refits:
        assert made.network.are_weights_marked_refittable(name)

    held = network_weights(made.network)
    if dtype == torch.bfloat16:
        return  # the bindings give no numbers of it
    file = artifact.file.graph.graph.initializers
    for name in made.refits:
        values = file[name].const_value.numpy()
        assert values.tobytes() == state[name].numpy().tobytes()
        same = [x for x in held.values() if isinstance(x, np.ndarray) and x.dtype == values.dtype
                and x.tobytes() == values.tobytes()]  # fmt: skip
        assert same, name
        if not name.startswith("patches"):  # a convolution has its weights as its own
            assert held[f"{name} weights"].tobytes() == values.tobytes()


def test_a_constant_that_is_no_parameter_stays_one(tmp_path) -> None:
    _, artifact = made_export(tmp_path, torch.float32)
    made = parsed(artifact)
    graph = artifact.file.graph
    constants = set(graph.graph.initializers) - set(weights_of(graph))
    assert constants
    assert not any(map(made.network.are_weights_marked_refittable, constants))


def test_what_a_shape_is_computed_of_is_not_marked(tmp_path) -> None:
    source = """
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[n, 4, 8, 8] x) => (float[n, 4, 16, 16] y)
        <float[4] scales = {1, 1, 2, 2}, float[2] w = {2, 3}>
        { big = Resize<mode = "nearest"> (x, , scales)  z = ReduceSum<keepdims = 0> (w)
          y = Mul (big, z) }
    """
    onnx.save(onnx.parser.parse_model(source), tmp_path / "model.onnx")
    chosen = flavour.load("tensorrt-rtx")
    journal = Journal(chosen)
    network = make_builder(chosen, journal).create_network(0)
    parser = chosen.module.OnnxParser(network, journal.logger)
    assert parser.parse((tmp_path / "model.onnx").read_bytes())
    weights = weights_of(OnnxFile(tmp_path / "model.onnx").graph)
    assert set(weights) == {"scales", "w"}
    assert set(refit.mark_refittable(network, layers(network), weights)) == {"scales"}


@NO_GPU
@pytest.mark.parametrize("options", [{"refit": True}, {"strip": True}])
def test_without_a_gpu_it_is_refused_in_one_line(exported_file, options) -> None:
    option = f"--{next(iter(options))}"
    with pytest.raises(MissingError, match=f"^{option}: tensorrt-rtx .* GPU only") as error:
        build(Artifact.read(exported_file), BuildOptions(**options))
    assert "\n" not in str(error.value)
    assert not (exported_file / "model.engine").exists()
    assert manifest.read(exported_file).engine is None


@NO_GPU
def test_it_is_the_exchange_that_needs_a_gpu(monkeypatch) -> None:
    """The layer that says so is built where its weight stays as it is."""
    chosen = flavour.load("tensorrt-rtx")
    builder = make_builder(chosen, Journal(chosen))
    assert not refit._refits_one_layer(chosen, builder)
    flags = chosen.module.BuilderFlag
    monkeypatch.setattr(flags, "REFIT_INDIVIDUAL", flags.DEBUG)
    assert refit._refits_one_layer(chosen, builder)


@pytest.fixture
def exported_file(tmp_path) -> Path:
    return made_export(tmp_path, torch.float16)[1].folder


def test_an_engine_may_stream_its_weights(exported_file) -> None:
    engine = build(Artifact.read(exported_file), BuildOptions(weight_streaming=True))
    assert (engine.weight_streaming, engine.refittable, engine.stripped) == (True, False, False)
    assert manifest.read(exported_file).engine == engine
    assert build(Artifact.read(exported_file), BuildOptions(force=True)).weight_streaming is False


@pytest.mark.parametrize("option", ["refit", "strip", "weight_streaming"])
def test_a_flavour_that_lacks_it_is_refused_by_name(exported_file, option: str) -> None:
    chosen = flavour.load("tensorrt-rtx")
    older = replace(chosen, capabilities=replace(chosen.capabilities, **{option: False}))
    artifact = Artifact.read(exported_file)
    request = BuildRequest(
        flavour="tensorrt-rtx", model=artifact.model_path, engine=exported_file / "engine",
        implementation="decomposed", profiles=make_profiles(artifact.manifest),
        ropes=(), plugin=None, embed_plugin=False, timing_cache=exported_file / "cache",
        **{option: True},
    )  # fmt: skip
    said = f"--{option.replace('_', '-')}: tensorrt-rtx .* has no such engines; leave it out"
    journal = Journal(older)
    with pytest.raises(MissingError, match=said):
        refit.require_wanted(older, request, make_builder(older, journal), journal)


def test_a_file_without_weights_has_none_to_exchange(exported) -> None:
    with pytest.raises(BuildError, match=r"--refit: .*: no weight of it can be exchanged"):
        parsed(Artifact.read(exported()))
