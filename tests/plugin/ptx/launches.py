"""The launches that the product's own dispatch makes of its parameters, recorded on the host."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import CFUNCTYPE, POINTER, byref, c_bool, c_char_p, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plugin.host_walk import Params, Tuning
from plugin.ptx.interpreter import Kernel
from plugin.ptx.memory import Memory

_Record = CFUNCTYPE(None, c_char_p, c_void_p, c_int64, c_int64, c_int64)
_NAMESPACE = "N10ropeexport"


@dataclass(frozen=True)
class Form:
    """The form of the rotary op, as the plugin's ``form.h`` has it."""

    tables: bool
    halves: bool
    partial: bool


@dataclass(frozen=True)
class Launch:
    """One launch: which variant, with which argument, in how many blocks of how many threads."""

    variant: str  # as symbols have it
    argument: bytes
    blocks: int
    block_threads: int

    def symbol(self, names: Iterable[str]) -> str:
        """Return the one of the kernels' names that is this variant's."""
        found = [name for name in names if self.variant in name]
        assert len(found) == 1, f"{self.variant}: {len(found)} kernels"
        return found[0]


class Recorder:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._record = library.ropeexport_record_launches
        flags = (c_bool, c_bool, c_bool)
        self._record.argtypes = [POINTER(Params), POINTER(Tuning), *flags, _Record]

    def launches(
        self, params: Params, form: Form, tuning: tuple[int, int, int] | None = None
    ) -> list[Launch]:
        """Return what the dispatch launches; without ``tuning`` it is the product's own cut."""
        recorded: list[Launch] = []

        def record(name: bytes, work: int, size: int, blocks: int, threads: int) -> None:
            # the name of a type outside of a symbol is a nested name: N … E
            variant = name.decode().removeprefix(_NAMESPACE).removesuffix("E")
            recorded.append(Launch(variant, ctypes.string_at(work, size), blocks, threads))

        chosen = None if tuning is None else byref(Tuning(*tuning))
        flags = (form.tables, form.halves, form.partial)
        status = self._record(byref(params), chosen, *flags, _Record(record))
        assert status == 0, f"cudaError_t {status}"
        return recorded


def run(
    launches: Iterable[Launch],
    kernels: dict[str, Kernel],
    memory: Memory,
    blocks: Iterable[int] | None = None,
) -> None:
    """Run launches one after the other, all of their blocks or those that are named."""
    number = 1
    for launch in launches:
        kernel = kernels[launch.symbol(kernels)]
        assert kernel.entry.parameter_bytes == len(launch.argument), "another Work on the host"
        which = np.array(range(launch.blocks) if blocks is None else list(blocks), np.uint32)
        number = kernel.run(launch.argument, which, launch.block_threads, memory, number)
