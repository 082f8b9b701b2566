"""A call of the norm and the rotation, run by the interpreter and compared with the host's walk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from plugin.host_norm import Call, HostNorm
from plugin.host_walk import DEFAULT_TUNING
from plugin.norm_calls import again
from plugin.ptx.compiled import Build
from plugin.ptx.launches import Form, Launch, run
from plugin.ptx.memory import Array, KernelError, Memory, Use
from plugin.ptx.trial import Finding


@dataclass
class NormTrial:
    """The memory of one call, at its arrays' own addresses."""

    call: Call
    tuning: tuple[int, int, int] = DEFAULT_TUNING

    def __post_init__(self) -> None:
        self.memory = Memory()
        in_place = self.call.out[0] is self.call.data[0]
        both = Use.READ | Use.WRITE if in_place else Use.READ
        self.inputs = [self._place(f"data {i}", x, both) for i, x in enumerate(self.call.data)]
        self.outputs = self.inputs
        if not in_place:
            outputs = enumerate(self.call.out)
            self.outputs = [self._place(f"output {i}", x, Use.WRITE) for i, x in outputs]
        tables = [x.reshape(*x.shape[: -3 if x.ndim == 6 else -1], -1) for x in self.call.tables]
        shared = [*tables, *self.call.scales]
        self.shared = [self._place(f"shared {i}", x, Use.READ) for i, x in enumerate(shared)]

    def _place(self, name: str, x: NDArray, use: Use) -> Array:
        """Place the rows of an array where they are."""
        x = np.atleast_2d(x)
        index = np.indices(x.shape[:-1], dtype=np.int64).reshape(x.ndim - 1, -1)
        offsets = np.array(x.strides[:-1], np.int64) @ index
        addresses = (x.ctypes.data + offsets).astype(np.uint64)
        rows = np.ascontiguousarray(x).reshape(len(addresses), -1)
        return self.memory.add(name, addresses, rows.view(np.uint8), use)

    @property
    def form(self) -> Form:
        op = self.call.op
        return Form(len(self.call.tables) == 2, op.halves, op.rotary_size > 0)

    def launches(self, build: Build) -> list[Launch]:
        return build.recorder.norm_launches(self.call.params(), self.form, self.tuning)

    def run(self, build: Build, norm: HostNorm) -> list[Finding]:
        """Return what is wrong: of the run where it faults, else of its result."""
        launches = self.launches(build)
        errors = [text for one in launches for text in one.errors(build.kernels[one.kernel])]
        if errors:
            return [Finding("launch", text) for text in errors]
        try:
            run(launches, build.kernels, self.memory)
        except KernelError as e:
            return [Finding(type(e).__name__, str(e))]
        return [*self._values(norm), *self._accesses(launches)]

    def _values(self, norm: HostNorm) -> Iterator[Finding]:
        """Compare with the host's walk, any NaN equal to any NaN."""
        expected = again(replace(self.call))
        norm(expected, self.tuning)
        for array, want in zip(self.outputs, expected.out, strict=True):
            got = self.memory.rows(array).view(want.dtype).reshape(want.shape)
            kind = f"u{want.itemsize}"
            same = (got.view(kind) == want.view(kind)) | (np.isnan(got) & np.isnan(want))
            if not same.all():
                yield Finding("values", f"{array.name}: {int((~same).sum())} of {same.size} differ")

    def _accesses(self, launches: list[Launch]) -> Iterator[Finding]:
        """Each output is written once; data is read once, or twice where a block has many units."""
        for array in self.outputs:
            if (self.memory.writes(array) != 1).any():
                yield Finding("written", array.name)
        most = 2 if any("norm_rope_spans" in launch.kernel for launch in launches) else 1
        for array in self.inputs:
            reads = self.memory.reads(array)
            if (reads < 1).any() or (reads > most).any():
                yield Finding("read", f"{array.name}: {np.unique(reads)} times")
            if count := self.memory.exchanged(array):
                yield Finding("order", f"{array.name}: {count} read and written by two threads")
        for array in self.shared:
            if (self.memory.reads(array) < 1).any():
                yield Finding("read", f"{array.name}: not all of it")
