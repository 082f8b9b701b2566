"""Contenders by their parts: what each needs, and onnxruntime on bound memory."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from made_tensorrt import KERNELS, Cuda, TensorRT

from ropeexport.bench import contenders, show
from ropeexport.bench.contenders import BY_NAME, with_runtime, with_torch
from ropeexport.bench.contenders.contender import Setting
from ropeexport.bench.inputs import InputSets
from ropeexport.bench.options import BenchOptions
from ropeexport.bench.records import Timing
from ropeexport.errors import EngineError, MissingError
from ropeexport.runners import trt
from ropeexport.runners.ort_binding import BoundMemory
from ropeexport.runners.registry import choice
from ropeexport.trt import gpu
from ropeexport.trt.gpu import find_gpu

A_GPU = gpu.Gpu("NVIDIA GeForce RTX 4090", "8.9", "13.0")
ENGINES = tuple(name for name in BY_NAME if name.startswith("tensorrt-"))


@pytest.mark.parametrize("name", ["openvino", "openvino-plain"])
def test_openvino_has_no_part_in_a_run_on_a_gpu(name) -> None:
    with pytest.raises(MissingError, match="OpenVINO runs on a CPU"):
        BY_NAME[name].needs("cuda")
    BY_NAME[name].needs("cpu")


@pytest.mark.parametrize("name", ["ropeexport", "plain", "ort-optimizer", "optimum",
                                  "without-rope"])  # fmt: skip
def test_onnxruntime_without_cuda_says_what_to_install(name, monkeypatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingError, match=r"no CUDAExecutionProvider; run: .*ropeexport\[gpu\]"):
        BY_NAME[name].needs("cuda")
    BY_NAME[name].needs("cpu")


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_needs_a_gpu_and_the_device(name, monkeypatch) -> None:
    monkeypatch.setattr(trt, "find_gpu", lambda: None)
    with pytest.raises(MissingError, match="no NVIDIA GPU: a TensorRT engine runs on one only"):
        BY_NAME[name].needs("cuda")
    monkeypatch.setattr(trt, "find_gpu", lambda: A_GPU)
    with pytest.raises(MissingError, match="use --device cuda"):
        BY_NAME[name].needs("cpu")
    BY_NAME[name].needs("cuda")


def test_torch_compile_needs_triton_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(with_torch, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="run: pip install triton"):
        BY_NAME["compile"].needs("cuda")


def test_tensorrt_stands_for_its_four() -> None:
    assert len(ENGINES) == 4
    assert BenchOptions(against=("tensorrt",)).names == ["eager", "ropeexport", *ENGINES]
    assert BenchOptions(against=("tensorrt-native",)).names[2:] == ["tensorrt-native"]
    assert contenders.GROUPS == {"tensorrt": ENGINES}


def test_a_timing_of_a_former_name_is_no_floor() -> None:
    assert not show.is_floor(Timing(contender="tensorrt", turns_ms=(1.0,), peak_mb=1.0))


def run_engine(file: str, made: Setting):
    return with_runtime.run_file(choice("tensorrt"), file, made)


def setting(folder, prepared) -> Setting:
    return Setting(folder, prepared, None, threads=1)


@pytest.mark.parametrize("model", ["flux-attention", "flux-self-attention"])
def test_bound_memory_gives_what_arrays_give(export_once, tmp_path, model) -> None:
    from ropeexport import manifest

    folder = export_once(model, "fp32")
    record = manifest.read(folder)
    run = BY_NAME["ropeexport"].set_up(setting(folder, tmp_path))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    bound = BoundMemory(session, "cpu")
    sizes = dict.fromkeys(record.axes, 1) | {"length": 8}
    sets = InputSets(record, sizes, seed=0)
    first, second = bound.load(sets[0]), bound.load(sets[1])
    for loaded, inputs in ((second, sets[1]), (first, sets[0])):
        (got,), expected = bound.read(bound.call(loaded)), run.run(inputs)
        assert list(expected) == ["out"]
        assert np.array_equal(got, expected["out"])
    assert not np.array_equal(*(bound.read(loaded.outputs)[0] for loaded in (first, second)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "bool", "bfloat16"])
def test_bound_memory_keeps_every_type(dtype) -> None:
    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    names = {"float32": "FLOAT", "float64": "DOUBLE"}
    kind = onnx.TensorProto.DataType.Value(names.get(dtype, dtype.upper()))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [value("x", kind, ["n", 3])],
        [value("y", kind, ["n", 3])],
    )
    opset = [onnx.helper.make_opsetid("", 23)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    bound = BoundMemory(onnxruntime.InferenceSession(model.SerializeToString()), "cpu")
    (found,) = bound.read(bound.call(bound.load({"x": array})))
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")
def test_an_engine_gives_outputs_by_the_models_names(export_once, tmp_path) -> None:
    from ropeexport import manifest
    from ropeexport.bench.engines import build_engine

    folder = export_once()
    record = manifest.read(folder)
    sizes = dict.fromkeys(record.axes, 1) | {"length": 8}
    build_engine(folder, tmp_path, "decomposed/model.engine", [sizes])
    run = run_engine("decomposed/model.engine", setting(folder, tmp_path))
    inputs = InputSets(record, sizes, seed=0)[0]
    expected = BY_NAME["ropeexport"].set_up(setting(folder, tmp_path)).run(inputs)
    got = run.run(inputs)
    assert list(got) == list(expected)
    assert np.abs(got["out"].astype("f4") - expected["out"].astype("f4")).max() < 1e-2


def test_an_engine_that_its_gpu_refuses_is_missing_there(built, monkeypatch) -> None:
    from ropeexport.bench import refusal
    from ropeexport.runners.trt import TensorrtRunner

    def refuse(self):
        raise EngineError("model.engine: cannot be loaded: unsupported SM")

    monkeypatch.setattr(TensorrtRunner, "__enter__", refuse)
    with pytest.raises(EngineError, match="unsupported SM"):
        run_engine("model.engine", setting(built, built))
    hopper = gpu.Gpu("NVIDIA H100 80GB HBM3", "9.0", "13.0")
    monkeypatch.setattr(refusal, "find_gpu", lambda: hopper)
    with pytest.raises(MissingError, match=r"unsupported SM; .* compute capability 9\.0"):
        run_engine("model.engine", setting(built, built))


def test_an_engines_run_keeps_what_was_compiled_for_that_run(built, monkeypatch, own_cache) -> None:
    from ropeexport.trt.runtime_cache import has_any

    tensorrt = TensorRT()
    Cuda(tensorrt.told).install(monkeypatch)
    monkeypatch.setattr(trt, "find_gpu", lambda: A_GPU)
    monkeypatch.setattr(trt.flavour, "load", lambda name: tensorrt.flavour)
    kept = with_runtime.kept_beside(built / "model.engine")
    for _ in range(2):
        run_engine("model.engine", setting(built, built)).keep()
        assert has_any(kept)
    assert tensorrt.cached == [KERNELS]
    assert not has_any(own_cache / "runtime")  # else the next run's first load were none
