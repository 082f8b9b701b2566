"""What is no function of its inputs is refused by name; what only looks like it is exported."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

import ropeexport
from ropeexport.errors import ExportError


class Base(nn.Module):
    """x (batch, length, 8), with buffers that a forward may use."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("cache", torch.zeros(2, 64, 8))


class InPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) + self.offset
        self.offset.add_(x.shape[1])
        return y


class Reassigned(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.offset = self.offset + 1
        return self.linear(x) * self.offset


class Cache(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.cache[:, 0] = x[:, 0]
        return self.linear(self.cache)


class InAPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = InPlace()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Indexed(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.cache.index_copy_(1, torch.tensor([3]), x.mean(1, keepdim=True))
        return self.linear(self.cache.sum(1))


class Weight(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        with torch.no_grad():
            self.linear.bias.add_(1)
        return y


STATE = {
    InPlace: "buffer 'offset'",
    Reassigned: "buffer 'offset'",
    Cache: "buffer 'cache'",
    InAPart: r"buffer 'inner\.offset'",
    Indexed: "buffer 'cache'",
    Weight: r"parameter 'linear\.bias'",
}


class Dropout(Base):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(self.linear(x), 0.5, training=True)


class Noise(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.randn_like(x)


class Rand(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * torch.rand(8)


class Bernoulli(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.bernoulli(self.linear(x).sigmoid())


class Offset(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.randint(0, 100, (1,))


class AttentionDropout(Base):
    def forward(self, x: Tensor) -> Tensor:
        q = self.linear(x)[:, None]
        return scaled_dot_product_attention(q, q, q, dropout_p=0.1)


RANDOM = [Dropout, Noise, Rand, Bernoulli, Offset, AttentionDropout]


def export(module: nn.Module, folder: Path, *names: str) -> ropeexport.api.Export:
    inputs = {name: torch.randn(2, 6, 8) for name in names or ("x",)}
    axes = {name: {1: "length"} for name in inputs}
    return ropeexport.export(module, inputs, folder, dynamic_axes=axes)


@pytest.mark.parametrize("kind", STATE)
def test_state_is_refused_by_name(tmp_path: Path, kind: type[nn.Module]) -> None:
    words = STATE[kind] + r": forward changes it .* input of forward .* output \(.*test_purity\.py"
    with pytest.raises(ExportError, match=words) as caught:
        export(kind(), tmp_path)
    assert "register" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", RANDOM)
def test_random_numbers_are_refused_by_their_line(tmp_path: Path, kind: type[nn.Module]) -> None:
    with pytest.raises(ExportError, match=r"random numbers in evaluation mode.*test_purity\.py:\d"):
        export(kind(), tmp_path)
    assert list(tmp_path.iterdir()) == []


class Counter(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) + self.calls


class Listed(Base):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.linear(x) * len(self.seen)


class Attribute(Base):
    def __init__(self) -> None:
        super().__init__()
        self.sum = torch.zeros(8)

    def forward(self, x: Tensor) -> Tensor:
        self.sum = self.sum + x.mean((0, 1))
        return self.linear(x) + self.sum


class PythonsRandom(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * random.random()


CALLS = itertools.count()


class Global(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + next(CALLS)


class EveryFourth(Counter):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * (2.0 if self.calls % 4 == 0 else 1.0)


class Difference(Base):
    """Of the same inputs it makes the same; what came before shows in others alone."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) + (x - self.last).sum() * 0.1
        self.last = x.flatten()[0] * 1.0
        return y


class Once(Counter):
    def forward(self, x: Tensor) -> Tensor:
        assert self.calls < 1, "called again"
        self.calls += 1
        return self.linear(x)


class InAnObject(Base):
    class Held:
        cos: Tensor | None = None
        calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.held = self.Held()

    def forward(self, x: Tensor) -> Tensor:
        if self.held.cos is None:
            self.held.cos = self.linear.bias.cos()
        self.held.calls += 1
        return self.linear(x) * self.held.cos * self.held.calls


UNSEEN_BY_A_TRACE = {
    EveryFourth: "attribute 'calls' changes from call to call",
    Difference: "attribute 'last' changes from call to call",
    Once: "fails when it is called again: AssertionError: called again",
    InAnObject: "attribute 'held' changes from call to call",
    Counter: "attribute 'calls' changes from call to call",
    Listed: "attribute 'seen' changes from call to call",
    Attribute: "attribute 'sum' changes from call to call",
    PythonsRandom: "Python's random",
    Global: "a global variable",
}


@pytest.mark.parametrize("kind", UNSEEN_BY_A_TRACE)
def test_what_a_trace_cannot_see_is_refused(tmp_path: Path, kind: type[nn.Module]) -> None:
    module = kind()
    kept = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    with pytest.raises(ExportError, match=UNSEEN_BY_A_TRACE[kind]) as caught:
        export(module, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert {n: v for n, v in vars(module).items() if not n.startswith("_")} == kept


def test_a_module_that_its_example_does_not_suit_is_traced_all_the_same(tmp_path: Path) -> None:
    """The tracer widens an axis of 1, at which this module refuses to be called."""

    class Long(Base):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] == 1:
                raise ValueError("too short")
            return self.linear(x)

    inputs = {"x": torch.randn(2, 1, 8)}
    made = ropeexport.export(Long(), inputs, tmp_path, dynamic_axes={"x": {1: "length"}})
    assert made.manifest.model.comparison.without_whole == ""


def test_an_object_of_the_module_is_as_it_was(tmp_path: Path) -> None:
    class Lazy(InAnObject):
        def forward(self, x: Tensor) -> Tensor:
            if self.held.cos is None:
                self.held.cos = self.linear.bias.cos()
            return self.linear(x) * self.held.cos

    module = Lazy()
    export(module, tmp_path)
    assert module.held.cos is None


def test_generators_are_where_they_were(tmp_path: Path) -> None:
    states = torch.get_rng_state(), random.getstate()
    with torch.random.fork_rng():
        module, inputs = Unused(), {"x": torch.randn(2, 6, 8)}
    ropeexport.export(module, inputs, tmp_path, dynamic_axes={"x": {1: "length"}})
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_a_dictionary_of_the_module_is_as_it_was(tmp_path: Path) -> None:
    class Memo(Base):
        def __init__(self) -> None:
            super().__init__()
            self.known: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            key = f"length {x.shape[1]}"
            if key not in self.known:
                self.known[key] = torch.arange(8.0).cos()
            return self.linear(x) * self.known[key]

    module = Memo()
    known = module.known
    export(module, tmp_path)
    assert module.known is known
    assert known == {}


def test_an_input_that_is_changed_in_place_is_refused(tmp_path: Path) -> None:
    class Filled(Base):
        def forward(self, x: Tensor, past: Tensor) -> Tensor:
            past[:, 0] = x[:, 0]
            return self.linear(past)

    with pytest.raises(ExportError, match=r"input 'past': forward changes it in place.*output"):
        export(Filled(), tmp_path, "x", "past")


class Returned(Base):
    """The changed input is an output, so nothing is lost."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x.mul_(2)
        return self.linear(x), x


class Scratch(Base):
    """Overwritten before it is read: the next call finds nothing of this one."""

    def forward(self, x: Tensor) -> Tensor:
        self.offset.copy_(x.mean())
        return self.linear(x) * self.offset


class Counted(Base):
    """Counts its calls, and no result depends on the count."""

    def forward(self, x: Tensor) -> Tensor:
        self.offset.add_(1)
        return self.linear(x)


class Unused(Base):
    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3)
        return dropout(self.linear(x), 0.5, training=self.training)


class Attention(Base):
    def forward(self, x: Tensor) -> Tensor:
        q = self.linear(x)[:, None]
        return scaled_dot_product_attention(q, q, q, dropout_p=0.1 if self.training else 0.0)


@pytest.mark.parametrize("kind", [Returned, Scratch, Counted, Unused, Attention])
def test_functions_are_exported(tmp_path: Path, kind: type[nn.Module]) -> None:
    assert export(kind(), tmp_path).manifest.model.comparison.without_whole == ""
