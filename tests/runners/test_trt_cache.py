"""A decoder's engine: a context for each profile, and its cache, which no step copies.

The engine is a stand-in that computes in the memory that it is told, and has what it updates in
place at one address, as TensorRT documents of its own.
"""

from __future__ import annotations

import copy
import ctypes
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_tensorrt import (
    A_GPU,
    PAST,
    PRESENT,
    Cuda,
    TensorRT,
    decoder_manifest,
    engine_record,
)

import ropeexport
from ropeexport.artifact import Artifact
from ropeexport.errors import EngineError
from ropeexport.machine import find_gpu
from ropeexport.manifest import CacheRecord, EngineRecord, TensorSpec
from ropeexport.profiles import make_profiles
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.trt import TensorrtRunner
from ropeexport.runners.trt_session import Session
from ropeexport.trt.cache import RuntimeCache
from tests import decoders

CAPACITY = 8
TYPES = {"int64": np.int64, "float32": np.float32}


class DecoderEngine(TensorRT):
    """Holds each token as a number; its logits are the sum of what the mask lets be seen."""

    def __init__(self, record: EngineRecord, *refuses: str) -> None:
        super().__init__(*refuses)
        self.record, self.profile = record, -1
        self.specs = {spec.name: spec for spec in (*record.inputs, *record.outputs)}
        self.is_fixed = isinstance(self.specs[PAST].shape[2], int)
        self.contexts: list[DecoderEngine] = []
        self.strategies: list[object] = []

    def get_aliased_input_tensor(self, name):
        return PAST if self.is_fixed and name == PRESENT else None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategies.append(strategy)

    def create_execution_context(self, config=None):
        context = copy.copy(self)
        context.told, context.shapes, context.addresses, context.runs = [], {}, {}, []
        self.contexts.append(context)
        return context

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return self.answer("set_optimization_profile_async", True, False)

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        profile = self.record.profiles[self.profile]
        low, high = profile.min[name], profile.max[name]
        fits = all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        return fits or self.fail("set_input_shape")

    def infer_shapes(self):
        return []

    def get_tensor_shape(self, name):
        batch, new = self.shapes["input_ids"]
        if name == "logits":
            return batch, new, 1
        slots = CAPACITY if self.is_fixed else self.shapes[PAST][2] + new
        return batch, 1, slots, 1

    def array(self, name: str) -> np.ndarray:
        shape = self.shapes.get(name) or self.get_tensor_shape(name)
        dtype = np.dtype(TYPES[self.specs[name].dtype])
        memory = ctypes.c_byte * (int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(memory.from_address(self.addresses[name]), dtype).reshape(shape)

    def execute_async_v3(self, stream):
        ids, mask = self.array("input_ids"), self.array("attention_mask")
        new, total = ids.shape[1], mask.shape[1]
        past, present = self.array(PAST), self.array(PRESENT)
        if self.is_fixed:
            assert self.addresses[PAST] == self.addresses[PRESENT]
        else:
            present[:, :, : total - new] = past
        present[:, 0, total - new : total, 0] = ids
        seen = present[:, 0, :total, 0] * mask
        self.array("logits")[:] = seen.cumsum(1)[:, total - new :, None]
        return super().execute_async_v3(stream)


def record_of(form: str) -> tuple[EngineRecord, CacheRecord]:
    manifest = decoder_manifest(form, CAPACITY)
    prefill, decode = make_profiles(manifest)
    slots = CAPACITY if form == "fixed" else "past + length"
    outputs = (
        TensorSpec(name="logits", dtype="float32", shape=("batch", "length", 1)),
        TensorSpec(name=PRESENT, dtype="float32", shape=("batch", 1, slots, 1)),
    )
    record = engine_record(
        inputs=manifest.model.inputs, outputs=outputs, profile=prefill, decode=decode
    )
    return record, manifest.cache


class Decoder:
    """A runner of such an engine, with what it was told."""

    def __init__(self, form: str, folder, monkeypatch, *, graphs: bool = False) -> None:
        record, self.cache = record_of(form)
        self.engine = DecoderEngine(record)
        Cuda(self.engine.told).install(monkeypatch)
        kept = RuntimeCache(folder, record, A_GPU)
        nothing = SimpleNamespace(manifest=SimpleNamespace(engine=None), folder=folder)
        self.runner = TensorrtRunner(nothing, graphs=graphs)
        self.runner._session = Session(self.engine.flavour, record, b"engine", None, kept)
        self.pasts = [spec for spec in record.inputs if spec.name == PAST]

    def kept(self, batch: int):
        return self.runner.kept_cache(self.cache, self.pasts, batch)

    def runs(self) -> list[int]:
        """How often each profile's context ran."""
        return [len(context.runs) for context in self.engine.contexts]


def call(tokens: np.ndarray, held: int) -> dict[str, np.ndarray]:
    batch, new = tokens.shape
    return {
        "input_ids": tokens.astype(np.int64),
        "attention_mask": np.ones((batch, held + new), np.int64),
        "position_ids": np.tile(np.arange(held, held + new), (batch, 1)),
    }


@pytest.fixture(params=["fixed", "grow"])
def decoder(request, tmp_path, monkeypatch):
    return Decoder(request.param, tmp_path, monkeypatch)


TEXT = np.array([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]])
CALLS = ((0, 3), (3, 5), (5, 6), (6, 7))  # a text, a further part of it, two single tokens


def in_steps(decoder: Decoder, kept) -> np.ndarray:
    parts = [kept.step(call(TEXT[:, start:end], start)) for start, end in CALLS]
    assert all(set(part) == {"logits"} for part in parts)
    return np.concatenate([part["logits"] for part in parts], 1)


def test_a_text_in_steps_is_what_it_is_at_once(decoder) -> None:
    kept = decoder.kept(2)
    assert np.array_equal(in_steps(decoder, kept)[..., 0], TEXT.cumsum(1))
    (held,) = kept.presents().values()
    assert np.array_equal(held[:, 0, :7, 0], TEXT)
    assert held.shape[2] == (CAPACITY if decoder.cache.form == "fixed" else 7)


def test_each_profile_runs_what_it_is_for_in_a_context_of_its_own(decoder) -> None:
    in_steps(decoder, decoder.kept(2))
    assert [context.profile for context in decoder.engine.contexts] == [0, 1]
    assert decoder.runs() == [2, 2]
    assert decoder.engine.strategies == ["of its profile"]


def test_no_step_copies_the_cache(decoder) -> None:
    in_steps(decoder, decoder.kept(2))
    reading, writing = (context.runs for context in decoder.engine.contexts)
    runs = [*reading, *writing]
    if decoder.cache.form == "fixed":
        assert len({run[name] for run in runs for name in (PAST, PRESENT)}) == 1
    else:
        for before, after in pairwise(runs):
            assert after[PAST] == before[PRESENT] != after[PRESENT]


def test_more_tokens_than_it_holds_are_an_error_before_the_run(decoder) -> None:
    kept = decoder.kept(2)
    in_steps(decoder, kept)
    before, runs = kept.presents(), decoder.runs()
    said = rf"attention_mask: expected a shape within the profile, .* \(8, {CAPACITY}\), got \(2, 9"
    with pytest.raises(EngineError, match=said):
        kept.step(call(TEXT[:, :2], 7))
    assert decoder.runs() == runs
    assert np.array_equal(kept.presents()[PRESENT], before[PRESENT])
    kept.step(call(TEXT[:, :1], 7))


def test_two_texts_of_one_engine_do_not_meet(decoder) -> None:
    one, other = decoder.kept(2), decoder.kept(1)
    one.step(call(TEXT[:, :3], 0))
    other.step(call(TEXT[1:, :2], 0))
    found = one.step(call(TEXT[:, 3:4], 3))["logits"][:, 0, 0]
    assert np.array_equal(found, TEXT[:, :4].sum(1))
    assert np.array_equal(other.presents()[PRESENT][0, 0, :2, 0], TEXT[1, :2])


def filled_past(decoder: Decoder) -> np.ndarray:
    past = np.zeros((2, 1, CAPACITY if decoder.cache.form == "fixed" else 3, 1), np.float32)
    past[:, 0, :3, 0] = TEXT[:, :3]
    return past


def test_a_plain_call_leaves_the_callers_cache_as_it_is(decoder) -> None:
    past = filled_past(decoder)
    given = {**call(TEXT[:, 3:4], 3), PAST: past}
    before = past.copy()
    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    for found in (
        decoder.runner.run(given),
        decoder.runner.run_tensors(tensors),
        decoder.runner.run_tensors(tensors),
    ):
        assert np.array_equal(found["logits"][:, 0, 0], TEXT[:, :4].sum(1))
        assert np.array_equal(found[PRESENT][:, 0, :4, 0], TEXT[:, :4])
        assert np.array_equal(past, before)


def test_a_caller_may_have_its_cache_updated_in_place(tmp_path, monkeypatch) -> None:
    decoder = Decoder("fixed", tmp_path, monkeypatch)
    held = torch.from_numpy(filled_past(decoder))
    given = {name: torch.from_numpy(x) for name, x in call(TEXT[:, 3:4], 3).items()}
    logits = torch.empty(2, 1, 1)
    out = {PRESENT: held, "logits": logits}
    assert decoder.runner.run_tensors({**given, PAST: held}, out)[PRESENT] is held
    assert np.array_equal(held[:, 0, :4, 0], TEXT[:, :4])
    (run,) = decoder.engine.contexts[1].runs
    assert run[PAST] == run[PRESENT] == held.data_ptr()


def test_a_recorded_call_reads_the_callers_cache_each_time(tmp_path, monkeypatch) -> None:
    decoder = Decoder("fixed", tmp_path, monkeypatch, graphs=True)
    graph = SimpleNamespace(replay=lambda: decoder.engine.contexts[-1].execute_async_v3(7))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: nullcontext())
    for factor in (1, 2):
        past = torch.from_numpy(filled_past(decoder) * factor)
        before = past.clone()
        given = {name: torch.from_numpy(x) for name, x in call(TEXT[:, 3:4], 3).items()}
        found = decoder.runner.run_tensors({**given, PAST: past})
        assert np.array_equal(found["logits"][:, 0, 0], factor * TEXT[:, :3].sum(1) + TEXT[:, 3])
        assert torch.equal(past, before)
    assert [context.profile for context in decoder.engine.contexts] == [0, 1, 1]


def test_a_profile_that_is_refused_is_the_engines_error(tmp_path, monkeypatch) -> None:
    record, _ = record_of("grow")
    engine = DecoderEngine(record, "set_optimization_profile_async")
    Cuda(engine.told).install(monkeypatch)
    kept = RuntimeCache(tmp_path, record, A_GPU)
    with pytest.raises(EngineError, match="no context of profile 0: Error Code 3: set_optimiz"):
        Session(engine.flavour, record, b"engine", None, kept)


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("form", ["fixed", "grow"])
def test_an_engine_decodes_as_onnxruntime_does(tmp_path, form: str) -> None:
    """A padded text, a part of it, single tokens: logits and cache; past and present one memory."""
    model = decoders.decoder("gemma3", scale=1.0, head_dim=64)
    ropeexport.export(model, out=tmp_path, cache=form, capacity=64)
    built = ropeexport.build(tmp_path)
    made = Artifact.read(tmp_path)
    cache = made.manifest.cache
    names = {past for past, _ in cache.pairs}
    pasts = [spec for spec in made.manifest.model.inputs if spec.name in names]
    tokens = np.random.default_rng(0).integers(3, 500, (2, 64))
    mask = np.ones_like(tokens)
    mask[1, :5] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with TensorrtRunner(made) as runner, OrtRunner(made.file) as stock:
        loaded = runner._session._engine
        for index, profile in enumerate(built.profiles):
            for name, least in profile.min.items():
                found = [tuple(s) for s in loaded.get_tensor_profile_shape(name, index)]
                assert found == [least, profile.opt[name], profile.max[name]]
        aliased = {(loaded.get_aliased_input_tensor(new) or "", new) for _, new in cache.pairs}
        assert aliased == (set(built.in_place) or {("", new) for _, new in cache.pairs})
        ours, theirs = (each.kept_cache(cache, pasts, 2) for each in (runner, stock))
        for start, end in pairwise([0, 17, 24, *range(25, 65)]):
            given = {
                "input_ids": np.ascontiguousarray(tokens[:, start:end]),
                "attention_mask": np.ascontiguousarray(mask[:, :end]),
                "position_ids": np.ascontiguousarray(positions[:, start:end]),
            }
            found, expected = ours.step(given)["logits"], theirs.step(given)["logits"]
            bound = 2.0**-12 * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
        with pytest.raises(EngineError, match="expected a shape within the profile"):
            ours.step(call(tokens[:, :1], 64))
        expected = theirs.presents()
        for name, held in ours.presents().items():
            bound = 2.0**-12 * np.abs(expected[name]).max()
            np.testing.assert_allclose(held, expected[name], rtol=0, atol=bound)
