"""Contenders by their parts: what each needs, and onnxruntime on bound memory.

GPUs that a flavour's documents do not name: tried, and what is said there is a refusal.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from made_benches import made_bench, made_timing
from made_tensorrt import KERNELS, Cuda, TensorRT
from pydantic import ValidationError

from ropeexport.artifact import Artifact
from ropeexport.bench import contenders, show
from ropeexport.bench.bench import BenchOptions
from ropeexport.bench.clocks import InputSets
from ropeexport.bench.contenders import BY_NAME, Setting, refusable
from ropeexport.bench.records import Bench, Timing
from ropeexport.errors import BuildError, EngineError, MissingError, ModelFileError
from ropeexport.machine import Gpu, find_gpu
from ropeexport.runners import trt
from ropeexport.runners.ort_memory import BoundMemory, without_waiting
from ropeexport.runners.registry import choice
from ropeexport.trt.flavour import FULL, RTX, names_gpu

A_GPU = Gpu("NVIDIA GeForce RTX 4090", "8.9", "13.0")
HOPPER = Gpu("NVIDIA H100 80GB HBM3", "9.0", "13.0")
ADA = Gpu("NVIDIA L4", "8.9", "13.0")
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
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="run: pip install triton"):
        BY_NAME["compile"].needs("cuda")


def test_tensorrt_stands_for_its_four() -> None:
    assert len(ENGINES) == 4
    assert BenchOptions(against=("tensorrt",)).names == ["eager", "ropeexport", *ENGINES]
    assert BenchOptions(against=("tensorrt-native",)).names[2:] == ["tensorrt-native"]
    assert contenders.GROUPS == {"tensorrt": ENGINES}


def test_a_timing_of_a_former_name_is_no_floor() -> None:
    assert not show.is_floor(Timing(contender="tensorrt", turns_ms=(1.0,), peak_mb=1.0))


def test_a_record_has_each_contender_once_and_no_more_groups_than_a_chart_holds() -> None:
    fields = made_bench(made_timing("ropeexport", 1.0), made_timing("eager", 2.0)).model_dump()
    (group,) = fields["groups"]
    twice = group | {"timings": [*group["timings"], group["timings"][0]]}
    for wrong in (
        {"contenders": [*fields["contenders"], fields["contenders"][0]]},
        {"groups": [twice]},
        {"groups": [group] * 2000},
    ):
        with pytest.raises(ValidationError, match=r"each contender once|at most 1000 items"):
            Bench.model_validate(fields | wrong)
    Bench.model_validate(fields)


def run_engine(file: str, made: Setting):
    return contenders.run_file(choice("tensorrt"), file, made)


def setting(folder, prepared) -> Setting:
    return Setting(folder, prepared, None, threads=1)


@pytest.mark.parametrize("model", ["flux-attention", "flux-self-attention"])
def test_bound_memory_gives_what_arrays_give(export_once, tmp_path, model) -> None:
    from ropeexport import manifest

    folder = export_once(model, "fp32")
    record = manifest.read(folder)
    run = BY_NAME["ropeexport"].set_up(setting(folder, tmp_path))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    bound = BoundMemory(session, "cpu", without_waiting())
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
    bound = BoundMemory(
        onnxruntime.InferenceSession(model.SerializeToString()), "cpu", without_waiting()
    )
    (found,) = bound.read(bound.call(bound.load({"x": array})))
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")
def test_an_engine_gives_outputs_by_the_models_names(export_once, tmp_path) -> None:
    from ropeexport import manifest
    from ropeexport.bench.prepare import build_engine

    folder = export_once()
    record = manifest.read(folder)
    sizes = dict.fromkeys(record.axes, 1) | {"length": 8}
    build_engine(Artifact.read(folder), tmp_path, "decomposed/model.engine", [sizes])
    run = run_engine("decomposed/model.engine", setting(folder, tmp_path))
    inputs = InputSets(record, sizes, seed=0)[0]
    expected = BY_NAME["ropeexport"].set_up(setting(folder, tmp_path)).run(inputs)
    got = run.run(inputs)
    assert list(got) == list(expected)
    assert np.abs(got["out"].astype("f4") - expected["out"].astype("f4")).max() < 1e-2


def test_an_engine_that_its_gpu_refuses_is_missing_there(built, monkeypatch) -> None:
    from ropeexport.runners.trt import TensorrtRunner

    def refuse(self):
        raise EngineError("model.engine: cannot be loaded: unsupported SM")

    monkeypatch.setattr(TensorrtRunner, "__enter__", refuse)
    with pytest.raises(EngineError, match="unsupported SM"):
        run_engine("model.engine", setting(built, built))
    hopper = Gpu("NVIDIA H100 80GB HBM3", "9.0", "13.0")
    monkeypatch.setattr(contenders, "find_gpu", lambda: hopper)
    with pytest.raises(MissingError, match=r"unsupported SM; .* compute capability 9\.0"):
        run_engine("model.engine", setting(built, built))


def test_an_engines_run_keeps_what_was_compiled_for_that_run(built, monkeypatch, own_cache) -> None:
    from ropeexport.trt.cache import has_any

    tensorrt = TensorRT()
    Cuda(tensorrt.told).install(monkeypatch)
    monkeypatch.setattr(trt, "find_gpu", lambda: A_GPU)
    monkeypatch.setattr(trt.flavour, "load", lambda name: tensorrt.flavour)
    kept = contenders.kept_beside(built / "model.engine")
    for _ in range(2):
        run_engine("model.engine", setting(built, built)).keep()
        assert has_any(kept)
    assert tensorrt.cached == [KERNELS]
    assert not has_any(own_cache / "runtime")  # else the next run's first load were none


def raising(error: Exception):
    def work(*arguments, **options):
        raise error

    return work


@pytest.fixture
def on_gpu(monkeypatch):
    return lambda gpu: monkeypatch.setattr(contenders, "find_gpu", lambda: gpu)


@pytest.mark.parametrize(
    ("flavour", "compute_capability", "named"),
    [(RTX, "8.9", True), (RTX, "12.0", True), (RTX, "9.0", False), (FULL, "9.0", True)],
)
def test_which_gpus_a_flavour_names(flavour, compute_capability, named) -> None:
    assert names_gpu(flavour, compute_capability) is named


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EngineError("model.engine: cannot be loaded: SM 9.0 is not supported"), "SM 9.0 is not"),
        (BuildError("model.onnx: tensorrt-rtx built no engine"), "built no engine"),
        (TypeError("factory function returned nullptr"), "factory function returned nullptr"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_refusal_keeps_its_text_and_names_the_gpu(on_gpu, error, text) -> None:
    on_gpu(HOPPER)
    with pytest.raises(MissingError) as raised:
        refusable(RTX, raising(error))()
    assert str(raised.value).startswith(str(error) or text)
    assert text in str(raised.value)
    end = "tensorrt-rtx's documents do not name compute capability 9.0 (NVIDIA H100 80GB HBM3)"
    assert str(raised.value).endswith(end)


def test_what_the_gpu_has_no_part_in_stays_a_failure(on_gpu) -> None:
    on_gpu(HOPPER)
    with pytest.raises(ModelFileError, match="not the file"):
        refusable(RTX, raising(ModelFileError("not the file that was exported")))()


def test_a_gpu_that_is_not_named_is_tried(on_gpu) -> None:
    on_gpu(HOPPER)
    assert refusable(RTX, lambda a, b: a - b)(3, b=1) == 2


@pytest.mark.parametrize(("flavour", "gpu"), [(RTX, ADA), (FULL, HOPPER), (RTX, None)])
def test_elsewhere_the_work_is_left_as_it_is(on_gpu, flavour, gpu) -> None:
    on_gpu(gpu)
    work = raising(EngineError("broken"))
    assert refusable(flavour, work) is work
