"""``build`` and ``inspect`` as a user meets them."""

from __future__ import annotations

import json

import pytest
from command_line import assert_one_line, ropeexport

from ropeexport import manifest
from ropeexport.machine import find_gpu

pytestmark = pytest.mark.trt


@pytest.mark.parametrize("implementation", ["native", "decomposed"])
def test_build_then_inspect_tell_the_implementation(exported, implementation: str) -> None:
    folder = exported()
    done = ropeexport("build", folder, "--impl", implementation)
    assert done.returncode == 0, done.stderr
    assert f"ApplyRope_0 {implementation}" in done.stdout
    assert f"next: ropeexport check {folder}" in done.stdout
    found = json.loads(ropeexport("inspect", folder, "--json").stdout)
    assert [rope["implementation"] for rope in found["ropes"]] == [implementation]
    assert f"implementation: {implementation}" in ropeexport("inspect", folder).stdout


def test_without_a_library_auto_is_decomposed(exported) -> None:
    folder = exported()
    done = ropeexport("build", folder, "--json")
    record = json.loads(done.stdout)
    assert record["ropes"] == {"ApplyRope_0": "decomposed"}
    assert record == json.loads((folder / "manifest.json").read_text())["engine"]


def test_float32_falls_back_to_decomposed_attention_and_says_so(exported) -> None:
    done = ropeexport("build", exported(dtype="fp32"))
    assert done.returncode == 0, done.stderr
    assert "no fused attention kernel" in done.stderr
    assert "attention: decomposed" in done.stdout


def test_weights_that_can_be_streamed_or_exchanged_are_told(exported, edit_engine) -> None:
    folder = exported("flux-self-attention")
    done = ropeexport("build", folder, "--weight-streaming")
    assert "weights: streamed from the host's memory" in done.stdout
    assert "weights: streamed from the host's memory" in ropeexport("inspect", folder).stdout
    fixed = {"norm.running_var": "computed with other weights when the file is parsed"}
    edit_engine(folder, refittable=True, stripped=True, refits=("qkv.weight",), fixed=fixed)
    told = ropeexport("inspect", folder).stdout
    assert "weights: 1 can be exchanged, 1 not; they come from the ONNX file" in told


def test_shapes_as_trtexec_writes_them(exported) -> None:
    folder = exported()
    q, pe = "2x2x16x64", "1x1x16x32x2x2"
    shapes = f"q:{q},k:{q},v:{q},pe:{pe}"
    options = [f"--{point}-shapes={shapes}" for point in ("min", "opt", "max")]
    assert ropeexport("build", folder, *options).returncode == 0
    engine = manifest.read(folder).engine
    assert engine is not None
    assert engine.profile.min["q"] == engine.profile.max["q"] == (2, 2, 16, 64)
    assert engine.profile.max["pe"] == (1, 1, 16, 32, 2, 2)


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
@pytest.mark.parametrize("option", ["--refit", "--strip"])
def test_without_a_gpu_weights_that_can_be_exchanged_are_refused(exported, option) -> None:
    folder = exported("flux-self-attention")
    before = sorted(folder.iterdir())
    assert_one_line(ropeexport("build", folder, option), 3, f"{option}: tensorrt-rtx")
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--min-shapes", "q:1x2"], 2, "q:"),
        (["--min-shapes", "q:1x2xLx64"], 2, "q:1x2xLx64"),
        (["--opt-shapes", "nope:1x2x3x4"], 2, "nope"),
        (["--impl", "plugin"], 3, "ropeexport plugin build"),
        (["--impl", "native", "--plugins", "x.so"], 2, "uses no plugin library"),
        (["--plugins", "missing.so"], 1, "missing.so: no such file"),
        (["--flavour", "tensorrt"], 3, "pip install 'ropeexport[gpu]'"),
    ],
)
def test_what_cannot_be_built_is_one_line(exported, options, code: int, words: str) -> None:
    folder = exported()
    before = sorted(folder.iterdir())
    assert_one_line(ropeexport("build", folder, *options), code, words)
    assert sorted(folder.iterdir()) == before


def test_an_engine_is_not_overwritten_without_force(built) -> None:
    before = (built / "model.engine").read_bytes()
    assert_one_line(ropeexport("build", built), 2, "--force")
    assert (built / "model.engine").read_bytes() == before
    assert ropeexport("build", built, "--force", "--impl", "native").returncode == 0
    assert manifest.read(built).engine.ropes == {"ApplyRope_0": "native"}


def test_inspect_of_a_changed_model_proves_nothing(built) -> None:
    model = built / "model.onnx"
    import onnx

    proto = onnx.load(model)
    proto.producer_name = "somebody else"
    onnx.save(proto, model)
    found = json.loads(ropeexport("inspect", built, "--json").stdout)
    assert found["model"]["is_exported_file"] is False
    assert [rope["implementation"] for rope in found["ropes"]] == [None]


def test_inspect_of_a_lone_file(exported, tmp_path) -> None:
    (exported() / "model.onnx").rename(tmp_path / "lone.onnx")
    found = json.loads(ropeexport("inspect", tmp_path / "lone.onnx", "--json").stdout)
    assert (found["engine"], len(found["ropes"])) == (None, 1)
