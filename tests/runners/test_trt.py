"""What a loaded engine is told: shapes when they change, addresses and the launch at each call."""

from __future__ import annotations

import copy
import logging
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import torch
from made_tensorrt import A_GPU, KERNELS, LONGEST, Cuda, TensorRT, engine_record, make_session

from ropeexport.errors import EngineError
from ropeexport.runners.trt import TensorrtRunner
from ropeexport.runners.trt_session import Session
from ropeexport.trt.cache import RuntimeCache


@pytest.fixture
def tensorrt() -> TensorRT:
    return TensorRT()


@pytest.fixture
def cuda(tensorrt, monkeypatch) -> Cuda:
    made = Cuda(tensorrt.told)
    made.install(monkeypatch)
    return made


@pytest.fixture
def session(tensorrt, cuda, tmp_path):
    """An engine's session in the CPU's memory: one is deserialized on a GPU only."""
    return make_session(tensorrt, tmp_path / "kept")


def array(length: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((length, 2), np.dtype("bfloat16"))}


def test_a_call_is_addresses_and_a_launch(session, tensorrt) -> None:
    first, second = session.load(array(4)), session.load(array(4))
    tensorrt.told.clear()
    outputs = [session.enqueue(loaded) for loaded in (first, second, first)]
    assert tensorrt.told == ["run on 7"] * 3  # the caller's stream
    assert outputs[0] is outputs[2] is first.outputs
    for loaded, run in zip((first, second, first), tensorrt.runs, strict=True):
        expected = {"x": loaded.inputs["x"].data_ptr(), "y": loaded.outputs["y"].data_ptr()}
        assert run == expected
    assert (first.outputs["y"].shape, first.outputs["y"].dtype) == ((4, 2), torch.bfloat16)


def test_shapes_are_set_when_they_change(session, tensorrt) -> None:
    short, long = session.load(array(4)), session.load(array(LONGEST))
    assert (short.outputs["y"].shape[0], long.outputs["y"].shape[0]) == (4, LONGEST)
    tensorrt.told.clear()
    for loaded in (long, short, short):
        session.enqueue(loaded)
    assert tensorrt.told == ["run on 7", "x (4, 2)", "infer", "run on 7", "run on 7"]


def test_a_shape_that_is_refused_is_not_taken_for_set(session, tensorrt) -> None:
    loaded = session.load(array(4))
    with pytest.raises(EngineError, match=r"x: expected a shape within the profile, .* got \(9, 2"):
        session.load(array(LONGEST + 1))
    tensorrt.told.clear()
    session.enqueue(loaded)
    assert tensorrt.told == ["x (4, 2)", "infer", "run on 7"]


def test_inputs_of_another_type_or_none_are_refused(session) -> None:
    with pytest.raises(EngineError, match="x: expected bfloat16, got float32"):
        session.load({"x": np.ones((4, 2), np.float32)})
    with pytest.raises(EngineError, match="x: expected as an input, got none"):
        session.load({})


@pytest.mark.parametrize("shape", [(0, 2), (4, 0)])
def test_a_tensor_of_length_zero_has_memory_and_its_shape(session, tensorrt, shape) -> None:
    loaded = session.load({"x": np.ones(shape, np.dtype("bfloat16"))})
    session.enqueue(loaded)
    (run,) = tensorrt.runs
    for name, tensor in (loaded.inputs | loaded.outputs).items():
        assert (tuple(tensor.shape), tensor.dtype) == (shape, torch.bfloat16)
        memory = tensor.untyped_storage()  # which lives as long as the tensor
        assert run[name] == memory.data_ptr() != 0
        assert memory.nbytes() >= tensor.element_size()


def test_an_output_whose_shape_comes_of_the_run_is_refused(session, tensorrt) -> None:
    tensorrt.output_shape = (-1, 2)
    with pytest.raises(EngineError, match=r"y: expected a shape that its inputs decide, got \(-1"):
        session.load(array(4))


def test_all_runs_share_one_stream(session, tensorrt, cuda) -> None:
    tensorrt.told.clear()
    for _ in range(3):
        with session.running():
            session.enqueue(session.load(array(4)))
    assert [stream.cuda_stream for stream in cuda.made] == [100]
    first, *others = tensorrt.told
    assert first == "100 waits for 7"  # before it copies an input
    calls = [text for text in others if text.startswith(("run", "100"))]
    assert calls == ["run on 100", "100 is done", "100 waits for 7"] * 2 + [
        *("run on 100", "100 is done"),
    ]
    assert cuda.current.cuda_stream == 7


def test_tensors_run_where_they_lie_and_each_run_waits_for_the_one_before(
    session, tensorrt, cuda
) -> None:
    x = torch.ones(4, 2, dtype=torch.bfloat16)
    y, own = torch.empty_like(x), cuda.make_stream()
    with session.in_turn():
        assert session.enqueue(session.placed({"x": x}, {"y": y}))["y"] is y
    with cuda.use(own), session.in_turn():
        session.enqueue(session.placed({"x": x.T.contiguous().T}))
    with session.running():
        session.enqueue(session.load(array(4)))
    assert tensorrt.runs[0] == {"x": x.data_ptr(), "y": y.data_ptr()}
    assert tensorrt.runs[1]["x"] != x.data_ptr()  # a copy: an engine reads what is contiguous
    runs = [text for text in tensorrt.told if "run on" in text]
    assert runs[:3] == ["run on 7", "101 waits for the run on 7", "run on 101"]
    assert runs[3:] == ["100 waits for the run on 101", "run on 100"]


def test_a_run_that_fails_later_on_the_gpu_is_the_engines_error(session, cuda) -> None:
    cuda.fault = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"
    with pytest.raises(EngineError) as error, session.running():
        session.enqueue(session.load(array(4)))
    expected = "the run failed: CUDA error: an illegal memory access was encountered"
    assert str(error.value) == f"model.engine: {expected}"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("set_tensor_address x", r"x: refused at address 0x[0-9a-f]+"),
        ("set_tensor_address y", r"y: refused at address 0x[0-9a-f]+"),
        ("infer_shapes", r"no outputs' shapes from \{'x': \(4, 2\)\}"),
        ("execute_async_v3", "the run failed"),
    ],
)
def test_a_call_that_fails_names_its_cause_in_one_line(session, tensorrt, call, text) -> None:
    tensorrt.refuses = {call}
    with pytest.raises(EngineError) as error:
        session.enqueue(session.load(array(4)))
    said = str(error.value)
    assert "\n" not in said
    assert said.endswith(f": Error Code 3: {call} is refused")
    with pytest.raises(EngineError, match=f"model.engine: {text}: Error Code 3"):
        session.enqueue(session.load(array(4)))


def test_an_error_has_its_own_cause_not_a_former_one(session, tensorrt) -> None:
    with pytest.raises(EngineError):
        session.load(array(LONGEST + 1))
    loaded = session.load(array(4))
    tensorrt.refuses = {"execute_async_v3"}
    with pytest.raises(EngineError, match="Error Code 3: execute_async_v3 is refused"):
        session.enqueue(loaded)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("Runtime", "no runtime to load it"),
        ("deserialize_cuda_engine", "cannot be loaded"),
        ("create_runtime_config", "no context"),
        ("create_execution_context", "no context"),
    ],
)
def test_an_engine_that_cannot_be_loaded_says_why(cuda, tmp_path, call, text) -> None:
    with pytest.raises(EngineError, match=f"model.engine: {text}: Error Code 3: {call} is refused"):
        make_session(TensorRT(call), tmp_path)


@pytest.mark.parametrize("specialise", [True, False])
def test_kernels_are_specialised_before_the_first_run_where_that_is_asked(
    cuda, tensorrt, tmp_path, specialise
) -> None:
    make_session(tensorrt, tmp_path, specialise=specialise)
    assert tensorrt.strategy == ("eager" if specialise else "lazy")


def test_what_was_compiled_is_given_to_the_next_session(cuda, tmp_path) -> None:
    first, second = TensorRT(), TensorRT()
    make_session(first, tmp_path / "kept").save_runtime_cache()
    make_session(second, tmp_path / "kept")
    assert (first.cached, second.cached) == ([], [KERNELS])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("create_runtime_cache", "is not kept"),
        ("set_runtime_cache", "is not kept"),
        ("deserialize", "left out, and compiled again: refused by tensorrt-rtx"),
        ("serialize", "is not kept"),
    ],
)
def test_a_cache_that_fails_is_one_warning_and_no_error(cuda, tmp_path, caplog, call, text) -> None:
    make_session(TensorRT(), tmp_path / "kept").save_runtime_cache()
    tensorrt = TensorRT(call)
    session = make_session(tensorrt, tmp_path / "kept")
    session.save_runtime_cache()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    assert text in said
    assert said.endswith(f"Error Code 3: {call} is refused")
    # and its words are not the cause of a later failure
    tensorrt.refuses = {"execute_async_v3"}
    with pytest.raises(EngineError, match="execute_async_v3 is refused"):
        session.enqueue(session.load(array(4)))


def test_a_flavour_that_compiles_nothing_at_load_keeps_nothing(cuda, tensorrt, tmp_path) -> None:
    flavour = tensorrt.flavour
    flavour = replace(flavour, capabilities=replace(flavour.capabilities, runtime_cache=False))
    record = engine_record()
    kept = RuntimeCache(tmp_path / "kept", record, A_GPU)
    Session(flavour, record, b"engine", None, kept).save_runtime_cache()
    assert not (tmp_path / "kept").exists()


class SeveralContexts(TensorRT):
    """One whose contexts each know what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[TensorRT] = []

    def create_execution_context(self, config=None):
        context = copy.copy(self)
        context.told, context.shapes, context.addresses = [], {}, {}
        self.contexts.append(context)
        return context


def test_a_context_that_was_recorded_is_not_changed(tmp_path, monkeypatch) -> None:
    """By no other recording, and by no run: what a graph does then is not defined."""
    tensorrt = SeveralContexts()
    Cuda(tensorrt.told).install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: nullcontext())
    runner = TensorrtRunner(SimpleNamespace(manifest=SimpleNamespace(engine=None)), graphs=True)
    runner._session = make_session(tensorrt, tmp_path)
    for rows in (2, 3, 2):
        found = runner.run_tensors({"x": torch.zeros(rows, 2, dtype=torch.bfloat16)})
        assert found["y"].shape == (rows, 2)
    recorded = tensorrt.contexts[1:]
    told = [list(context.told) for context in recorded]
    assert [context.shapes for context in recorded] == [{"x": (2, 2)}, {"x": (3, 2)}]
    runner.run({"x": np.zeros((4, 2), ml_dtypes.bfloat16)})
    assert tensorrt.contexts[0].shapes == {"x": (4, 2)}
    assert [context.told for context in recorded] == told
