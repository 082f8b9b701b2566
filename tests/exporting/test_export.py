"""What an export writes: the contract of the file, its dynamic axes, its manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import ropeexport
from ropeexport import atomic, export, manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import ExportError, ModelFileError, ParityError, UsageError
from ropeexport.exporting.tracing import newest_opset
from ropeexport.manifest import Source
from ropeexport.models import sources
from ropeexport.models.builtin_models import BUILTINS
from ropeexport.models.example import Example
from ropeexport.testing import assert_parity
from ropeexport.weights.safetensors_files import check_weights


def exact(module):
    """Return a module, or a function, on arrays."""

    def run(**inputs):
        return module(**{n: torch.from_numpy(x) for n, x in inputs.items()}).detach().numpy()

    return run


SMALL = {"heads": 2, "head_dim": 16}
FACTORY = Path(__file__).parents[1] / "user_models.py"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    made = {}

    def made_once(model: str, dtype: str = "fp32", opset: int = 23) -> Path:
        key = (model, dtype, opset)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("export")
            export(model, out=made[key], opset=opset, dtype=dtype, **SMALL)
        return made[key]

    return made_once


@pytest.mark.parametrize("model", BUILTINS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_file_keeps_its_contract(exported, model: str, dtype: str) -> None:
    folder = exported(model, dtype)
    proto = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    ropes = [node for node in proto.graph.node if node.op_type == "ApplyRope"]
    assert len(ropes) == 1
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in ropes[0].attribute}
    assert attributes == {"plugin_version": b"1", "plugin_namespace": b"ropeexport"}
    assert sum(node.op_type == "Attention" for node in proto.graph.node) == 1
    assert ("ropeexport", "ApplyRope") in {(f.domain, f.name) for f in proto.functions}
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata["ropeexport.version"] == ropeexport.__version__
    assert metadata["ropeexport.source"] == model
    assert metadata["ropeexport.dtype"] == dtype
    assert "ApplyRope(q, k, pe)" in metadata["ropeexport.contract"]


@pytest.mark.parametrize("opset", [23, 24, newest_opset()])
def test_inputs_of_flux_attention(exported, opset: int) -> None:
    record = manifest.read(exported("flux-attention", opset=opset)).model
    assert record.opset == opset
    assert [spec.name for spec in record.inputs] == ["q", "k", "v", "pe"]
    pe = record.inputs[3]
    assert pe.shape == ("pe_batch", "pe_heads", "length", 8, 2, 2)
    assert (pe.dtype, pe.role) == ("float32", "matrices")
    assert {spec.shape for spec in record.inputs[:3]} == {("batch", 2, "length", 16)}
    assert record.outputs[0].shape == ("batch", "length", 32)


def test_no_float64_and_no_path_of_this_machine(exported) -> None:
    for model in BUILTINS:
        path = exported(model) / "model.onnx"
        assert str(Path.cwd()).encode() not in path.read_bytes()
        proto = onnx.shape_inference.infer_shapes(onnx.load(path))
        kinds = {v.type.tensor_type.elem_type for v in proto.graph.value_info}
        assert onnx.TensorProto.DOUBLE not in kinds


@pytest.mark.parametrize(
    ("batch", "length", "pe_batch", "pe_heads"),
    [(1, 1, 1, 1), (3, 7, 1, 1), (3, 7, 3, 1), (3, 7, 3, 2), (2, 5, 1, 2)],
)
@pytest.mark.parametrize("rotation", [True, False])
@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_sizes_stay_dynamic_and_pe_broadcasts(
    exported, batch, length, pe_batch, pe_heads, rotation, runtime
) -> None:
    path = str(exported("flux-attention") / "model.onnx")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, 2, length, 16, generator=generator) for _ in range(3))
    pe = torch.randn(pe_batch, pe_heads, length, 8, 2, 2, generator=generator)
    if rotation:
        pe = ropeexport.rope(torch.arange(length).expand(pe_batch, pe_heads, length), 16, 1e4)
    feeds = {"q": q.numpy(), "k": k.numpy(), "v": v.numpy(), "pe": pe.numpy()}
    runs = (
        onnxruntime.InferenceSession(path) if runtime == "onnxruntime" else ReferenceEvaluator(path)
    )
    ours = runs.run(None, feeds)[0]
    eager = ropeexport.attention(q, k, v, pe)
    assert_parity(ours, exact(ropeexport.attention), inputs=feeds, eager=eager)


@pytest.mark.parametrize("model", BUILTINS)
def test_a_rebuilt_module_has_the_weights_of_the_file(exported, model: str) -> None:
    folder = exported(model)
    proto = onnx.load(folder / "model.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("scale"):
            values = np.arange(tensor.dims[0], dtype=np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    changed = folder / "changed"
    changed.mkdir()
    onnx.save(proto, changed / "model.onnx")
    module = sources.rebuild_example(Artifact(changed, manifest.read(folder))).module
    scales = [p for name, p in module.named_parameters() if name.endswith("scale")]
    assert len(scales) == (0 if model == "flux-attention" else 2)
    assert all(p.detach().tolist() == list(range(16)) for p in scales)


def test_a_module_of_the_users_is_imported_only_when_named(tmp_path: Path) -> None:
    reference = f"{FACTORY}:grouped_attention"
    record = export(reference, out=tmp_path).manifest
    assert record.source == Source(kind="factory", name=reference)
    assert len(record.model.ropes) == 2
    assert record.axes["batch"].opt == 1
    with pytest.raises(ParityError, match="--module"):
        sources.rebuild_example(Artifact(tmp_path, record))
    module = sources.rebuild_example(Artifact(tmp_path, record), reference).module
    x, pe = torch.randn(3, 9, 32), ropeexport.rope(torch.arange(9).expand(3, 9), 8, 1e4)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    feeds = {"x": x.numpy(), "pe": pe.numpy()}
    eager = module(x, pe).detach()
    assert_parity(session.run(None, feeds)[0], exact(module.double()), inputs=feeds, eager=eager)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nothing", "MODEL: expected one of"),
        ("no_such_file.py:make", "no such file"),
        ("no_such_package.module:make", "no such module"),
        (f"{FACTORY}:absent", "no callable 'absent'"),
        (f"{FACTORY}:wrong_kind", r"returns \(module, example inputs, dynamic axes\)"),
        (f"{FACTORY}:wrong_axis", "expected an axis in 0..2, got 5"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, reference: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export(reference, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_size_check_in_the_traced_code_is_found(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        export(f"{FACTORY}:frozen_batch", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


# what an error offers is what works: the newest is exported above, and the one after it is refused
@pytest.mark.parametrize("opset", [17, 22, newest_opset() + 1, 99])
def test_opsets_out_of_reach(tmp_path: Path, opset: int) -> None:
    words = rf"opset: expected 23 .* to {newest_opset()} \(.*torch.*\), got {opset}$"
    with pytest.raises(UsageError, match=words):
        export("flux-attention", out=tmp_path, opset=opset, **SMALL)


def test_an_existing_export_is_kept(tmp_path: Path) -> None:
    export("flux-attention", out=tmp_path, **SMALL)
    before = atomic.sha256_of(tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="--force"):
        export("flux-attention", out=tmp_path, **SMALL)
    again = export("flux-attention", out=tmp_path, force=True, **SMALL)
    assert again.manifest.model.sha256 == before


def test_the_op_itself_exports(tmp_path: Path) -> None:
    class Direct(nn.Module):
        def forward(self, q, k, pe):
            return torch.ops.ropeexport.apply_rope(q, k, pe)

    q, pe = torch.randn(2, 4, 6, 8), torch.randn(2, 1, 6, 4, 2, 2)
    axes = {"q": {0: "batch", 2: "length"}, "k": {0: "batch", 2: "length"}}
    example = Example(
        Direct().eval(), {"q": q, "k": q, "pe": pe}, axes | {"pe": {0: "batch", 2: "length"}}
    )
    record = export(example, out=tmp_path).manifest
    assert len(record.model.ropes) == 1
    assert len(record.model.outputs) == 2


def test_weights_beyond_a_protobuf_lie_beside_the_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ropeexport.exporting.model_writer._INLINE_LIMIT_BYTES", 1024)
    record = export("flux-self-attention", out=tmp_path, **SMALL).manifest
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["manifest.json", "model.onnx", "model.onnx.data"]
    weights = record.model.weights
    assert weights is not None
    assert weights.referenced_tensors > 0
    assert weights.referenced_bytes <= weights.files[0].size
    check_weights(tmp_path, weights)
    eager = sources.rebuild_example(Artifact(tmp_path, record)).module
    x, pe = torch.randn(2, 5, 32), ropeexport.rope(torch.arange(5).expand(2, 5), 16, 1e4)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    feeds = {"x": x.numpy(), "pe": pe.unsqueeze(1).numpy()}
    found = eager(x, pe).detach()
    assert_parity(session.run(None, feeds)[0], exact(eager.double()), inputs=feeds, eager=found)


def test_a_smaller_model_takes_the_data_file_of_the_former_with_it(
    tmp_path: Path, monkeypatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ropeexport.exporting.model_writer._INLINE_LIMIT_BYTES", 1024)
        export("flux-self-attention", out=tmp_path, **SMALL)
    export("flux-attention", out=tmp_path, force=True, **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "model.onnx"]


def test_a_data_file_that_nobody_refers_to_is_not_overwritten_unasked(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("ropeexport.exporting.model_writer._INLINE_LIMIT_BYTES", 1024)
    (tmp_path / "model.onnx.data").write_text("precious")
    with pytest.raises(UsageError, match=r"model\.onnx\.data exists already.*--force"):
        export("flux-self-attention", out=tmp_path, **SMALL)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
    made = export("flux-self-attention", out=tmp_path, force=True, **SMALL)
    assert made.manifest.model.weights is not None


def test_a_failed_export_leaves_the_former_whole(tmp_path: Path, monkeypatch) -> None:
    former = export("flux-attention", out=tmp_path, **SMALL).manifest

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        export("flux-attention", out=tmp_path, force=True, dtype="fp16", **SMALL)
    assert manifest.read(tmp_path) == former
    assert atomic.sha256_of(tmp_path / "model.onnx") == former.model.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "model.onnx"]


@pytest.mark.parametrize("fault", ["moved", "truncated", "altered"])
def test_a_data_file_that_is_another_is_found_at_load(tmp_path: Path, monkeypatch, fault) -> None:
    monkeypatch.setattr("ropeexport.exporting.model_writer._INLINE_LIMIT_BYTES", 1024)
    record = export("flux-self-attention", out=tmp_path, **SMALL).manifest
    data = tmp_path / "model.onnx.data"
    values = data.read_bytes()
    if fault == "moved":
        data.rename(tmp_path / "elsewhere")
    else:
        data.write_bytes(values[:-1] + (b"" if fault == "truncated" else bytes([values[-1] ^ 1])))
    with pytest.raises(ModelFileError, match=r"model\.onnx\.data.*bring it back"):
        check_weights(tmp_path, record.model.weights)


@pytest.mark.parametrize("limit", [5000, 3_000_000])
def test_a_limit_of_positions_is_stated_and_kept(tmp_path: Path, limit: int) -> None:
    made = export("flux-self-attention-ids", out=tmp_path, max_position=limit, **SMALL)
    stated = made.manifest.model.max_position
    assert limit <= stated < limit + 1024
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    x, ids = np.ones((1, 4, 32), np.float32), np.full((1, 4, 3), stated)
    assert np.isfinite(session.run(None, {"x": x, "ids": ids})[0]).all()
    assert np.isnan(session.run(None, {"x": x, "ids": ids + 1})[0]).all()


def test_a_model_without_tables_states_no_limit(tmp_path: Path) -> None:
    made = export("flux-attention", out=tmp_path, **SMALL)
    assert made.manifest.model.max_position is None


def test_a_limit_beyond_whole_numbers_of_float32_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"max position .*: expected .* 1 to 16,777,215, got 16777216"
    ):
        export("flux-self-attention-ids", out=tmp_path, max_position=1 << 24, **SMALL)
    assert list(tmp_path.iterdir()) == []
