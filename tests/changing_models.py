"""Modules with one state or one source of random numbers each, and sound ones that look like them.

All have the inputs, the output and the weights of ``sound``, whose export each is compared with.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ropeexport

_STEP = 0.125
_calls: list[int] = []  # a global variable, as a module's code may have one


class Sound(nn.Module):
    """An attention whose data passes ``change`` first, which changes nothing here."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(32, 32)
        self.kv = nn.Linear(32, 64)

    def change(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, pe: Tensor) -> Tensor:
        x = self.change(x)
        q = self.q(x).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, 4, 8)).permute(2, 0, 3, 1, 4)
        return ropeexport.attention(q, k, v, pe)


class BufferInPlace(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(1))

    def change(self, x: Tensor) -> Tensor:
        self.offset.add_(_STEP)
        return x + self.offset.to(x.dtype)


class BufferReassigned(BufferInPlace):
    def change(self, x: Tensor) -> Tensor:
        self.offset = self.offset + _STEP
        return x + self.offset.to(x.dtype)


class InAChild(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.child = BufferInPlace()

    def change(self, x: Tensor) -> Tensor:
        return self.child.change(x)


class Counter(Sound):
    calls = 0

    def change(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (1.0 if self.calls % 2 else -1.0)


class TensorInAList(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.past = [torch.zeros(1)]

    def change(self, x: Tensor) -> Tensor:
        self.past[0] += _STEP
        return x + self.past[0].to(x.dtype)


class TensorsInAnObject(Sound):
    class Cache:
        def __init__(self) -> None:
            self.layers: dict[int, Tensor] = {}

    def __init__(self) -> None:
        super().__init__()
        self.cache = self.Cache()

    def change(self, x: Tensor) -> Tensor:
        self.cache.layers[0] = self.cache.layers.get(0, torch.zeros(1)) + _STEP
        return x + self.cache.layers[0].to(x.dtype)


class ParameterThroughData(Sound):
    def change(self, x: Tensor) -> Tensor:
        self.q.weight.data.mul_(1 + _STEP)
        return x


class GlobalVariable(Sound):
    def change(self, x: Tensor) -> Tensor:
        _calls.append(1)
        return x + _STEP * len(_calls)


class Clock(Sound):
    def change(self, x: Tensor) -> Tensor:
        return x + (time.perf_counter_ns() % 1_000_003) / 1e5


class FilledByTheFirstCall(Sound):
    scale: Tensor | None = None

    def change(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = x.abs().mean()
        return x * self.scale


class KeysOfTheFirstCall(Sound):
    first: Tensor | None = None

    def change(self, x: Tensor) -> Tensor:
        if self.first is None:
            self.first = x
        return x + self.first


class LongestSoFar(Sound):
    longest = 0

    def change(self, x: Tensor) -> Tensor:
        self.longest = max(self.longest, x.shape[1])
        return x * (1 + self.longest)


class InputInPlace(Sound):
    def change(self, x: Tensor) -> Tensor:
        return x.add_(_STEP)


class Dropout(Sound):
    def change(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class Rand(Sound):
    def change(self, x: Tensor) -> Tensor:
        return x + torch.rand(x.shape, dtype=x.dtype)


class RandnLike(Sound):
    def change(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Bernoulli(Sound):
    def change(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full_like(x, 0.5))


class RandintOffset(Sound):
    def change(self, x: Tensor) -> Tensor:
        return x + torch.randint(0, 1000, (1,)).to(x.dtype)


class Rrelu(Sound):
    def change(self, x: Tensor) -> Tensor:
        return F.rrelu(x, training=True)


class AlphaDropout(Sound):
    def change(self, x: Tensor) -> Tensor:
        return F.alpha_dropout(x, 0.5, training=True)


class OwnGenerator(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def change(self, x: Tensor) -> Tensor:
        return x + torch.rand(x.shape, generator=self.generator).to(x.dtype)


class PythonsRandom(Sound):
    def change(self, x: Tensor) -> Tensor:
        return x + random.random()


class NumpysRandom(Sound):
    def change(self, x: Tensor) -> Tensor:
        return x + float(np.random.rand())


class AttentionsDropout(Sound):
    def change(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)


class StateAndRandomness(BufferInPlace):
    def change(self, x: Tensor) -> Tensor:
        return torch.randn_like(x) + super().change(x)


class ScratchBuffer(Sound):
    """A buffer that is written before it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scratch", torch.zeros(1))

    def change(self, x: Tensor) -> Tensor:
        self.scratch.copy_(torch.full((1,), 1.0))
        return x * self.scratch.to(x.dtype)


class MemoisedTables(Sound):
    """What transformers' ESM does: tables of a pure function, made anew for another length."""

    length = 0
    table: Tensor | None = None

    def change(self, x: Tensor) -> Tensor:
        if self.length != x.shape[1] or self.table is None or self.table.dtype != x.dtype:
            self.length = x.shape[1]
            self.table = torch.ones(self.length, 1, dtype=x.dtype)
        return x * self.table


class DropoutInEvaluation(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def change(self, x: Tensor) -> Tensor:
        return self.dropout(x)


class CastsBeforeItChanges(Sound):
    """Changes its own copy in place; in float64 the cast makes none."""

    def change(self, x: Tensor) -> Tensor:
        y = x.half().float()
        return x + y.sub_(y)


class UnusedDraw(Sound):
    """Draws random numbers that no output depends on."""

    def change(self, x: Tensor) -> Tensor:
        return x + 0.0 * torch.rand(1).to(x.dtype)


def _factory(kind: type[Sound]) -> Callable[[], object]:
    def make() -> object:
        axes = {0: "batch", 1: "length"}
        inputs = {"x": torch.zeros(1, 6, 32), "pe": torch.zeros(1, 6, 4, 2, 2)}
        return kind(), inputs, {"x": axes, "pe": axes}

    return make


def __getattr__(name: str) -> Callable[[], object]:
    kinds = {kind.__name__: kind for kind in [Sound, *_descendants(Sound)]}
    return _factory(kinds[name.removeprefix("make_")])


def _descendants(kind: type[Sound]) -> list[type[Sound]]:
    return [found for own in kind.__subclasses__() for found in (own, *_descendants(own))]
