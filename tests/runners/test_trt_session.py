"""What a loaded engine is told: shapes when they change, addresses and the launch at each call."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ropeexport.errors import EngineError
from ropeexport.manifest import TensorSpec
from ropeexport.runners.trt_session import Session

LONGEST = 8


class Context:
    """An execution context whose output ``y`` has the shape of its input ``x``."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.runs: list[dict[str, int]] = []

    def set_input_shape(self, name, shape) -> bool:
        self.told.append(f"{name} {shape}")
        self.shape = shape
        return shape[0] <= LONGEST

    def infer_shapes(self) -> list[str]:
        self.told.append("infer")
        return [] if "x" in self.addresses else ["x"]

    def get_tensor_shape(self, name) -> tuple[int, ...]:
        self.told.append(f"shape of {name}")
        return self.shape

    def set_tensor_address(self, name, address) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream) -> bool:
        self.told.append(f"run on {stream}")
        self.runs.append(dict(self.addresses))
        return True


@pytest.fixture
def session(monkeypatch) -> Session:
    """An engine's session in the CPU's memory: one is deserialized on a GPU only."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=7))
    made = Session.__new__(Session)
    specs = {n: (TensorSpec(name=n, dtype="bfloat16", shape=("n", 2)),) for n in "xy"}
    profile = SimpleNamespace(min={"x": (1, 2)}, max={"x": (LONGEST, 2)})
    made._record = SimpleNamespace(
        file="model.engine", inputs=specs["x"], outputs=specs["y"], profile=profile
    )
    made._context, made._shapes, made.device = Context(), {}, "cpu"
    return made


def array(length: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((length, 2), np.dtype("bfloat16"))}


def test_a_call_is_addresses_and_a_launch(session) -> None:
    context = session._context
    first, second = session.load(array(4)), session.load(array(4))
    context.told.clear()
    outputs = [session.enqueue(loaded) for loaded in (first, second, first)]
    assert context.told == ["run on 7"] * 3
    assert outputs[0] is outputs[2] is first.outputs
    for loaded, run in zip((first, second, first), context.runs, strict=True):
        expected = {"x": loaded.inputs["x"].data_ptr(), "y": loaded.outputs["y"].data_ptr()}
        assert run == expected
    assert (first.outputs["y"].shape, first.outputs["y"].dtype) == ((4, 2), torch.bfloat16)


def test_shapes_are_set_when_they_change(session) -> None:
    context = session._context
    short, long = session.load(array(4)), session.load(array(LONGEST))
    assert (short.outputs["y"].shape[0], long.outputs["y"].shape[0]) == (4, LONGEST)
    context.told.clear()
    for loaded in (long, short, short):
        session.enqueue(loaded)
    assert context.told == ["run on 7", "x (4, 2)", "infer", "run on 7", "run on 7"]


def test_a_shape_that_is_refused_is_not_taken_for_set(session) -> None:
    loaded = session.load(array(4))
    with pytest.raises(EngineError, match=r"x: expected a shape within the profile, .* got \(9, 2"):
        session.load(array(LONGEST + 1))
    session._context.told.clear()
    session.enqueue(loaded)
    assert session._context.told == ["x (4, 2)", "infer", "run on 7"]


def test_inputs_of_another_type_or_none_are_refused(session) -> None:
    with pytest.raises(EngineError, match="x: expected bfloat16, got float32"):
        session.load({"x": np.ones((4, 2), np.float32)})
    with pytest.raises(EngineError, match="x: expected as an input, got none"):
        session.load({})
