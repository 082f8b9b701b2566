"""What is timed: the kernel in its forms, copies, eager torch, torch.compile, others' kernels.

Liger rotates q and k in place, halves; flash-attention's Triton kernel one tensor a launch; both
want (B, L, H, D) in memory and tables in the type of the data.  Their calls follow
``liger_kernel.ops.rope`` and ``flash_attn.ops.triton.rotary``.  FlashInfer's kernel is compiled
from the headers of a FlashInfer that the user names: v0.6.8 compiles with CUDA 13.0, later ones
need a CCCL of their own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int32, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.compiler import Compiler, find_compiler
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel, Launch, Tuning
from benchmarks.gpu.shapes import Problem, beyond_rounding, differing, module_from, seed_apply_rope
from ropeexport.errors import MissingError, PluginError, UsageError

OURS = "ours"  # the names of all forms of the kernel begin so
COPY = "copy"  # and those of all copies

Outputs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Call:
    """One call over one set of inputs, with what it must move at least."""

    run: Callable[[], Outputs]
    moved_bytes: int
    checked_again: bool = True  # after timing; not where it overwrites its inputs


@dataclass(frozen=True)
class Routine:
    """A way to rotate q and k.

    ``prepare`` makes a call for a set of inputs, in the layout that suits the contender; ``exact``
    says that its outputs must equal eager torch's bit for bit.
    """

    name: str
    prepare: Callable[[Problem], Call]
    pairing: str = "interleaved"
    coefficients: str = "matrices"  # or tables; only contenders of the same move the same bytes
    exact: bool = False
    captured: bool = True  # timed from a CUDA graph, without the cost of launching

    @property
    def kind(self) -> tuple[str, str]:
        """Its pairs and coefficients: like is compared with like."""
        return self.pairing, self.coefficients

    @property
    def is_ours(self) -> bool:
        """Whether it is a form of the kernel."""
        return self.name.startswith(OURS)

    def wrong(self, problem: Problem, outputs: Outputs) -> str:
        """Say what is wrong with outputs; empty: nothing."""
        if self.name.startswith(COPY):
            return "" if torch.equal(*outputs) else "the copy differs"
        if not self.exact:
            return beyond_rounding(problem, outputs, self.pairing)
        expected = seed_apply_rope(problem.q, problem.k, problem.pe)
        named = zip("qk", expected, outputs, strict=True)
        return "; ".join(f"{name}: {text}" for name, a, b in named if (text := differing(a, b)))


Groups = dict[str, Callable[[], list[Routine]]]


def own_forms(device: CudaDevice, kernel: Kernel) -> list[Routine]:
    """Return the kernel in each of its forms: matrices, tables, tables of pairs of halves."""
    prepare = partial(kernel_call, device, kernel)
    neighbours, halves = (partial(prepare, tables=pairing) for pairing in ("interleaved", "half"))
    return [
        Routine(OURS, prepare, exact=True),
        Routine(f"{OURS}, tables", neighbours, coefficients="tables"),
        Routine(f"{OURS}, tables, halves", halves, "half", "tables"),
    ]


def kernel_call(
    device: CudaDevice,
    kernel: Kernel,
    problem: Problem,
    tables: str | None = None,
    tuning: Tuning | None = None,
) -> Call:
    """Return a launch of the kernel, with tables of a pairing where one is named."""
    out = (torch.empty_like(problem.q), torch.empty_like(problem.k))
    given = (problem.cos, out, problem.sin, tables) if tables else (problem.pe, out)
    enqueue = kernel.call(Launch(problem.q, problem.k, *given), tuning)
    moved = _tables_bytes(problem) if tables else _matrices_bytes(problem)
    return Call(lambda: (enqueue(device.stream()), out)[1], moved)


def routine_groups(
    device: CudaDevice,
    kernel: Kernel,
    compiler: Compiler,
    flash_attention_file: Path | None = None,
    flashinfer_folder: Path | None = None,
) -> Groups:
    """Return what is timed together, in the order in which it is timed.

    The kernel, copies and eager come first; then torch.compile and each rival by itself: what may
    read beyond its arrays (FlashInfer) comes late, what takes longest to compile last.
    """
    eager = Routine("eager", partial(_torch_call, seed_apply_rope), exact=True)
    others: Groups = {
        "Liger": liger,
        "flash-attention": lambda: flash_attention(flash_attention_file),
        "FlashInfer": cache(lambda: flashinfer(device, compiler, flashinfer_folder)),
    }
    return {
        "kernel": lambda: [*own_forms(device, kernel), *copies(device, kernel), eager],
        "torch.compile": lambda: [compiled()],
        **{name: partial(or_absent, name, make) for name, make in others.items()},
        "max-autotune": lambda: [compiled("max-autotune-no-cudagraphs")],
    }


def compiled(mode: str | None = None) -> Routine:
    """Return torch.compile of the seed's function, in a mode of its own if one is named.

    ``fullgraph`` makes a graph break or too many recompilations an error, never a quiet eager run.
    """
    torch.compiler.reset()  # else the shapes before this one count against its recompilations
    rotate = torch.compile(seed_apply_rope, fullgraph=True, dynamic=False, mode=mode)
    name = "torch.compile" if mode is None else "torch.compile, max-autotune"
    return Routine(name, partial(_torch_call, rotate))


def copies(device: CudaDevice | None = None, kernel: Kernel | None = None) -> list[Routine]:
    """Return four ways to read and write as many bytes as the op; the fastest is the yardstick.

    The driver's own copy was reported slower in a CUDA graph for some sizes (pytorch#191284), and
    slower than a plain kernel on some GPUs (NVIDIA/cuda-samples#366): hence one without a graph,
    and two by kernels: torch's elementwise one, whose threads have several accesses, and one whose
    threads have a single access.  Without ``device`` and ``kernel`` they are this machine's.
    """
    if kernel is None:
        major, minor = torch.cuda.get_device_capability()
        kernel = Kernel(find_compiler(f"{major}{minor}").kernel())
    device, own = device or CudaDevice(), kernel
    ways: dict[str, Callable[[Tensor, Tensor], object]] = {
        COPY: Tensor.copy_,
        f"{COPY}, launched": Tensor.copy_,
        f"{COPY}, elementwise": lambda to, seen: torch.bitwise_or(seen, 0, out=to),
        f"{COPY}, an access a thread": lambda to, seen: own.copy(to, seen, device.stream()),
    }

    def prepare(move: Callable[[Tensor, Tensor], object], problem: Problem) -> Call:
        words = _matrices_bytes(problem) // 2 // 16 * 4
        bits = {"dtype": torch.int32, "device": problem.q.device}
        seen = torch.randint(-(2**31), 2**31 - 1, (words,), **bits)
        moved = torch.empty_like(seen)
        run = lambda: (move(moved, seen), (seen, moved))[1]  # noqa: E731
        return Call(run, 2 * seen.nbytes, checked_again=False)

    return [
        Routine(name, partial(prepare, move), captured=not name.endswith("launched"))
        for name, move in ways.items()
    ]


def liger() -> list[Routine]:
    """Return Liger's kernel; :class:`MissingError` where it cannot be imported."""
    try:
        function = import_module("liger_kernel.ops.rope").LigerRopeFunction
    except (ImportError, OSError) as error:
        raise MissingError(f"liger-kernel cannot be imported ({error})") from error

    def prepare(problem: Problem) -> Call:
        q, k = (by_token(x).transpose(1, 2) for x in (problem.q, problem.k))
        # as transformers makes them: each half twice, of which the kernel reads one
        tables = [torch.cat([x, x], dim=-1)[:, 0].to(q.dtype) for x in (problem.cos, problem.sin)]
        moved = problem.data_bytes + sum(table.nbytes // 2 for table in tables)
        return Call(lambda: function.apply(q, k, *tables), moved, checked_again=False)

    return [Routine("Liger", prepare, "half", "tables")]


def flash_attention(path: Path | None) -> list[Routine]:
    """Return flash-attention's Triton rotary, both pairings, from a file or the package."""
    try:
        module = module_from(path) if path else import_module("flash_attn.ops.triton.rotary")
    except (ImportError, OSError) as error:
        cure = "name its ops/triton/rotary.py with --flash-attention FILE"
        raise MissingError(f"flash_attn cannot be imported ({error}); {cure}") from error

    def prepare(pairing: str, problem: Problem) -> Call:
        q, k = (by_token(x) for x in (problem.q, problem.k))
        tables = [x.flatten(0, 2).to(q.dtype) for x in (problem.cos, problem.sin)]
        batches, _, length, _ = problem.cos.shape
        starts = torch.arange(batches, device=q.device, dtype=torch.int32) * length
        offsets = starts if batches > 1 else 0
        options = {"interleaved": pairing == "interleaved", "seqlen_offsets": offsets}

        def run() -> Outputs:
            q_out, k_out = (module.apply_rotary(x, *tables, **options) for x in (q, k))
            return q_out.transpose(1, 2), k_out.transpose(1, 2)

        return Call(run, problem.data_bytes + sum(table.nbytes for table in tables))

    return _both_pairings("flash-attention", prepare)


def find_flashinfer(named: Path | None) -> Path:
    """Return the folder that holds ``include/flashinfer``: named, or the installed package's."""
    spec = None if named else find_spec("flashinfer")  # without importing it
    installed = (spec and spec.submodule_search_locations) or ()
    for place in [named] if named else [Path(place) / "data" for place in installed]:
        if (place / "include" / "flashinfer" / "pos_enc.cuh").is_file():
            return place.absolute()
    raise MissingError(f"no headers of FlashInfer in {named or 'a package'}: --flashinfer DIR")


def flashinfer(device: CudaDevice, compiler: Compiler, named: Path | None) -> list[Routine]:
    """Return FlashInfer's kernel, both pairings, compiled from its headers."""
    library = ctypes.CDLL(str(compiler.flashinfer(find_flashinfer(named))))
    rotate = library.ropeexport_flashinfer
    rotate.argtypes = [c_int32, *[c_void_p] * 6, *[c_uint32] * 4, c_int32, c_void_p]
    return _both_pairings("FlashInfer", partial(flashinfer_call, device, rotate))


def flashinfer_call(
    device: CudaDevice, rotate: Callable[..., int], pairing: str, problem: Problem
) -> Call:
    """Return a call of FlashInfer's kernel over tokens (B * L, H, D)."""
    types = {torch.float16: 0, torch.bfloat16: 1}
    batch, _, length, head_size = problem.q.shape
    if problem.q.dtype not in types or head_size not in (64, 128, 256, 512):
        given = f"{problem.q.dtype} with heads of {head_size}"
        raise UsageError(f"FlashInfer takes float16, bfloat16 and heads of 64 to 512, not {given}")
    inputs = tuple(by_token(x) for x in (problem.q, problem.k))
    outputs = tuple(torch.empty_like(x) for x in inputs)
    rows = torch.cat([problem.cos, problem.sin], dim=-1).flatten(0, 2)
    # one row more: for pairs of neighbours the kernel loads twice what it uses of the last row
    table = torch.cat([rows, torch.zeros_like(rows[:1])])
    tokens = torch.arange(batch * length, device=table.device, dtype=torch.int32)
    positions = tokens % (problem.cos.shape[0] * length)  # the row of each token
    arrays = (*inputs, *outputs, table, positions)
    sizes = (batch * length, *(x.shape[2] for x in inputs), head_size, pairing == "interleaved")

    def run() -> Outputs:
        pointers = [x.data_ptr() for x in arrays]
        if status := rotate(types[problem.q.dtype], *pointers, *sizes, device.stream()):
            raise RuntimeError(f"FlashInfer: status {status}")
        return outputs[0].transpose(1, 2), outputs[1].transpose(1, 2)

    return Call(run, _tables_bytes(problem) + positions.nbytes)


def by_token(x: Tensor) -> Tensor:
    """Return a copy of x (B, H, L, D) that lies as (B, L, H, D) in memory.

    Never ``contiguous()``: where L is 1 it returns x itself, which a rival would overwrite, with
    strides of that axis that a rival takes for those of a row.
    """
    moved = x.transpose(1, 2)
    return torch.empty(moved.shape, dtype=x.dtype, device=x.device).copy_(moved)


def or_absent(name: str, make: Callable[[], list[Routine]]) -> list[Routine]:
    """Return others' kernels; one not at hand stays in the table with its reason."""
    try:
        return make()
    except (MissingError, PluginError) as error:
        # of no kind: no form of the kernel is timed beside it
        return [Routine(name, partial(_absent, str(error)), "", "")]


def _absent(reason: str, _: Problem) -> Call:
    raise MissingError(reason)


def _both_pairings(name: str, prepare: Callable[[str, Problem], Call]) -> list[Routine]:
    names = {"interleaved": name, "half": f"{name}, halves"}
    return [Routine(names[p], partial(prepare, p), p, "tables") for p in names]


def _torch_call(rotate: Any, problem: Problem) -> Call:
    return Call(lambda: rotate(problem.q, problem.k, problem.pe), _matrices_bytes(problem))


def _matrices_bytes(problem: Problem) -> int:
    return problem.data_bytes + problem.pe.nbytes


def _tables_bytes(problem: Problem) -> int:
    return problem.data_bytes + problem.cos.nbytes + problem.sin.nbytes
