"""Engines with the plugin, built by TensorRT-RTX without a GPU, and the proof that it is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ropeexport

from ropeexport import atomic, manifest
from ropeexport.trt import plugin_library
from ropeexport.trt.flavour import RTX, available_flavours
from ropeexport.trt.loader import child_environment

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
    )


def test_the_layer_is_a_plugin_layer(exported, library) -> None:
    """Asked of TensorRT itself, beside the proof that the build made."""
    environment = child_environment(RTX, available_flavours()[RTX])
    command = [sys.executable, HERE / "layer_types.py", exported() / "model.onnx", library]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    types = json.loads(done.stdout)
    assert types.count("PLUGIN_V3") == 1
    assert "ROTARY_EMBEDDING" not in types


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
