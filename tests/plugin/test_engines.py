"""Engines with the plugin, built by TensorRT-RTX without a GPU, and the proof that it is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from command_line import ropeexport
from form_models import model_of
from onnx import TensorProto, helper

from ropeexport import atomic, manifest
from ropeexport.ops import names
from ropeexport.ops.forms import PLUGIN_FORMS
from ropeexport.trt import plugin_library
from ropeexport.trt.child import child_environment
from ropeexport.trt.flavour import RTX, available_flavours

pytestmark = pytest.mark.trt
HERE = Path(__file__).parent


def build(folder: Path, *options: object) -> manifest.EngineRecord:
    done = ropeexport("build", folder, *options)
    assert done.returncode == 0, done.stderr
    engine = manifest.read(folder).engine
    assert engine is not None
    return engine


def inspected(folder: Path) -> list[str]:
    done = ropeexport("inspect", folder, "--json")
    assert done.returncode == 0, done.stderr
    return [rope["implementation"] for rope in json.loads(done.stdout)["ropes"]]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_dynamic_batch_and_length(exported, library, dtype) -> None:
    folder = exported(dtype=dtype)
    engine = build(folder, "--impl", "plugin", "--plugins", library)
    assert inspected(folder) == ["plugin"]
    least, most = engine.profile.min["q"], engine.profile.max["q"]
    assert least[0] < most[0]
    assert least[2] < most[2]
    assert engine.profile.min["pe"][2] < engine.profile.max["pe"][2]
    assert engine.plugin == manifest.PluginRecord(
        name="ApplyRope",
        version="1",
        namespace="ropeexport",
        file=library.name,
        sha256=atomic.sha256_of(library),
        embedded=True,
        size=library.stat().st_size,
    )


def parsed(model: Path, library: Path) -> tuple[list[str] | None, list[str]]:
    """Return the layers and the errors of a model, as TensorRT itself has them."""
    environment = child_environment(RTX, available_flavours()[RTX])
    command = [sys.executable, HERE / "layer_types.py", model, library]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "ropeexport::" not in done.stderr  # messages go to the logger
    result = json.loads(done.stdout)
    return result["layers"], result["errors"]


def test_the_layer_is_a_plugin_layer(exported, library) -> None:
    layers, errors = parsed(exported() / "model.onnx", library)
    assert layers is not None
    assert layers.count("PLUGIN_V3") == 1
    assert "ROTARY_EMBEDDING" not in layers
    assert errors == []


@pytest.mark.parametrize("name", PLUGIN_FORMS)
@pytest.mark.parametrize("kind", ["float", "float16"])
def test_every_form_is_a_plugin_layer(library, tmp_path, name, kind) -> None:
    model = model_of(PLUGIN_FORMS[name], "adaptive", kind)
    model.graph.node[0].name = "rope"
    onnx.save(model, tmp_path / "rope.onnx")
    layers, errors = parsed(tmp_path / "rope.onnx", library)
    assert (layers, errors) == (["PLUGIN_V3"], [])


def rope_model(path: Path, q: list[int], pe: list[int], pe_type: int = TensorProto.FLOAT) -> Path:
    """Write a model of one rope, k like q."""
    half = TensorProto.FLOAT16
    node = helper.make_node(
        *("ApplyRope", ["q", "k", "pe"], ["q_out", "k_out"]),
        name="rope",
        domain=names.DOMAIN,
        **names.PLUGIN_ATTRIBUTES,
    )
    inputs = [helper.make_tensor_value_info(name, half, q) for name in ("q", "k")]
    inputs.append(helper.make_tensor_value_info("pe", pe_type, pe))
    outputs = [helper.make_tensor_value_info(name, half, q) for name in ("q_out", "k_out")]
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(names.DOMAIN, 1)]
    graph = helper.make_graph([node], "rope", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


@pytest.mark.parametrize(
    ("q", "pe", "pe_type", "words"),
    [
        ([1, 2, 3, 7], [1, 1, 3, 3, 2, 2], TensorProto.FLOAT, "expected an even number, got 7"),
        ([1, 2, 3, 8], [1, 1, 5, 4, 2, 2], TensorProto.FLOAT, "length of pe, as of q: expected 3"),
        (
            [2, 2, 3, 8],
            [3, 1, 3, 4, 2, 2],
            TensorProto.FLOAT,
            "batch of pe: expected 1 or 2, got 3",
        ),
        ([1, 2, 3, 8], [1, 1, 3, 4, 2, 2], TensorProto.FLOAT16, "type of pe: expected float32"),
    ],
)
def test_a_refusal_is_in_tensorrts_log(library, tmp_path, q, pe, pe_type, words) -> None:
    layers, errors = parsed(rope_model(tmp_path / "rope.onnx", q, pe, pe_type), library)
    assert layers is None
    assert words in errors[0]
    assert errors[0].startswith("ropeexport plugin: ")


@pytest.mark.parametrize(
    ("model", "ropes"),
    [("user_models:grouped_attention", 2), ("flux-self-attention-ids", 1)],
)
def test_other_models(exported, library, model, ropes) -> None:
    folder = exported(model, "fp32")
    build(folder, "--plugins", library)
    assert inspected(folder) == ["plugin"] * ropes


def test_three_implementations_of_one_file_are_told_apart(exported, library) -> None:
    folder = exported()
    found = []
    for implementation in ("plugin", "native", "decomposed"):
        options = ["--plugins", library] if implementation == "plugin" else []
        build(folder, "--impl", implementation, *options, "--force")
        found += inspected(folder)
        said = ropeexport("inspect", folder).stdout
        assert f"implementation: {implementation}" in said
    assert found == ["plugin", "native", "decomposed"]


def test_an_embedded_library_makes_the_engine_larger_by_itself(exported, library) -> None:
    folder = exported()
    embedded = build(folder, "--plugins", library)
    size = (folder / embedded.file).stat().st_size
    beside = build(folder, "--plugins", library, "--no-embed-plugin", "--force")
    assert beside.plugin is not None
    assert not beside.plugin.embedded
    difference = size - (folder / beside.file).stat().st_size
    assert abs(difference - library.stat().st_size) < 0.1 * library.stat().st_size


def test_a_cached_library_is_taken_by_itself(exported, library, own_cache) -> None:
    folder = exported()
    assert build(folder).ropes == {"ApplyRope_0": "decomposed"}
    shutil.copy(library, own_cache / plugin_library.FILE_NAME)
    done = ropeexport("build", folder, "--force")
    assert "ApplyRope_0 plugin" in done.stdout
    assert f"plugin: {plugin_library.FILE_NAME}, embedded" in done.stdout
    assert build(folder, "--impl", "decomposed", "--force").plugin is None


def test_the_variable_names_a_library(exported, library, monkeypatch) -> None:
    monkeypatch.setenv(plugin_library.VARIABLE, str(library))
    assert build(exported()).ropes == {"ApplyRope_0": "plugin"}


def test_nothing_is_left_but_the_engine(exported, library) -> None:
    folder = exported()
    before = {path.name for path in folder.iterdir()}
    build(folder, "--plugins", library)
    assert {path.name for path in folder.iterdir()} == before | {"model.engine"}
