"""Weights that are referred to: nothing is read or written, and every fault is found at load."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import ropeexport
from ropeexport import manifest
from ropeexport.errors import ExportError, ModelFileError, UsageError
from ropeexport.onnx_files.inspection import inspect, subject_of
from ropeexport.weights.references import is_fake, skeleton
from ropeexport.weights.safetensors_files import check_weights
from ropeexport.weights.updating import changed, new_values

FILE = "model.safetensors"
NAMES = {torch.float32: "F32", torch.float16: "F16"}


class Block(nn.Module):
    """A Linear, an attention that is rotated by a buffer's frequencies, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.norm = nn.LayerNorm(32)
        self.out = nn.Linear(32, 32, bias=False)
        self.register_buffer("frequencies", 1.0 / 100 ** (torch.arange(4) / 4), persistent=False)

    def forward(self, x, pos):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        angle = pos.float()[..., None] * self.frequencies
        emb = torch.cat((angle, angle), dim=-1).unsqueeze(1).to(x.dtype)
        q, k = (t * emb.cos() + half_turned(t) * emb.sin() for t in (q, k))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


def half_turned(x):
    return torch.cat((-x[..., 4:], x[..., :4]), dim=-1)


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    entries, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.detach().numpy().tobytes()
        entries[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 32, generator=generator)
    return {"x": x, "pos": torch.arange(5).repeat(2, 1)}


AXES = {"x": {0: "batch", 1: "length"}, "pos": {0: "batch", 1: "length"}}


@pytest.fixture
def module() -> Block:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Block().eval()


@pytest.fixture
def folder(tmp_path: Path, module: Block) -> Path:
    write_safetensors(tmp_path / FILE, dict(module.named_parameters()))
    return tmp_path


def export(folder: Path, out: Path | None = None, **choices):
    return ropeexport.export(
        Block, inputs(), out or folder, dynamic_axes=AXES, weights=folder, **choices
    )


def test_it_is_checked_with_the_callable_or_with_a_module_that_is_held(folder, module) -> None:
    made = export(folder)
    assert made.check(cases=4).verdict == "PASS"
    assert ropeexport.check(folder, module=module, cases=4).verdict == "PASS"


def test_a_skeleton_has_buffers_and_no_weights() -> None:
    made = skeleton(Block)
    assert all(is_fake(p) for p in made.parameters())
    assert torch.equal(made.frequencies, Block().frequencies)


def test_the_file_refers_to_the_weights_and_computes_what_eager_does(folder, module) -> None:
    before = (folder / FILE).read_bytes()
    result = export(folder, require_rope=1)
    assert (folder / FILE).read_bytes() == before
    record = result.manifest.model.weights
    assert record.prefix == ""
    assert record.referenced_tensors == len(list(module.parameters()))
    assert record.copied == ()
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    outside = {t.name for t in proto.graph.initializer if t.external_data}
    assert outside == {name for name, _ in module.named_parameters()}
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    ours = session.run(None, {name: x.numpy() for name, x in inputs().items()})[0]
    with torch.no_grad():
        eager = module(**inputs()).numpy()
    np.testing.assert_allclose(ours, eager, rtol=0, atol=64 * np.finfo(np.float32).eps)


def test_a_file_of_another_type_is_cast_in_the_graph(tmp_path: Path, module) -> None:
    halves = {name: p.half() for name, p in module.named_parameters()}
    write_safetensors(tmp_path / FILE, halves)
    export(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ours = session.run(None, {name: x.numpy() for name, x in inputs().items()})[0]
    module.load_state_dict({name: p.float() for name, p in halves.items()})
    with torch.no_grad():
        eager = module(**inputs()).numpy()
    np.testing.assert_allclose(ours, eager, rtol=0, atol=64 * np.finfo(np.float32).eps)


class Part(Block):
    """The body of a model, whose files have a head too."""

    base_model_prefix = "model"


def test_a_part_of_the_files_is_updated_by_its_own_names_there(tmp_path: Path, module) -> None:
    whole = {f"model.{name}": p for name, p in module.named_parameters()}
    write_safetensors(tmp_path / FILE, whole | {"head.weight": torch.ones(3, 32)})
    made = ropeexport.export(Part, inputs(), tmp_path, dynamic_axes=AXES, weights=tmp_path)
    assert made.manifest.model.weights.prefix == "model."
    found = new_values(tmp_path, made.artifact)
    assert set(found) == {name for name, _ in module.named_parameters()}
    assert changed({}, found, made.artifact.file.graph) == {}
    other = tmp_path / "other"
    other.mkdir()
    write_safetensors(other / FILE, {"model.out.weight": torch.ones(32, 32)})
    assert (new_values(other, made.artifact)["out.weight"] == 1).all()
    write_safetensors(other / FILE, {"model.outer.weight": torch.ones(32, 32)})
    with pytest.raises(UsageError, match=r"outer\.weight: no weight of .*: it has out\.weight"):
        new_values(other, made.artifact)


def test_sharded_files_are_read_by_their_index(tmp_path: Path, module) -> None:
    tensors = dict(module.named_parameters())
    shards = {"a.safetensors": ["qkv.weight", "qkv.bias"], "b.safetensors": []}
    shards["b.safetensors"] = [name for name in tensors if name not in shards["a.safetensors"]]
    for file, names in shards.items():
        write_safetensors(tmp_path / file, {name: tensors[name] for name in names})
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    result = export(tmp_path)
    assert {f.file for f in result.manifest.model.weights.files} == set(shards)
    onnxruntime.InferenceSession(tmp_path / "model.onnx")


def test_another_folder_needs_a_copy(folder: Path, tmp_path_factory) -> None:
    out = tmp_path_factory.mktemp("out")
    with pytest.raises(UsageError, match="--copy-weights"):
        export(folder, out)
    assert list(out.iterdir()) == []
    export(folder, out, copy_weights=True)
    assert (out / FILE).read_bytes() == (folder / FILE).read_bytes()
    assert {path.name for path in out.iterdir()} == {"manifest.json", "model.onnx", FILE}
    onnxruntime.InferenceSession(out / "model.onnx")


def test_a_copy_overwrites_no_other_file_unasked(folder: Path, tmp_path_factory) -> None:
    out = tmp_path_factory.mktemp("out")
    (out / FILE).write_text("precious")
    with pytest.raises(UsageError, match=rf"{FILE} exists already.*--force"):
        export(folder, out, copy_weights=True)
    assert [path.read_text() for path in out.iterdir()] == ["precious"]
    export(folder, out, copy_weights=True, force=True)
    assert (out / FILE).read_bytes() == (folder / FILE).read_bytes()


def test_a_link_becomes_a_copy_in_its_own_place(folder: Path, tmp_path_factory) -> None:
    out = tmp_path_factory.mktemp("out")
    (out / FILE).symlink_to(folder / FILE)
    export(out, out, copy_weights=True)
    assert not (out / FILE).is_symlink()
    assert (out / FILE).read_bytes() == (folder / FILE).read_bytes()


def test_a_failed_copy_leaves_the_former_whole(folder: Path, tmp_path_factory, monkeypatch) -> None:
    out = tmp_path_factory.mktemp("out")
    export(folder, out, copy_weights=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_safetensors(folder / FILE, dict(Block().named_parameters()))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        export(folder, out, copy_weights=True, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_need_a_copy(folder: Path, link) -> None:
    (folder / FILE).rename(folder / "blob")
    link(folder / "blob", folder / FILE)
    with pytest.raises(UsageError, match=r"a link.*--copy-weights"):
        export(folder)


def moved(path: Path) -> None:
    path.rename(path.with_suffix(".away"))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"[96, 32]")
    data[at : at + 8] = b"[32, 96]"
    path.write_bytes(data)


@pytest.mark.parametrize("fault", [moved, truncated, altered])
def test_a_fault_of_the_weights_is_found_at_load(folder: Path, fault) -> None:
    result = export(folder)
    check_weights(folder, result.manifest.model.weights)
    fault(folder / FILE)
    with pytest.raises(ModelFileError, match=FILE):
        check_weights(folder, manifest.read(folder).model.weights)
    with pytest.raises(ModelFileError, match=FILE):
        inspect(subject_of(folder))


def test_weights_of_another_config_are_refused(folder: Path, module) -> None:
    tensors = dict(module.named_parameters())
    write_safetensors(folder / FILE, tensors | {"out.weight": tensors["out.weight"][:8]})
    with pytest.raises(ExportError, match=r"out.weight: expected shape \(32, 32\), got \(8, 32\)"):
        export(folder)
    del tensors["qkv.bias"]
    write_safetensors(folder / FILE, tensors)
    with pytest.raises(ExportError, match=r"no tensor for the weights qkv.bias"):
        export(folder)
    assert not (folder / "model.onnx").exists()
