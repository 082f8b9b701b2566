"""A decoder's cache in onnxruntime: bound from step to step, and never copied."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ropeexport.dtypes import BY_NAME
from ropeexport.errors import MissingError, ParityError
from ropeexport.manifest import CacheRecord, TensorSpec
from ropeexport.runners.kept_cache import KeptCache
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.ort_cache import bound_cache

PAST, PRESENT = "past_key_values.0.key", "present.0.key"
CAPACITY = 8
TYPES = ("float32", "float16", "bfloat16")
STEPS = ([[3, 1, 4], [1, 5, 9]], [[2], [6]], [[5, 3], [5, 8]])


def record(form: str) -> CacheRecord:
    return CacheRecord(form=form, capacity=CAPACITY, pairs=((PAST, PRESENT),))


def pasts(form: str, dtype: str = "float32") -> list[TensorSpec]:
    length = CAPACITY if form == "fixed" else "past"
    return [TensorSpec(name=PAST, dtype=dtype, shape=("batch", 1, length, 2))]


def decoder(form: str, dtype: str = "float32") -> bytes:
    """Return a model that keeps each token twice, and says its tokens and the sum of the cache."""
    number = BY_NAME[dtype].onnx_type
    node = helper.make_node
    cached = {
        "grow": node("Concat", [PAST, "new"], [PRESENT], axis=2),
        "fixed": node("TensorScatter", [PAST, "new", "write"], [PRESENT], axis=2),
    }
    nodes = [
        node("Cast", ["input_ids"], ["tokens"], to=number),
        node("Unsqueeze", ["tokens", "axes"], ["once"]),
        node("Concat", ["once", "once"], ["new"], axis=3),
        node("Shape", ["attention_mask"], ["total"], start=1),
        node("Shape", ["input_ids"], ["length"], start=1),
        node("Shape", ["input_ids"], ["batch"], end=1),
        node("Sub", ["total", "length"], ["held"]),
        node("Expand", ["held", "batch"], ["write"]),
        cached[form],
        node("Cast", [PRESENT], ["wide"], to=TensorProto.FLOAT),
        node("ReduceSum", ["wide", "summed"], ["sum"], keepdims=0),
        node("Unsqueeze", ["sum", "last"], ["column"]),
        node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        node("Add", ["floats", "column"], ["logits"]),
    ]
    of, slots = helper.make_tensor_value_info, pasts(form)[0].shape
    inputs = [
        of("input_ids", TensorProto.INT64, ["batch", "length"]),
        of("attention_mask", TensorProto.INT64, ["batch", "total"]),
        of(PAST, number, slots),
    ]
    out = slots[:2] + ((CAPACITY,) if form == "fixed" else ("total",)) + slots[3:]
    outputs = [of(PRESENT, number, out), of("logits", TensorProto.FLOAT, ["batch", "length"])]
    constants = {"axes": [1, 3], "summed": [1, 2, 3], "last": [1]}
    weights = [onnx.numpy_helper.from_array(np.array(x), n) for n, x in constants.items()]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 24)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def fed(tokens: list[list[int]], held: int) -> dict[str, np.ndarray]:
    ids = np.array(tokens)
    batch, length = ids.shape
    return {
        "input_ids": ids,
        "attention_mask": np.ones((batch, held + length), np.int64),
        "position_ids": np.zeros_like(ids),  # which this model does not take
    }


def said(tokens: list[list[int]], text: np.ndarray) -> np.ndarray:
    return np.array(tokens, np.float32) + 2 * text.sum(-1, keepdims=True)


def kept(text: np.ndarray, form: str) -> np.ndarray:
    length = CAPACITY if form == "fixed" else text.shape[1]
    slots = np.zeros((len(text), length))
    slots[:, : text.shape[1]] = text
    return np.repeat(slots[:, None, :, None], 2, axis=3)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", ["grow", "fixed"])
def test_tokens_stay_from_step_to_step(form: str, dtype: str) -> None:
    with OrtRunner(decoder(form, dtype)) as runner:
        cache = runner.kept_cache(record(form), pasts(form, dtype), batch=2)
        other = KeptCache(runner, record(form), pasts(form, dtype), batch=2)  # in arrays
        assert type(cache) is not KeptCache
        text, results = np.zeros((2, 0), np.int64), []
        for tokens in STEPS:
            inputs = fed(tokens, text.shape[1])
            text = np.concatenate([text, tokens], 1)
            results.append((cache.step(inputs), said(tokens, text)))
            for each in (cache, other):
                if each is other:
                    assert np.array_equal(other.step(inputs)["logits"], said(tokens, text))
                (name, array), *none = each.presents().items()
                assert (name, array.dtype, none) == (PRESENT, BY_NAME[dtype].numpy, [])
                assert np.array_equal(array.astype(np.float64), kept(text, form))
        for found, wanted in results:  # those of former steps too
            assert found.keys() == {"logits"}
            assert np.array_equal(found["logits"], wanted)


@pytest.mark.parametrize("form", ["grow", "fixed"])
def test_what_is_held_at_first_and_what_is_handed_out(form: str) -> None:
    with OrtRunner(decoder(form)) as runner:
        cache = runner.kept_cache(record(form), pasts(form), batch=2)
        assert np.array_equal(cache.presents()[PRESENT], kept(np.zeros((2, 0)), form))
        cache.step(fed(STEPS[0], 0))
        cache.presents()[PRESENT][:] = 99  # a copy
        assert np.array_equal(cache.presents()[PRESENT], kept(np.array(STEPS[0]), form))


def test_a_fixed_cache_is_written_in_its_place(capfd) -> None:
    """onnxruntime says so where it has to copy a cache first."""
    session = onnxruntime.InferenceSession(decoder("fixed"), providers=["CPUExecutionProvider"])
    inputs = {name: x for name, x in fed(STEPS[0], 0).items() if name != "position_ids"}
    empty = {PAST: np.zeros((2, 1, CAPACITY, 2), np.float32)}
    session.run(None, inputs | empty)
    assert "TensorScatter" in capfd.readouterr().err
    cache = bound_cache(
        session, session.run_with_iobinding, record("fixed"), pasts("fixed"), batch=2
    )
    memory = cache._values[PAST].numpy()
    text = np.zeros((2, 0), np.int64)
    for tokens in STEPS:
        cache.step(fed(tokens, text.shape[1]))
        text = np.concatenate([text, tokens], 1)
        assert np.array_equal(memory.view(np.float32), kept(text, "fixed"))  # at one address
    assert "TensorScatter" not in capfd.readouterr().err


def test_what_a_step_grew_is_the_past_of_the_next() -> None:
    with OrtRunner(decoder("grow")) as runner:
        cache = runner.kept_cache(record("grow"), pasts("grow"), batch=2)
        binding = cache._binding
        bound: list[int] = []
        bind = binding.bind_ortvalue_input
        binding.bind_ortvalue_input = lambda name, x: (bound.append(x.data_ptr()), bind(name, x))
        cache.step(fed(STEPS[0], 0))
        written = binding.get_outputs()[1]
        assert bound == [written.data_ptr()] == [cache._values[PAST].data_ptr()]


def test_caches_of_one_session_are_apart() -> None:
    with OrtRunner(decoder("fixed")) as runner:
        caches = [runner.kept_cache(record("fixed"), pasts("fixed"), batch=2) for _ in range(2)]
        caches[0].step(fed(STEPS[0], 0))
        found = caches[1].step(fed(STEPS[2], 0))["logits"]
        assert np.array_equal(found, said(STEPS[2], np.array(STEPS[2])))


def test_errors_are_ropeexports_own() -> None:
    runner = OrtRunner(decoder("fixed"))
    with pytest.raises(MissingError, match="not entered"):
        runner.kept_cache(record("fixed"), pasts("fixed"), batch=2)
    with runner:
        cache = runner.kept_cache(record("fixed"), pasts("fixed"), batch=2)
        with pytest.raises(ParityError, match="onnxruntime: the run failed"):
            cache.step(fed(STEPS[0], CAPACITY))
        empty = {PAST: np.zeros((2, 1, CAPACITY, 2), np.float32)}
        out = {"logits": np.zeros((2, 3), np.float32), PRESENT: empty[PAST].copy()}
        with pytest.raises(ParityError, match="onnxruntime: the run failed"):  # bound for a caller
            runner.run(fed(STEPS[0], CAPACITY) | empty, out)


class Binding:
    """A binding on a GPU that this machine lacks: it notes what lies where."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, *where: Any) -> None:
        self.inputs[name] = where

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.inputs[name] = ("value", value)

    def bind_output(self, name: str, *where: Any) -> None:
        self.outputs[name] = where

    def get_outputs(self) -> list[Any]:
        logits = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((2, 3), np.float32))
        return [logits, "on the GPU"]

    def get_outputs_as_ortvaluevector(self) -> list[Any]:
        return self.get_outputs()


@pytest.fixture
def on_a_gpu(monkeypatch) -> Binding:
    """Return what is bound of a session of the CUDA provider on the second GPU."""
    binding = Binding()
    make = onnxruntime.OrtValue.ortvalue_from_numpy

    class OrtValue(onnxruntime.OrtValue):
        @classmethod
        def ortvalue_from_numpy(cls, array: Any, device: str = "cpu", index: int = 0) -> Any:
            if device == "cpu":
                return make(array)
            made = SimpleNamespace(shape=lambda: array.shape, data_ptr=lambda: 4096, on=device)
            return made if not array.any() else None  # zeros alone

    monkeypatch.setattr(onnxruntime, "OrtValue", OrtValue)
    return binding


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", ["grow", "fixed"])
def test_on_a_gpu_the_cache_stays_there(on_a_gpu, form: str, dtype: str) -> None:
    names = {
        "get_inputs": ("input_ids", "attention_mask", PAST), "get_outputs": (PRESENT, "logits"),
    }  # fmt: skip
    values = {n: lambda x=x: [SimpleNamespace(name=y) for y in x] for n, x in names.items()}
    session = SimpleNamespace(
        **values,
        io_binding=lambda: on_a_gpu,
        run_with_iobinding=lambda binding, options: None,
        get_provider_options=lambda: {"CUDAExecutionProvider": {"device_id": "1"}},
    )
    runner = OrtRunner(b"")
    runner._session = session
    runner.facts = SimpleNamespace(provider="CUDAExecutionProvider")
    cache = runner.kept_cache(record(form), pasts(form, dtype), batch=2)
    length = CAPACITY if form == "fixed" else 0
    empty = ("cuda", 1, BY_NAME[dtype].onnx_type, (2, 1, length, 2), 4096)
    assert on_a_gpu.inputs[PAST] == empty
    found = cache.step(fed(STEPS[0], 0))
    assert np.array_equal(found["logits"], np.ones((2, 3)))
    assert on_a_gpu.outputs["logits"] == ()  # the CPU's
    assert on_a_gpu.inputs["input_ids"][0] == "cpu"
    assert "position_ids" not in on_a_gpu.inputs
    if form == "fixed":
        assert on_a_gpu.inputs[PAST] == on_a_gpu.outputs[PRESENT] == empty
    else:
        assert on_a_gpu.outputs[PRESENT] == ("cuda", 1)
        assert on_a_gpu.inputs[PAST] == ("value", "on the GPU")


def test_another_provider_is_given_arrays() -> None:
    """One that may read a past after it has written a present into the same memory."""
    with OrtRunner(decoder("fixed")) as runner:
        runner.facts = SimpleNamespace(provider="OpenVINOExecutionProvider")
        assert type(runner.kept_cache(record("fixed"), pasts("fixed"), batch=2)) is KeptCache
