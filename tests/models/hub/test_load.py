"""``diffusers:CLASS`` and ``transformers:CONFIG`` on the command line's road."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from command_line import ropeexport

from ropeexport import check, export, manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import UsageError
from ropeexport.models import sources
from ropeexport.models.hub.load import load_example
from ropeexport.models.sources import rebuild_example

pytestmark = pytest.mark.tools  # models of other libraries, minutes of them

FLUX = {
    "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32,
    "axes_dims_rope": [4, 4, 8],
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def config(folder: Path, values: dict) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


def test_a_class_of_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    model, given = "diffusers:FluxTransformer2DModel", config(tmp_path, FLUX)
    made = export(model, out=tmp_path / "out", require_rope=2, config=given)
    assert made.refused == ()
    assert {"batch", "length", "text_length"} == set(made.manifest.axes)


def test_a_config_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config(tmp_path, LLAMA)
    made = export(f"transformers:{tmp_path}", out=tmp_path / "out", require_rope=2, dtype="fp16")
    assert made.manifest.model.dtype == "fp16"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("diffusers:FluxTransformer2DModel", "add --config"),
        ("diffusers:NoSuchModel", "has no such model"),
        ("diffusers:AutoencoderKL", "no sample inputs are known"),
        ("transformers:no/such/folder", "no such file or folder"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, model: str, words: str) -> None:
    pytest.importorskip(model.partition(":")[0])
    path = None if "add" in words else config(tmp_path, FLUX)
    given = None if model.startswith("transformers") else path
    with pytest.raises(UsageError, match=words):
        export(model, out=tmp_path / "out", config=given)


@pytest.mark.parametrize("model", ["diffusers:FluxTransformer2DModel", "transformers:"])
def test_an_export_is_checked_from_its_config_alone(tmp_path: Path, model: str) -> None:
    pytest.importorskip(model.partition(":")[0])
    of_flux = model.startswith("diffusers")
    path = config(tmp_path, FLUX if of_flux else LLAMA)
    words = [model, "--config", path] if of_flux else [f"{model}{tmp_path}"]
    out = tmp_path / "out"
    done = ropeexport("export", *words, "-o", out, "--require-rope", "2")
    assert done.returncode == 0, done.stderr
    done = ropeexport("check", out, "--cases", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    specs = {spec.name: spec for spec in manifest.read(out).model.inputs}
    if not of_flux:
        assert (specs["input_ids"].role, specs["input_ids"].below) == ("data", LLAMA["vocab_size"])
        assert (specs["position_ids"].role, specs["position_ids"].below) == ("positions", None)
    moved = path.rename(tmp_path / "moved.json")
    done = ropeexport("check", out, "--cases", "4")
    words = "config.json, which is no longer there" if of_flux else "config.json: no such file"
    assert done.returncode == (1 if of_flux else 2)
    assert words in done.stderr
    if of_flux:
        moved.rename(out / "config.json")
        assert ropeexport("check", out, "--cases", "1").returncode == 0


def test_a_decoder_is_checked_by_the_config_that_came_along(tmp_path: Path, monkeypatch) -> None:
    """Wherever it is, and whatever lies at the place where the exporter had it."""
    pytest.importorskip("transformers")
    (tmp_path / "llm").mkdir()
    config(tmp_path / "llm", LLAMA)
    monkeypatch.chdir(tmp_path)
    export("transformers:llm", out="out", cache="grow")
    (tmp_path / "received").mkdir()
    received = (tmp_path / "out").rename(tmp_path / "received" / "it")
    config(tmp_path / "llm", {**LLAMA, "hidden_size": 32})
    assert check(received, cases=1, runtimes="onnxruntime").verdict == "PASS"
    assert rebuild_example(Artifact.read(received)).module.decoder.config.hidden_size == 64


QWEN2_VL = {
    "model_type": "qwen2_vl",
    "text_config": {
        **{key: value for key, value in LLAMA.items() if key != "model_type"},
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3],
        },
    },
    "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
}  # fmt: skip


def test_a_part_of_a_model_by_its_class(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path, name = config(tmp_path, QWEN2_VL), "Qwen2VLTextModel"
    (tmp_path / name).mkdir()  # a folder that is called as the class is
    words = ("--config", path, "-o", name)
    done = ropeexport("export", f"transformers:{name}", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ropeexport("check", name, "--cases", "3", cwd=tmp_path).returncode == 0
    torch.manual_seed(0)
    whole = transformers.Qwen2VLModel(transformers.AutoConfig.from_pretrained(tmp_path)).eval()
    whole.save_pretrained(tmp_path)  # its names are language_model's and visual's
    made = export("transformers:Qwen2VLTextModel", out=tmp_path, config=tmp_path, require_rope=2)
    weights = made.manifest.model.weights
    assert weights is not None
    assert weights.prefix == "language_model."
    assert made.check(cases=3, module=lambda: whole.language_model).verdict == "PASS"


def test_a_class_that_a_config_is_not_of_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path, out = config(tmp_path, LLAMA), tmp_path / "out"
    for name, words in {
        "NoSuchModel": "one of .*LlamaModel, got none",
        "LlamaModel": "no config",
    }.items():
        given = path if name == "NoSuchModel" else None
        with pytest.raises(UsageError, match=words if given else "add --config"):
            export(f"transformers:{name}", out=out, config=given)
    with pytest.raises(UsageError, match=r"--config: only for diffusers:CLASS and"):
        export(f"transformers:{tmp_path}", out=out, config=path)
    with pytest.raises(UsageError, match=r"--cache\): only for transformers:CONFIG"):
        export("transformers:LlamaModel", out=out, config=path, cache="grow")


def llama() -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.LlamaModel(transformers.LlamaConfig(**LLAMA)).eval()


def test_a_model_that_is_held_needs_no_inputs(tmp_path: Path) -> None:
    made = export(llama().half(), out=tmp_path / "out", require_rope=2)
    assert made.manifest.model.dtype == "fp16"
    assert set(made.manifest.axes) == {"batch", "length"}
    assert made.check(cases=3).verdict == "PASS"
    fixed = export(llama(), out=tmp_path / "fixed", dynamic_axes={}, require_rope=2)
    assert fixed.manifest.axes == {}


def test_nor_does_one_without_the_values_of_its_weights(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    made = export(llama, out=tmp_path, weights=tmp_path, require_rope=2)
    assert made.manifest.model.weights
    assert made.check(cases=3).verdict == "PASS"


def test_one_whose_inputs_are_not_known_does(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    with pytest.raises(UsageError, match="kwargs: expected the arguments of forward by name"):
        export(diffusers.AutoencoderKL(), out=tmp_path / "out")


UNUSUAL = {
    "weights plus one": LLAMA | {"model_type": "gemma", "head_dim": 16, "pad_token_id": 0},
    "a table of angles": {
        "model_type": "gptj", "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8,
        "n_positions": 32, "n_inner": 64, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_checked_all_the_same(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    config(tmp_path, UNUSUAL[name])
    out = tmp_path / "out"
    record = export(f"transformers:{tmp_path}", out=out, require_rope=2).manifest
    rows = {spec.name: spec.below for spec in record.model.inputs}
    assert rows["position_ids"] == UNUSUAL[name].get("n_positions")
    names = {weight.name for weight in onnx.load(out / "model.onnx").graph.initializer}
    module = sources.rebuild_example(Artifact(out, record)).module
    assert {name for name, _ in module.named_parameters()} <= names  # none was folded
    done = ropeexport("check", out, "--cases", "4")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_weight_that_no_output_needs_is_not_missed(tmp_path: Path) -> None:
    factory = tmp_path / "unused.py"
    factory.write_text(UNUSED)
    out, model = tmp_path / "out", f"{factory}:make"
    assert ropeexport("export", model, "-o", out).returncode == 0
    done = ropeexport("check", out, "--cases", "4", "--module", model)
    assert done.returncode == 0, done.stdout + done.stderr


UNUSED = """
import torch
from torch import nn
import ropeexport


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, q, pe):
        return ropeexport.apply_rope(self.used(q), q, pe)


def make():
    inputs = {"q": torch.zeros(2, 2, 6, 16), "pe": torch.zeros(2, 1, 6, 8, 2, 2)}
    return Unused(), inputs, {name: {0: "batch", 2: "length"} for name in inputs}
"""


def test_a_config_with_a_size_of_zero_makes_no_module(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    path = config(tmp_path, FLUX | {"joint_attention_dim": 0})
    done = ropeexport(
        "export", "diffusers:FluxTransformer2DModel", "--config", path, "-o", tmp_path / "out"
    )
    assert done.returncode == 2
    assert "expected sizes of 1 or more, got weight of (" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("library", ["transformers:{}", "diffusers:FluxTransformer2DModel"])
@pytest.mark.parametrize("inside", [False, True])
def test_layers_that_no_model_has_so_many_of_are_refused_before_any_is_made(
    tmp_path: Path, library: str, inside: bool
) -> None:
    many = {"num_layers": 10**7} if library.startswith("diff") else {"num_hidden_layers": 10**7}
    config = {**LLAMA, "text_config": many} if inside else {**LLAMA, **many}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = {} if "{}" in library else {"config": tmp_path}
    with pytest.raises(UsageError, match=r"at most 10,000 layers, got num_.*layers of 10,000,000"):
        export(library.format(tmp_path), out=tmp_path / "out", **options)


def test_a_class_that_takes_anothers_modules_finds_that_one_in_its_config(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    values = {
        "control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 8,
        "dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "n_layers": 1,
        "in_channels": 4, "cap_feat_dim": 24, "axes_dims": [4, 6, 6],
    }  # fmt: skip
    example = load_example(
        "diffusers:ZImageControlNetModel", config(tmp_path, values), "fp32", values=True
    )
    shapes = {name: tuple(x.shape) for name, x in example.tensors.items()}
    assert shapes == {
        "x.0": (4, 1, 8, 8), "t": (1,), "cap_feats.0": (7, 24), "control_context.0": (8, 1, 8, 8),
    }  # fmt: skip
    with torch.no_grad():
        found = example.module(**example.inputs, **example.constants)
    assert found[0].shape == (1, 64, 32)
