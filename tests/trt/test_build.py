"""Engines from exported folders: what was asked for is what the network holds, or nothing is."""

from __future__ import annotations

import onnx
import pytest

from ropeexport import atomic, manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import BuildError, ModelFileError, UsageError
from ropeexport.trt.build import BuildOptions, build
from ropeexport.trt.cache import cache_folder

pytestmark = pytest.mark.trt
MODELS = ("flux-attention", "flux-self-attention", "flux-self-attention-ids")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_every_builtin_builds(exported, model: str, dtype: str) -> None:
    folder = exported(model, dtype)
    phases, notes = [], []
    engine = build(
        Artifact.read(folder),
        on_progress=lambda *step: phases.append(step),
        on_note=notes.append,
    )
    assert engine.sha256 == atomic.sha256_of(folder / "model.engine")
    assert engine == manifest.read(folder).engine
    assert set(engine.ropes.values()) == {"decomposed"}
    assert {engine.attention} == ({"decomposed"} if notes else {"fused"})
    assert (dtype == "fp32") == bool(notes)
    assert [s.dtype for s in engine.inputs] == [s.dtype for s in manifest.read(folder).model.inputs]
    assert phases
    assert all(0.0 <= fraction <= 1.0 for _, fraction in phases)


def test_the_users_module_builds_with_two_ropes(exported) -> None:
    folder = exported("tests/user_models.py:grouped_attention")
    assert build(Artifact.read(folder), BuildOptions(impl="native")).ropes == dict.fromkeys(
        ("ApplyRope_0", "ApplyRope_1"), "native"
    )


def test_a_profile_of_the_whole_range(exported) -> None:
    folder = exported()
    axes = manifest.read(folder).axes
    profile = build(Artifact.read(folder)).profile
    assert profile.min["q"] == (axes["batch"].min, 2, axes["length"].min, 64)
    assert profile.max["q"] == (axes["batch"].max, 2, axes["length"].max, 64)


def test_native_takes_one_head_axis_only(exported) -> None:
    folder = exported()
    assert build(Artifact.read(folder), BuildOptions(impl="native")).profile.max["pe"][1] == 1
    shapes = {"q": (1, 2, 8, 64), "k": (1, 2, 8, 64), "v": (1, 2, 8, 64), "pe": (1, 2, 8, 32, 2, 2)}
    with pytest.raises(UsageError, match="head axis of 1, got 2"):
        build(
            Artifact.read(folder),
            BuildOptions(impl="native", max_shapes=shapes, opt_shapes=shapes, force=True),
        )


def test_a_model_that_was_changed_is_not_built(exported) -> None:
    folder = exported()
    proto = onnx.load(folder / "model.onnx")
    proto.doc_string = "edited"
    onnx.save(proto, folder / "model.onnx")
    with pytest.raises(ModelFileError, match="not the file that was exported"):
        build(Artifact.read(folder))
    assert not (folder / "model.engine").exists()


def test_float64_is_refused_by_name(exported) -> None:
    folder = exported()
    proto = onnx.load(folder / "model.onnx")
    proto.graph.initializer.append(
        onnx.helper.make_tensor("table", onnx.TensorProto.DOUBLE, [1], [1.0])
    )
    onnx.save(proto, folder / "model.onnx")
    record = manifest.read(folder)
    model = record.model.model_copy(update={"sha256": atomic.sha256_of(folder / "model.onnx")})
    manifest.write(folder, record.model_copy(update={"model": model}))
    with pytest.raises(BuildError, match=r"no float64.*table \(weight\)"):
        build(Artifact.read(folder))


def test_nothing_of_the_users_is_touched(exported) -> None:
    folder = exported()
    build(Artifact.read(folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json", "model.engine", "model.onnx",
    ]  # fmt: skip
    links = [path for path in cache_folder().rglob("*.so") if path.is_symlink()]
    assert [link.name for link in links if "tensorrt" in link.name]


def test_what_fails_leaves_the_former_engine(built) -> None:
    before = (built / "model.engine").read_bytes(), (built / "manifest.json").read_bytes()
    shapes = {"q": (1, 2, 8, 64), "k": (1, 2, 9, 64), "v": (1, 2, 8, 64), "pe": (1, 1, 8, 32, 2, 2)}
    with pytest.raises(UsageError):
        build(Artifact.read(built), BuildOptions(opt_shapes=shapes, force=True))
    assert before == ((built / "model.engine").read_bytes(), (built / "manifest.json").read_bytes())


def test_shapes_of_some_inputs_imply_those_of_the_others(exported) -> None:
    folder = exported()
    engine = build(Artifact.read(folder), BuildOptions(max_shapes={"q": (8, 2, 96, 64)}))
    assert engine.profile.max["k"] == (8, 2, 96, 64)
    assert engine.profile.max["pe"] == (8, 2, 96, 32, 2, 2)
    with pytest.raises(UsageError, match="'pe_batch': expected 1 or 8, got 3"):
        build(
            Artifact.read(folder),
            BuildOptions(force=True, max_shapes={"q": (8, 2, 96, 64), "pe": (3, 1, 96, 32, 2, 2)}),
        )
