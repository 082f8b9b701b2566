"""A module called again and again: each row of calls finds it as it was, and inputs stay theirs."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from ropeexport.errors import ChangedInputError, ParityError
from ropeexport.parity.oracle import Oracle
from ropeexport.runners.eager import EagerRunner, ModuleCalls
from ropeexport.runners.module_state import ModuleState

X = {"x": np.arange(3, dtype=np.float32)}


class Box:
    def __init__(self) -> None:
        self.tensor = torch.zeros(2)
        self.parts = {"a": [torch.zeros(2)]}


class Everything(nn.Module):
    """Values in every place that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_buffer("table", torch.tensor([1.0, float("nan")]))
        self.register_buffer("late", None)
        self.count = 0
        self.names = {"one"}
        self.queue = deque([1], maxlen=4)
        self.array = np.zeros(2)
        self.box = Box()


CHANGES = {
    "buffer 'table'": lambda m: m.table.zero_(),
    "buffer 'late'": lambda m: setattr(m, "late", torch.ones(1)),
    "parameter 'weight' of 'inner'": lambda m: m.inner.weight.data.add_(1),
    "parameter 'bias' of 'inner'": lambda m: setattr(m.inner, "bias", None),
    "attribute 'count'": lambda m: setattr(m, "count", 1),
    "attribute 'new'": lambda m: setattr(m, "new", torch.ones(1)),
    "attribute 'names'": lambda m: m.names.add("two"),
    "attribute 'queue'": lambda m: m.queue.append(2),
    "attribute 'array'": lambda m: m.array.__setitem__(0, 1.0),
    "attribute 'box'": lambda m: m.box.parts["a"].append(torch.ones(1)),
    "attribute 'training' of 'inner'": lambda m: m.inner.train(),
}


@pytest.mark.parametrize("place", CHANGES)
def test_each_change_is_named_and_undone(place: str) -> None:
    module = Everything().eval()
    state = ModuleState(module)
    assert state.changes() == []
    CHANGES[place](module)
    (changed,) = state.changes()
    assert str(changed) == place
    state.restore()
    assert state.changes() == []


def test_one_place_is_restored_alone() -> None:
    module = Everything().eval()
    state = ModuleState(module)
    module.count, module.box.tensor[0] = 1, 1.0
    count, box = state.changes()
    state.restore(count)
    assert (module.count, state.changes()) == (0, [box])


def test_a_tensor_that_was_resized_comes_back() -> None:
    module = nn.Module()
    module.register_buffer("cache", torch.zeros(2))
    state = ModuleState(module)
    module.cache.resize_(5)
    state.restore()
    assert module.cache.shape == (2,)


class CollectsItsLayers(nn.Module):
    """As transformers does: hooks that the first call registers, and an attribute that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x):
        if not hasattr(self, "has_hooks"):
            self.has_hooks = True
            self.layer.register_forward_hook(lambda *_: collected.append(1))
        collected = []
        self.layer(x)
        return x + len(collected)


@pytest.mark.parametrize("is_alone", [False, True])
def test_hooks_go_with_the_attribute_that_says_that_they_are_there(is_alone: bool) -> None:
    module = CollectsItsLayers()
    state = ModuleState(module)
    assert module(0) == 1
    (changed,) = state.changes()
    assert str(changed) == "attribute 'has_hooks'"
    state.restore(changed if is_alone else None)
    assert not module.layer._forward_hooks
    assert module(0) == 1


class ReturnsItsBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x):
        return self.total.add_(x)


def test_a_buffer_that_is_returned_does_not_change_under_an_earlier_result() -> None:
    with EagerRunner(ReturnsItsBuffer(), ["out"], "cpu") as eager:
        first, second = eager.in_a_row([X, X])
        assert np.array_equal(second["out"], 2 * first["out"])
        assert np.array_equal(eager.run(X)["out"], first["out"])


class ChangesItsInput(nn.Module):
    def forward(self, x):
        return x.add_(1)


def test_an_input_changed_in_place_is_named_and_its_array_stays() -> None:
    inputs = {"x": X["x"].copy()}
    calls = ModuleCalls(ChangesItsInput(), ["out"])
    with pytest.raises(ChangedInputError, match="changes its input 'x' in place"):
        calls.row([inputs])
    assert np.array_equal(inputs["x"], X["x"])


class HasALock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_a_module_that_cannot_be_copied_is_one_line() -> None:
    with pytest.raises(ParityError, match="cannot be copied for the float64 oracle: TypeError"):
        Oracle(HasALock(), ["out"])
