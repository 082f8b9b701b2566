"""The launches that the plugin's own host code makes of its parameters, recorded."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int64, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plugin.host_norm import NormParams
from plugin.host_walk import Params, Tuning
from plugin.ptx.interpreter import Kernel
from plugin.ptx.memory import Memory

from ropeexport.ops import forms

STREAM = 0x5AFE  # no address of anything

Three = tuple[int, int, int]


@dataclass(frozen=True)
class Form:
    """The form of the rotary op, as the plugin's ``form.h`` has it."""

    tables: bool
    halves: bool
    partial: bool

    def op_type(self, tensors: int) -> str:
        """Return the name by which the plugin has it, of q and k or of one tensor."""
        tables = "cos_sin" if self.tables else "matrices"
        pairing = "half" if self.halves else "interleaved"
        return forms.Form(tables, pairing, tensors, self.partial).op_type


class _Launch(Structure):
    """``Launch`` of ``ptx_work.cpp``."""

    _fields_ = (
        ("kernel", c_char_p),
        ("argument", c_void_p),
        ("argument_bytes", c_int64),
        ("grid", c_uint32 * 3),
        ("block", c_uint32 * 3),
        ("shared_bytes", c_int64),
        ("stream", c_void_p),
    )


_Record = CFUNCTYPE(None, POINTER(_Launch))


@dataclass(frozen=True)
class Launch:
    """One launch, as CUDA is asked for it; the kernel by its symbol."""

    kernel: str
    argument: bytes
    grid: Three
    block: Three
    shared_bytes: int
    stream: int | None

    @property
    def blocks(self) -> int:
        return self.grid[0]

    @property
    def block_threads(self) -> int:
        return self.block[0]

    def errors(self, kernel: Kernel) -> Iterator[str]:
        """Yield what CUDA would refuse of it, or would do that no kernel here asks for."""
        if self.grid[1:] != (1, 1) or self.block[1:] != (1, 1):
            yield f"a grid of {self.grid} blocks of {self.block} threads, expected one axis"
        if not 0 < self.grid[0] < 1 << 31:
            yield f"{self.grid[0]} blocks"
        if not 0 < self.block[0] <= kernel.entry.most_threads:
            yield f"{self.block[0]} threads a block of at most {kernel.entry.most_threads}"
        if self.shared_bytes != 0:
            yield f"{self.shared_bytes} bytes of shared memory"
        if self.stream != STREAM:
            yield f"stream {self.stream}"
        if len(self.argument) != kernel.entry.parameter_bytes:
            yield f"an argument of {len(self.argument)} bytes"


class Recorder:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._record = library.ropeexport_record_launches
        self._record.argtypes = [c_char_p, POINTER(Params), POINTER(Tuning), c_void_p, _Record]
        self._record_norm = library.ropeexport_record_norm_launches
        self._record_norm.argtypes = [c_char_p, POINTER(NormParams), *self._record.argtypes[2:]]

    def launches(self, params: Params, form: Form, tuning: Three | None = None) -> list[Launch]:
        """Return what is launched; without ``tuning`` it is the product's own cut."""
        name = form.op_type(2 if params.k.heads else 1)
        return _recorded(self._record, name, params, tuning)

    def norm_launches(
        self, params: NormParams, form: Form, tuning: Three | None = None
    ) -> list[Launch]:
        """Return what is launched of the form that norms first."""
        name = form.op_type(2 if params.rope.k.heads else 1).replace("ApplyRope", "NormRope")
        return _recorded(self._record_norm, name, params, tuning)


def _recorded(
    call: Callable[..., int], name: str, params: Structure, tuning: Three | None
) -> list[Launch]:
    recorded: list[Launch] = []

    def record(launch) -> None:
        recorded.append(_launch(launch.contents))

    chosen = None if tuning is None else byref(Tuning(*tuning))
    status = call(name.encode(), byref(params), chosen, STREAM, _Record(record))
    assert status == 0, f"{name}: cudaError_t {status}"
    return recorded


def _launch(x: _Launch) -> Launch:
    argument = ctypes.string_at(x.argument, x.argument_bytes)
    return Launch(
        x.kernel.decode(), argument, tuple(x.grid), tuple(x.block), x.shared_bytes, x.stream
    )


def run(
    launches: Iterable[Launch],
    kernels: dict[str, Kernel],
    memory: Memory,
    blocks: Iterable[int] | None = None,
) -> None:
    """Run launches one after the other, all of their blocks or those that are named."""
    number = 1
    for launch in launches:
        which = np.array(range(launch.blocks) if blocks is None else list(blocks), np.uint32)
        kernel = kernels[launch.kernel]
        number = kernel.run(launch.argument, which, launch.block_threads, memory, number)
