"""A case, run: its tensors in memory, its launches, and all that is wrong with the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from plugin import host_walk
from plugin.ptx.cases import DTYPES, LAYOUTS, Case, Strides
from plugin.ptx.compiled import Build
from plugin.ptx.launches import Launch, run
from plugin.ptx.memory import Array, KernelError, Memory, Use
from seed_functions import seed_apply_rope
from torch import Tensor

_BASE = 1 << 58  # bytes between the arrays, more than any layout spans


@dataclass(frozen=True)
class Finding:
    """What is wrong.

    ``launch``, ``values``, ``written``, ``read``, ``order``, or a ``KernelError`` by name.
    """

    check: str
    text: str


def rotated(case: Case, x: Tensor, first: Tensor, second: Tensor | None) -> Tensor:
    """Return what eager torch makes of q or k: the seed's function where it is of that form."""
    if not (case.form.tables or case.form.halves or case.form.partial):
        return seed_apply_rope(x, x, first)[0]
    if second is None:
        m00, m01, m10, m11 = first.flatten(-2).unbind(-1)
    else:
        m00, m01, m10, m11 = first, -second, second, first
    head, rest = x.split([2 * case.pairs, case.head_size - 2 * case.pairs], dim=-1)
    pairs = head.unflatten(-1, (2, -1) if case.form.halves else (-1, 2)).float()
    axis = -2 if case.form.halves else -1
    x0, x1 = pairs.unbind(axis)
    y = torch.stack([m00 * x0 + m01 * x1, m10 * x0 + m11 * x1], dim=axis)
    return torch.cat([y.flatten(-2).to(x.dtype), rest], dim=-1)


class Trial:
    """The memory of one case, and the parameters that tell the kernel of it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.memory = Memory()
        self._arrays = 0
        self.data, self.first, self.second = case.inputs()
        placed = [self._place_data(name, x) for name, x in zip("qk", self.data, strict=False)]
        self.inputs = [array for array, _, _ in placed]
        self.outputs = [array for _, array, _ in placed]
        tensors = [tensor for _, _, tensor in placed]
        if len(tensors) == 1:
            tensors.append(host_walk.Rotated())
        self.coefficients: list[Array] = []
        pe = self._place_coefficients()
        sizes = (case.batch, case.length, case.head_size, case.rotary_size)
        kind = host_walk.TYPES[DTYPES[case.dtype]]
        self.params = host_walk.Params(kind, *sizes, *tensors, pe)

    def _place(
        self, name: str, x: Tensor, layout: str, use: Use
    ) -> tuple[Array, int, host_walk.Strides]:
        """Place a (B, H, L, row) tensor and return its array, address and strides."""
        size = x.element_size()
        strides = LAYOUTS[layout](*x.shape[1:])
        self._arrays += 1
        address = self._arrays * _BASE + self.case.beside.get(name, 0) * size
        addresses = address + size * _offsets(x, strides)
        rows = x.contiguous().view(torch.uint8).reshape(-1, x.shape[-1] * size).numpy()
        array = self.memory.add(name, addresses.astype(np.uint64), rows, use)
        return array, address, host_walk.Strides(*strides)

    def _place_data(self, name: str, x: Tensor) -> tuple[Array, Array, host_walk.Rotated]:
        case = self.case
        use = Use.READ | Use.WRITE if case.in_place else Use.READ
        array, address, strides = self._place(name, x, case.layout, use)
        out = (array, address, strides)
        if not case.in_place:
            unset, layout = torch.full_like(x, -7.0), case.out_layout or case.layout
            out = self._place(f"{name}'s output", unset, layout, Use.WRITE)
        heads = x.shape[1]
        return array, out[0], host_walk.Rotated(address, out[1], heads, strides, out[2])

    def _place_coefficients(self) -> host_walk.Coefficients:
        given = [x for x in (self.first, self.second) if x is not None]
        addresses: list[int | None] = []
        for x in given:
            rows = x.flatten(3)
            name = "coefficients" if x is self.first else "sines"
            array, address, strides = self._place(name, rows, self.case.pe_layout, Use.READ)
            self.coefficients.append(array)
            addresses.append(address)
        if self.second is None:
            addresses.append(None)
        return host_walk.Coefficients(*addresses, *self.first.shape[:2], strides)

    def launches(self, build: Build) -> list[Launch]:
        return build.recorder.launches(self.params, self.case.form, self.case.tuning)

    def run(self, build: Build, blocks: Iterable[int] | None = None) -> list[Finding]:
        """Run the case and return what is wrong: of the run where it faults, else of its result."""
        launches = self.launches(build)
        errors = [text for one in launches for text in one.errors(build.kernels[one.kernel])]
        if errors:
            return [Finding("launch", text) for text in errors]
        try:
            run(launches, build.kernels, self.memory, blocks)
        except KernelError as e:
            return [Finding(type(e).__name__, str(e))]
        return [] if blocks is not None else [*self.values(), *self.accesses()]

    def values(self) -> Iterator[Finding]:
        """Compare each output bit for bit, any NaN equal to any NaN."""
        for x, array in zip(self.data, self.outputs, strict=True):
            expected = rotated(self.case, x, self.first, self.second)
            wrong = int((~self.equal(array, expected)).sum())
            if wrong:
                yield Finding("values", f"{array.name}: {wrong} of {x.numel()} differ")

    def equal(self, array: Array, expected: Tensor) -> NDArray[np.bool_]:
        """Return, of each element, (rows, row), whether it is the expected one."""
        got = torch.from_numpy(self.memory.rows(array)).view(expected.dtype)
        want = expected.contiguous().view(got.shape)
        integer = {2: torch.int16, 4: torch.int32}[got.element_size()]
        same = got.view(integer) == want.view(integer)
        return (same | (got.isnan() & want.isnan())).numpy()

    def accesses(self) -> Iterator[Finding]:
        """Each output is written once, data read once by who writes it, coefficients read."""
        for array in self.outputs:
            yield from _counted("written", array, self.memory.writes(array), most=1)
        for array in self.inputs:
            yield from _counted("read", array, self.memory.reads(array), most=1)
            if count := self.memory.exchanged(array):
                yield Finding("order", f"{array.name}: {count} read and written by two threads")
        for array in self.coefficients:
            yield from _counted("read", array, self.memory.reads(array), most=None)


def _offsets(x: Tensor, strides: Strides) -> NDArray[np.int64]:
    """Return where each row begins, in elements."""
    index = np.indices(x.shape[:3], dtype=np.int64).reshape(3, -1)
    return np.array(strides, np.int64) @ index


def _counted(
    check: str, array: Array, counts: NDArray[np.uint16], most: int | None
) -> Iterator[Finding]:
    wrong = counts < 1 if most is None else counts != most
    if wrong.any():
        times = sorted({int(count) for count in counts[wrong]})
        text = f"{array.name}: {int(wrong.sum())} of {counts.size} cells {check} {times} times"
        yield Finding(check, text)
