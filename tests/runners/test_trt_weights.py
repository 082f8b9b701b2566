"""Weights of a loaded engine: exchanged by name, all or none, put in at load, bounded."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from made_tensorrt import A_GPU, Cuda, TensorRT
from torch import nn

import ropeexport
from ropeexport import atomic
from ropeexport.artifact import Artifact, Trust
from ropeexport.errors import EngineError, UsageError
from ropeexport.machine import find_gpu
from ropeexport.manifest import EngineRecord, Profile
from ropeexport.runners import registry, trt
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.registry import Opening
from ropeexport.runners.trt import TensorrtRunner
from ropeexport.weights.updating import new_values

NAMES = ("first.weight", "first.bias", "second.weight")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory) -> Artifact:
    """An export in bfloat16, with the record of an engine that nobody has built."""
    folder = tmp_path_factory.mktemp("two")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Two().eval().bfloat16()
    x = torch.ones(2, 8, dtype=torch.bfloat16)
    made = ropeexport.export(module, {"x": x}, folder, dynamic_axes={"x": {0: "n"}}).artifact
    (folder / "model.engine").write_bytes(b"engine")
    shapes = {"x": (2, 8)}
    engine = EngineRecord(
        file="model.engine",
        sha256=atomic.sha256_of(folder / "model.engine"),
        model_sha256=made.manifest.model.sha256,
        flavour="tensorrt-rtx",
        version="1.7.1",
        inputs=made.manifest.model.inputs,
        outputs=made.manifest.model.outputs,
        profile=Profile(min=shapes, opt=shapes, max=shapes),
        ropes={},
        attention="none",
        compute_capabilities=(),
        refittable=True,
        refits=NAMES,
    )
    return made.updated(engine=engine).write()


@pytest.fixture
def artifact(exported_once, tmp_path):
    """Return a function that gives a fresh copy with other fields of the engine's record."""
    folder = shutil.copytree(exported_once.folder, tmp_path / "out")

    def changed(**fields: object) -> Artifact:
        engine = exported_once.manifest.engine.changed(**fields)
        return Artifact.read(folder, Trust(engines=True)).updated(engine=engine)

    return changed


@pytest.fixture
def tensorrt(monkeypatch) -> TensorRT:
    made = TensorRT()
    made.held = dict.fromkeys(NAMES, b"")
    Cuda(made.told).install(monkeypatch)
    monkeypatch.setattr(trt, "find_gpu", lambda: A_GPU)
    monkeypatch.setattr(trt.flavour, "load", lambda name: made.flavour)
    monkeypatch.setattr(trt.preflight, "available_flavours", lambda: {"tensorrt-rtx": "1.7.1"})
    return made


def bits(x: torch.Tensor) -> bytes:
    return x.contiguous().view(torch.int16).numpy().tobytes()


def file_values(made: Artifact) -> dict[str, bytes]:
    weights = made.file.graph.graph.initializers
    return {name: weights[name].const_value.tobytes() for name in NAMES}


def test_weights_are_exchanged_by_name(artifact, tensorrt) -> None:
    made = artifact()
    with TensorrtRunner(made) as runner:
        tensorrt.told.clear()
        one = torch.full((8, 8), 3.0, dtype=torch.bfloat16)
        runner.update(new_values({"second.weight": one}, made))
        assert tensorrt.told == ["refit second.weight"]
        assert tensorrt.held == dict.fromkeys(NAMES[:2], b"") | {"second.weight": bits(one)}
        former = made.file.graph.graph.initializers["second.weight"].const_value
        runner.update({"second.weight": former.numpy()})
        assert tensorrt.held["second.weight"] == file_values(made)["second.weight"]


def test_what_is_joined_with_a_weight_is_given_with_it(artifact, tensorrt) -> None:
    made = artifact()
    tensorrt.joined = {"first.weight", "first.bias"}
    with TensorrtRunner(made) as runner:
        bias = torch.arange(8.0).bfloat16()
        runner.update(new_values({"first.bias": bias}, made))
        assert tensorrt.held["first.bias"] == bits(bias)
        assert tensorrt.held["first.weight"] == file_values(made)["first.weight"]
        weight = torch.ones(8, 8).bfloat16()
        runner.update(new_values({"first.weight": weight}, made))
        assert tensorrt.held["first.weight"] == bits(weight)
        assert tensorrt.held["first.bias"] == bits(bias)  # of the update before


def test_an_engine_without_weights_gets_the_files_before_its_context(artifact, tensorrt) -> None:
    made = artifact(stripped=True)
    with TensorrtRunner(made):
        pass
    assert tensorrt.told == [f"refit {', '.join(NAMES)}", "context"]
    assert tensorrt.held == file_values(made)


def test_an_engine_without_weights_takes_those_of_its_own_file_only(artifact, tensorrt) -> None:
    made = artifact(stripped=True, model_sha256="d" * 64)
    with pytest.raises(EngineError, match=r"not the file that model\.engine was built of"):
        TensorrtRunner(made).__enter__()
    assert tensorrt.told == []


@pytest.mark.parametrize(("budget", "told"), [(0, 0), (640, 640), (10**12, 1000)])
def test_a_budget_is_set_before_the_context(artifact, tensorrt, budget, told) -> None:
    opening = Opening(artifact(weight_streaming=True), memory_budget=budget)
    with registry.find("tensorrt").open(opening):
        pass
    assert tensorrt.told == [f"budget {told}", "context"]


def test_a_budget_needs_an_engine_that_streams(artifact, tensorrt) -> None:
    with pytest.raises(UsageError, match=r"memory_budget: model.engine .* --weight-streaming"):
        TensorrtRunner(artifact(), memory_budget=1).__enter__()
    tensorrt.refuses = {"weight_streaming_budget_v2"}
    with pytest.raises(EngineError, match="memory_budget: 5 bytes were refused: Error Code 3"):
        TensorrtRunner(artifact(weight_streaming=True), memory_budget=5).__enter__()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"refittable": False}, "model.engine: its weights cannot be exchanged; .* --refit"),
        (
            {"refits": NAMES[:1], "fixed": {"second.weight": "a shape is computed of it"}},
            "second.weight: model.engine cannot exchange it: a shape is computed of it",
        ),
        ({"refits": ()}, "second.weight: .* it has no weight of that name"),
    ],
)
def test_what_an_engine_cannot_exchange_is_refused_by_name(
    artifact, tensorrt, fields, said
) -> None:
    with TensorrtRunner(artifact(**fields)) as runner, pytest.raises(UsageError, match=said):
        runner.update({"second.weight": np.zeros((8, 8), np.dtype("bfloat16"))})
    assert not any(text.startswith("refit") for text in tensorrt.told)


def test_what_is_needed_too_and_not_known_is_named(artifact, tensorrt) -> None:
    made = artifact(refits=NAMES[:1])
    tensorrt.joined = {"first.weight", "first.bias"}
    with (
        TensorrtRunner(made) as runner,
        pytest.raises(EngineError, match=r"first\.bias: needed too, and not known"),
    ):
        runner.update(new_values({"first.weight": torch.ones(8, 8).bfloat16()}, made))
    assert tensorrt.held == dict.fromkeys(NAMES, b"")


@pytest.mark.parametrize("call", ["Refitter", "set_named_weights first.bias"])
def test_what_is_refused_changes_nothing(artifact, tensorrt, call) -> None:
    made = artifact()
    values = {name: torch.ones(8, 8).bfloat16() for name in ("first.weight", "second.weight")}
    values["first.bias"] = torch.ones(8).bfloat16()
    with TensorrtRunner(made) as runner:
        tensorrt.refuses = {call}
        with pytest.raises(EngineError, match=f"model.engine: .*: Error Code 3: {call} is refused"):
            runner.update(new_values(values, made))
        assert tensorrt.held == dict.fromkeys(NAMES, b"")
        tensorrt.refuses, tensorrt.joined = set(), {"first.weight", "first.bias"}
        runner.update(new_values({"first.bias": values["first.bias"]}, made))
        # the update that failed left nothing behind, in the engine or in the runner
        assert tensorrt.held["first.weight"] == file_values(made)["first.weight"]


def test_what_fails_half_way_runs_no_more(artifact, tensorrt) -> None:
    made = artifact()
    with TensorrtRunner(made) as runner:
        tensorrt.refuses = {"refit_cuda_engine"}
        with pytest.raises(EngineError, match="exchanging weights failed half-way; load it again"):
            runner.update(new_values({"first.bias": torch.ones(8).bfloat16()}, made))
        with pytest.raises(EngineError, match="enter the runner"):
            runner.run({"x": np.ones((2, 8), np.dtype("bfloat16"))})


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("options", [{"refit": True}, {"strip": True}])
def test_an_engine_with_other_weights_is_the_changed_module(tmp_path, options) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Two().eval()
    x = torch.randn(2, 8)
    export = ropeexport.export(module, {"x": x}, tmp_path, dynamic_axes={"x": {0: "n"}})
    export.build(**options)
    made = Artifact.read(tmp_path)
    given = {"x": x.numpy()}
    with TensorrtRunner(made) as engine, OrtRunner(made.file) as stock:
        first = engine.run(given)
        with torch.no_grad():
            module.second.weight += 1
        values = new_values(module.state_dict(), made)
        engine.update(values)
        stock.update(values)
        changed, expected = engine.run(given), stock.run(given)
        for name, y in expected.items():
            np.testing.assert_allclose(changed[name], y, rtol=0, atol=2.0**-16)
            assert not np.allclose(first[name], y, rtol=0, atol=2.0**-4)
