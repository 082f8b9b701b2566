"""OpenVINO: precision pinned and told, every type, and what it refuses or does otherwise."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import openvino
import pytest
import torch
from onnx_edits import make_causal

import ropeexport
from ropeexport import export, manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import MissingError, ModelFileError, ParityError
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.variants import float64_twin, inlined, whole_message
from ropeexport.parity.cases import select
from ropeexport.parity.check import Options, check
from ropeexport.parity.inputs import make_inputs
from ropeexport.runners.openvino import OpenvinoRunner
from ropeexport.runners.ort import OrtRunner
from ropeexport.testing import assert_parity

pytest.importorskip("openvino")

ONLY = Options(count=12, runtimes=("openvino",))
MODELS = ("flux-attention", "flux-self-attention", "flux-self-attention-ids")
RAN_IN = {"fp32": ("float32",), "fp16": ("float32",), "bf16": ("float32", "bfloat16")}


def ran(report, name: str = "openvino"):
    return next(r for r in report.runtimes if r.name == name)


def saved(tmp_path, text: str):
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> {text}'), path)
    return path


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", RAN_IN)
def test_a_right_export_passes_in_every_type_and_says_what_ran(export_once, model, dtype) -> None:
    report = check(Artifact.read(export_once(model, dtype)), options=ONLY)
    found = ran(report)
    assert (found.status, report.verdict) == ("PASS", "PASS"), found.reason
    assert (found.implementations, found.device) == (("inlined function body",), "cpu")
    assert found.version[:2] == "20"
    assert found.precision == RAN_IN[dtype]


def test_whoever_calls_one_thread_that_never_ends_calls_openvino(export_once, monkeypatch) -> None:
    callers = []

    def noted(real):
        return lambda *a, **k: callers.append(threading.current_thread()) or real(*a, **k)

    for kind, name in ((openvino.Core, "compile_model"), (openvino.InferRequest, "infer")):
        monkeypatch.setattr(kind, name, noted(getattr(kind, name)))
    artifact = Artifact.read(export_once())
    specs, cases = artifact.manifest.model.inputs, select(artifact.manifest).cases[:4]
    given = [make_inputs(case, specs) for case in cases]
    with OpenvinoRunner(artifact.file) as runner, ThreadPoolExecutor(2) as pool:
        expected = [runner.run(inputs)["out"] for inputs in given]
        for found, right in zip(pool.map(runner.run, given * 4), expected * 4, strict=True):
            np.testing.assert_array_equal(found["out"], right)
    with OpenvinoRunner(artifact.file) as runner:
        runner.run(given[0])
    caller, *others = set(callers)
    assert not others
    assert caller.daemon
    assert caller.is_alive()


def test_float32_is_float32_also_where_the_processor_has_bfloat16(export_once) -> None:
    folder = export_once("flux-attention", "fp32")
    record = manifest.read(folder)
    inputs = make_inputs(select(record, count=1).cases[0], record.model.inputs)
    with (
        OpenvinoRunner(OnnxFile(folder / "model.onnx")) as one,
        OrtRunner(OnnxFile(folder / "model.onnx")) as other,
    ):
        error = np.abs(one.run(inputs)["out"] - other.run(inputs)["out"]).max()
    assert error < 1e-5  # in bfloat16 it is about 1e-2


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool"])
def test_every_type_comes_back_as_it_is(tmp_path, dtype) -> None:
    kind = {"float32": "float"}.get(dtype, dtype)
    path = saved(tmp_path, f"g ({kind}[n, 3] x) => ({kind}[n, 3] y) {{ y = Identity(x) }}")
    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    with OpenvinoRunner(OnnxFile(path)) as runner:
        first = runner.run({"x": array.T.copy().T})["y"]  # not contiguous
        second = runner.run({"x": array[:1]})["y"]  # another shape, the first one's memory
    assert (first.dtype, second.shape) == (array.dtype, (1, 3))
    assert first.tobytes() == array.tobytes()


def test_outputs_are_found_by_the_files_names(tmp_path) -> None:
    path = saved(
        tmp_path,
        "g (float[n] b, float[n] a) => (float[n] z, float[n] y) { z = Sub(b, a) y = Neg(a) }",
    )
    with OpenvinoRunner(OnnxFile(path)) as runner:
        got = runner.run({"a": np.ones(1, "f4"), "b": np.full(1, 3, "f4")})
    assert {name: x.item() for name, x in got.items()} == {"z": 2.0, "y": -1.0}


def test_an_operator_that_it_lacks_is_missing_and_named(tmp_path) -> None:
    path = saved(tmp_path, "g (float[n] x) => (float[n] y) { y = Neg(x) }")
    model = onnx.load(path)
    model.graph.node[0].domain, model.graph.node[0].op_type = "elsewhere", "Mystery"
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    onnx.save(model, path)
    with (
        pytest.raises(MissingError, match=r"no rule for elsewhere.Mystery"),
        OpenvinoRunner(OnnxFile(path)),
    ):
        pass


def test_a_broken_file_is_broken_and_not_missing(tmp_path) -> None:
    path = saved(tmp_path, "g (float[n] x) => (float[n] y) { y = Neg(x) }")
    model = onnx.load(path)
    model.graph.node[0].input[0] = "nobody"
    onnx.save(model, path)
    with (
        pytest.raises(ModelFileError, match="Neg reads 'nobody', which nothing before it makes"),
        OpenvinoRunner(OnnxFile(path)),
    ):
        pass
    with (
        pytest.raises(ModelFileError, match="no such file"),
        OpenvinoRunner(OnnxFile(tmp_path / "y.onnx")),
    ):
        pass


def test_a_run_that_fails_and_an_input_that_is_not_there(export_once) -> None:
    folder = export_once("flux-attention", "fp32")
    record = manifest.read(folder)
    inputs = make_inputs(select(record, count=1).cases[0], record.model.inputs)
    with OpenvinoRunner(OnnxFile(folder / "model.onnx")) as runner:
        with pytest.raises(ParityError, match="expected the inputs q, k, v, pe, got"):
            runner.run({name: x for name, x in inputs.items() if name != "k"})
        with pytest.raises(ParityError, match="openvino: the run failed"):
            runner.run({**inputs, "q": inputs["q"][..., :3]})


def test_a_file_beyond_its_memory_is_missing_before_it_is_read(exported, monkeypatch) -> None:
    folder = exported("flux-self-attention", "fp32")
    path = folder / "large.onnx"
    onnx.save(
        onnx.load(folder / "model.onnx"), path, save_as_external_data=True, location="large.data",
        size_threshold=0,
    )  # fmt: skip
    report = check(Artifact.read(folder), options=ONLY)
    assert report.verdict == "PASS", report.reason
    with OpenvinoRunner(OnnxFile(path)):  # with weights beside it
        pass
    (folder / "large.data").unlink()
    monkeypatch.setattr("ropeexport.runners.openvino._LIMIT_BYTES", 100)
    with (
        pytest.raises(MissingError, match=r"too large to inline .* MiB"),
        OpenvinoRunner(OnnxFile(path)),
    ):
        pass


def test_without_openvino_it_is_skipped_with_the_command_that_brings_it(
    export_once, monkeypatch
) -> None:
    from ropeexport import machine

    find = machine.find_spec
    monkeypatch.setattr(machine, "find_spec", lambda n: None if n == "openvino" else find(n))
    report = check(Artifact.read(export_once()), options=Options(count=2))
    assert report.verdict == "PASS"
    assert ran(report).status == "SKIPPED"
    assert ran(report).reason == "openvino is not installed; run: pip install 'ropeexport[bench]'"


def test_a_wrong_file_fails_in_it(exported) -> None:
    folder = exported("flux-attention", "fp32")
    model = onnx.load(folder / "model.onnx")
    make_causal(model)
    onnx.save(model, folder / "model.onnx")
    report = check(Artifact.read(folder), options=ONLY)
    assert (ran(report).status, report.verdict) == ("FAIL", "FAIL")


MASKED = """g (float[1, 1, 2, 8] q, float[1, 1, 2, 8] k, float[1, 1, 2, 8] v, bool[2, 2] mask)
=> (float[1, 1, 2, 8] y) { y = Attention(q, k, v, mask) }"""


def test_its_attention_with_a_mask_drops_nan(tmp_path) -> None:
    """Where this fails, OpenVINO was mended, and its row in the registry may say so."""
    path = saved(tmp_path, MASKED)
    q = np.full((1, 1, 2, 8), np.nan, "f4")
    k = v = np.ones((1, 1, 2, 8), "f4")
    inputs = {"q": q, "k": k, "v": v, "mask": np.tri(2, dtype=bool)}
    with OpenvinoRunner(OnnxFile(path)) as one, OrtRunner(OnnxFile(path)) as other:
        assert np.isnan(other.run(inputs)["y"]).all()
        assert np.isfinite(one.run(inputs)["y"]).all()


def test_positions_beyond_the_tables_are_not_supported_where_nan_is_dropped(tmp_path) -> None:
    pytest.importorskip("transformers")
    from models.hub.test_load import LLAMA, config

    config(tmp_path, LLAMA)
    folder = tmp_path / "out"
    export(f"transformers:{tmp_path}", out=folder, dtype="fp32")
    options = Options(count=12, runtimes=("onnxruntime", "openvino"))
    report = check(Artifact.read(folder), options=options)
    assert report.verdict == "PASS", report.reason
    mine = [c for c in report.comparisons if c.runtime == "openvino" and c.case is not None]
    beyond = {c.status for c in mine if c.case.kind == "positions beyond the tables"}
    assert beyond == {"NOT_SUPPORTED"}
    assert {c.status for c in mine if c.case.kind != "positions beyond the tables"} == {"PASS"}
    told = next(c.reason for c in mine if c.status == "NOT_SUPPORTED")
    assert "wrong numbers where the file says NaN: positions beyond 1049599" in told


ATTENTION = """g (float[b, 2, l, 32] q, float[b, 2, l, 32] k, float[b, 2, l, 32] v)
    => (float[b, 2, l, 32] y) { y = Attention(q, k, v) }"""


def _attention_inputs(length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(length)
    return {name: rng.standard_normal((1, 2, length, 32), np.float32) for name in "qkv"}


def test_its_attention_is_wrong_after_a_first_call_of_one_position(tmp_path) -> None:
    """Where this fails, OpenVINO was mended, and the runner's first call may go."""
    core = openvino.Core()
    path = saved(tmp_path, ATTENTION)
    model = core.read_model(str(path))
    request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = request.create_infer_request()
    request.infer(_attention_inputs(1))
    wrong = np.array(request.infer(_attention_inputs(17))[0])
    with OrtRunner(OnnxFile(path)) as right:
        assert np.abs(wrong - right.run(_attention_inputs(17))["y"]).max() > 1


def test_the_runner_is_right_whatever_is_called_first(tmp_path) -> None:
    path = saved(tmp_path, ATTENTION)
    exact = onnx.reference.ReferenceEvaluator(ir.to_proto(float64_twin(ir.load(path))))
    with OpenvinoRunner(OnnxFile(path)) as ours:
        for length in (1, 17, 64):
            inputs = _attention_inputs(length)
            got = ours.run(inputs)["y"]
            assert_parity(got, lambda **wide: exact.run(None, wide)[0], inputs=inputs)


class Cached(torch.nn.Module):
    """A cache of rotated keys, of which attention is written out."""

    def forward(self, q, past, mask):
        rope = ropeexport.rope(torch.arange(q.shape[2]) + past["key"].shape[2], 16, 1e4)
        q, new = ropeexport.apply_rope(q, q, rope[None])
        key = torch.cat((past["key"], new), dim=2)
        value = torch.cat((past["value"], q), dim=2)
        return (q @ key.mT / 4 + mask).softmax(-1) @ value, {"key": key}


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cached")
    past = {name: torch.randn(1, 2, 3, 16) for name in ("key", "value")}
    made = export(
        Cached(),
        {"q": torch.randn(1, 2, 6, 16), "past": past, "mask": torch.zeros(1, 1, 6, 9)},
        folder,
        dynamic_axes={
            "q": {2: "length"},
            "past": {2: "past"},
            "mask": {2: "length", 3: "past + length"},
        },
        axes={"past": (0, 8, 32), "length": (1, 4, 16)},
    )
    report = made.check(runtimes=["onnxruntime", "openvino"], require=["openvino"])
    assert report.verdict == "PASS", report.reason
    return folder


def test_a_cache_is_right_where_its_own_branch_is_not(cached: Path) -> None:
    """Where this fails, OpenVINO was mended, and the runner may keep the body with a branch."""
    file = OnnxFile(cached / "model.onnx")
    rng = np.random.default_rng(0)
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(whole_message(inlined(file.graph)).SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    errors = []
    with OrtRunner(file) as right:
        for length, past in ((4, 8), (16, 19), (5, 3)):
            shapes = {"q": length, "past.key": past, "past.value": past}
            inputs = {n: rng.standard_normal((1, 2, size, 16), "f4") for n, size in shapes.items()}
            inputs["mask"] = np.zeros((1, 1, length, past + length), "f4")
            found, expected = compiled(inputs)[1], right.run(inputs)["out.1.key"]
            errors.append(np.abs(found - expected).max())
    assert not all(error <= 1 for error in errors)  # NaN too
