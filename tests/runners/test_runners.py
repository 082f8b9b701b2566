"""Runners: arrays in, arrays out; what cannot run says MISSING, what is wrong says what."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from made_tensorrt import A_GPU, KERNELS, Cuda, TensorRT

from ropeexport import manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import EngineError, MissingError, ModelFileError, ParityError
from ropeexport.machine import find_gpu
from ropeexport.models import sources
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.parity.cases import select
from ropeexport.parity.inputs import make_inputs
from ropeexport.runners import trt
from ropeexport.runners.eager import EagerRunner
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.registry import CPU
from ropeexport.runners.torch_arrays import array_from, caller, tensor_from
from ropeexport.runners.trt import TensorrtRunner


def first_inputs(folder):
    record = manifest.read(folder)
    case = select(record, count=1).cases[0]
    return record, make_inputs(case, record.model.inputs)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool"])
def test_arrays_cross_to_torch_and_back_bit_for_bit(dtype: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    array = np.arange(24).reshape(2, 3, 4).astype(kind)[:, ::-1].transpose(1, 0, 2)
    back = array_from(tensor_from(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


def test_a_signature_is_read_once_for_many_calls(monkeypatch) -> None:
    from ropeexport.runners import torch_arrays

    class Twice(torch.nn.Module):
        def forward(self, x, y):
            return x - y

    run = caller(Twice(), ["out"])
    monkeypatch.delattr(torch_arrays.inspect, "signature")
    one, two = torch.ones(1), 2 * torch.ones(1)
    assert run({"y": one, "x": two})["out"].item() == 1
    assert run({"a": one, "b": two})["out"].item() == -1  # other names: by their order


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_eager_is_the_module(exported, dtype: str) -> None:
    folder = exported("flux-self-attention", dtype)
    record, inputs = first_inputs(folder)
    module = sources.rebuild_example(Artifact(folder, record)).module
    with EagerRunner(module, ["out"]) as runner:
        got = runner.run(inputs)
    with torch.no_grad():
        expected = module(**{name: tensor_from(x) for name, x in inputs.items()})
    assert got["out"].tobytes() == array_from(expected).tobytes()


def test_onnxruntime_names_its_device_and_its_outputs(exported) -> None:
    folder = exported()
    record, inputs = first_inputs(folder)
    with OrtRunner(OnnxFile(folder / "model.onnx")) as runner:
        outputs = runner.run(inputs)
        assert runner.facts.provider.endswith("ExecutionProvider")
        assert (runner.facts.device, runner.facts.implementation) == ("cpu", ("function body",))
    assert [str(outputs[spec.name].dtype) for spec in record.model.outputs] == ["float16"]


def test_onnxruntime_without_a_kernel_is_missing_not_wrong(exported) -> None:
    with (
        pytest.raises(MissingError, match="no kernel for an operator or a type of this model"),
        OrtRunner(OnnxFile(exported(dtype="bf16") / "model.onnx"), provider=CPU),
    ):
        pass


def test_onnxruntime_says_what_it_cannot_load(tmp_path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x01broken")
    with (
        pytest.raises(ModelFileError, match="not a readable ONNX file"),
        OrtRunner(OnnxFile(tmp_path / "x.onnx")),
    ):
        pass
    with (
        pytest.raises(ModelFileError, match="no such file"),
        OrtRunner(OnnxFile(tmp_path / "y.onnx")),
    ):
        pass


def test_onnxruntime_says_that_a_run_failed(exported) -> None:
    folder = exported()
    _, inputs = first_inputs(folder)
    wrong = {**inputs, "q": inputs["q"][:, :1]}
    with (
        OrtRunner(OnnxFile(folder / "model.onnx")) as runner,
        pytest.raises(ParityError, match="run failed"),
    ):
        runner.run(wrong)


def test_bfloat16_comes_back_as_bfloat16(tmp_path) -> None:
    kind = onnx.TensorProto.BFLOAT16
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [value("x", kind, ["n"])],
        [value("y", kind, ["n"])],
    )
    opset = [onnx.helper.make_opsetid("", 23)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    x = np.arange(5).astype(ml_dtypes.bfloat16)
    with OrtRunner(model.SerializeToString()) as runner:
        y = runner.run({"x": x})["y"]
    assert y.dtype == x.dtype
    assert y.tobytes() == x.tobytes()


def test_tensorrt_says_what_the_engine_is_before_it_runs(built) -> None:
    runner = TensorrtRunner(Artifact.read(built))
    assert runner.facts.implementation == ("decomposed",)
    assert runner.facts.version.startswith("tensorrt-rtx ")
    with pytest.raises(EngineError, match="enter the runner"):
        runner.run({})


def test_a_run_leaves_the_output_folder_as_it_is(built, own_cache, monkeypatch) -> None:
    tensorrt = TensorRT()
    Cuda(tensorrt.told).install(monkeypatch)
    monkeypatch.setattr(trt, "find_gpu", lambda: A_GPU)
    monkeypatch.setattr(trt.flavour, "load", lambda name: tensorrt.flavour)
    record, inputs = first_inputs(built)
    tensorrt.output_shape = (3, 0)
    (built / "runtime.cache").write_bytes(b"code from wherever the folder came from")
    before = {path.name: path.read_bytes() for path in built.iterdir()}
    for path in (*built.iterdir(), built):
        path.chmod(path.stat().st_mode & ~0o222)
    for _ in range(2):
        with TensorrtRunner(Artifact.read(built)) as runner:
            assert runner.run(inputs)[record.model.outputs[0].name].shape == (3, 0)
    assert {path.name: path.read_bytes() for path in built.iterdir()} == before
    assert tensorrt.cached == [KERNELS]  # what the first one wrote, in the user's cache folder
    assert len(list((own_cache / "runtime").iterdir())) == 1


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_without_a_gpu_the_engine_is_missing_its_gpu(built) -> None:
    with pytest.raises(MissingError, match="no NVIDIA GPU"), TensorrtRunner(Artifact.read(built)):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")
def test_an_engine_runs(built) -> None:
    record, inputs = first_inputs(built)
    with (
        TensorrtRunner(Artifact.read(built)) as engine,
        OrtRunner(OnnxFile(built / "model.onnx")) as stock,
    ):
        got, expected = engine.run(inputs), stock.run(inputs)
    assert got["out"].shape == expected["out"].shape
    assert got["out"].dtype == expected["out"].dtype
    assert np.isfinite(got["out"].astype(np.float32)).all()
    assert record.model.outputs[0].name in got
