"""What is timed: the kernel in its forms, eager torch, torch.compile, a copy of as many bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.gpu.compiler import find_compiler
from benchmarks.gpu.correct import Outputs, equals_eager, is_rotation
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel, Launch
from benchmarks.gpu.seed import seed_apply_rope
from benchmarks.gpu.shapes import Problem

OURS = "ours"
COPY = "copy"  # the names of all copies begin so
EAGER = "eager"


@dataclass(frozen=True)
class Call:
    """One call over one set of inputs, with what it must move at least."""

    run: Callable[[], Outputs]
    moved_bytes: int
    checked_again: bool = True  # after timing; not where it overwrites its inputs


@dataclass(frozen=True)
class Contender:
    """A way to rotate q and k.

    ``prepare`` makes a call for a set of inputs, in the layout that suits the contender; ``wrong``
    says in words what is wrong with outputs.
    """

    name: str
    prepare: Callable[[Problem], Call]
    wrong: Callable[[Problem, Outputs], str]
    pairing: str = "interleaved"
    coefficients: str = "matrices"  # or tables; only contenders of the same move the same bytes
    captured: bool = True  # timed from a CUDA graph, without the cost of launching
    is_ours: bool = False

    @property
    def is_rival(self) -> bool:
        """Whether it is one that the kernel is to be no slower than."""
        return not self.is_ours and not self.name.startswith(COPY)


def kernel_contenders(device: CudaDevice, kernel: Kernel) -> list[Contender]:
    """Return what needs no other package and compiles nothing: the kernel, copies, eager."""
    matrices, *tables = own_forms(device, kernel)
    eager = Contender(EAGER, _eager_call, equals_eager)
    return [matrices, *copies(device, kernel), *tables, eager]


def own_forms(device: CudaDevice, kernel: Kernel) -> list[Contender]:
    """Return the kernel in each of its forms: matrices, tables, tables of pairs of halves."""
    half = partial(is_rotation, pairing="half")
    neighbours = partial(is_rotation, pairing="interleaved")
    call = partial(_kernel_call, device, kernel)
    return [
        Contender(OURS, call, equals_eager, is_ours=True),
        Contender(
            "ours, tables",
            partial(call, tables="interleaved"),
            neighbours,
            coefficients="tables",
            is_ours=True,
        ),
        Contender(
            "ours, tables, halves",
            partial(call, tables="half"),
            half,
            "half",
            "tables",
            is_ours=True,
        ),
    ]


def compiled(*, autotuned: bool = False) -> Contender:
    """Return torch.compile of the seed's function, with its own autotuning if that is asked for."""
    torch.compiler.reset()  # else the shapes before this one count against its recompilations
    name, mode = "torch.compile", None
    if autotuned:
        name, mode = f"{name}, max-autotune", "max-autotune-no-cudagraphs"
    return Contender(name, Compiled(mode), partial(is_rotation, pairing="interleaved"))


def beside(contenders: Sequence[Contender], own: Sequence[Contender]) -> list[Contender]:
    """Return contenders behind those forms of the kernel that they are compared with."""
    kinds = {(c.pairing, c.coefficients) for c in contenders}
    return [*(c for c in own if (c.pairing, c.coefficients) in kinds), *contenders]


def copies(device: CudaDevice | None = None, kernel: Kernel | None = None) -> list[Contender]:
    """Return four ways to read and write as many bytes as the op; the fastest is the yardstick.

    The driver's own copy was reported slower in a CUDA graph for some sizes (pytorch#191284), and
    slower than a plain kernel on some GPUs (NVIDIA/cuda-samples#366): hence one without a graph,
    and two by kernels: torch's elementwise one, whose threads have several accesses, and one whose
    threads have a single access.  Without ``device`` and ``kernel`` they are this machine's.
    """
    return [
        Contender(COPY, partial(_copy_call, Tensor.copy_), _copy_is_wrong),
        Contender(
            "copy, launched", partial(_copy_call, Tensor.copy_), _copy_is_wrong, captured=False
        ),
        Contender("copy, elementwise", partial(_copy_call, _invert), _inverse_is_wrong),
        Contender(
            "copy, an access a thread", partial(_single_access_call, device, kernel), _copy_is_wrong
        ),
    ]


def matrices_bytes(problem: Problem) -> int:
    """Return what the op with matrices must move at least."""
    return problem.data_bytes + problem.pe.nbytes


def _kernel_call(
    device: CudaDevice, kernel: Kernel, problem: Problem, tables: str | None = None
) -> Call:
    out = (torch.empty_like(problem.q), torch.empty_like(problem.k))
    moved = matrices_bytes(problem)
    if tables is None:
        launch = Launch(problem.q, problem.k, problem.pe, out)
    else:
        moved = problem.data_bytes + problem.cos.nbytes + problem.sin.nbytes
        launch = Launch(problem.q, problem.k, problem.cos, out, problem.sin, tables)
    enqueue = kernel.call(launch)

    def run() -> Outputs:
        enqueue(device.stream())
        return out

    return Call(run, moved)


def _eager_call(problem: Problem) -> Call:
    rotate = seed_apply_rope()
    return Call(lambda: rotate(problem.q, problem.k, problem.pe), matrices_bytes(problem))


class Compiled:
    """torch.compile of the seed's function for one shape and type.

    ``fullgraph`` makes a graph break or too many recompilations an error, never a quiet eager run.
    """

    def __init__(self, mode: str | None) -> None:
        self._rotate = torch.compile(seed_apply_rope(), fullgraph=True, dynamic=False, mode=mode)

    def __call__(self, problem: Problem) -> Call:
        """Return the call for a set of inputs."""
        rotate = self._rotate
        return Call(lambda: rotate(problem.q, problem.k, problem.pe), matrices_bytes(problem))


def _copy_call(move: Callable[[Tensor, Tensor], object], problem: Problem) -> Call:
    """Return a move of as many bytes, read and written together, as the op with matrices."""
    words = matrices_bytes(problem) // 2 // 16 * 4
    seen = torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32, device=problem.q.device)
    moved = torch.empty_like(seen)

    def run() -> Outputs:
        move(moved, seen)
        return seen, moved

    return Call(run, 2 * seen.nbytes, checked_again=False)


def _single_access_call(device: CudaDevice | None, kernel: Kernel | None, problem: Problem) -> Call:
    device, kernel = device or CudaDevice(), kernel or _kernel_of_this_machine()

    def move(moved: Tensor, seen: Tensor) -> None:
        kernel.copy(moved, seen, device.stream())

    return _copy_call(move, problem)


@cache
def _kernel_of_this_machine() -> Kernel:
    architecture = "".join(map(str, torch.cuda.get_device_capability()))
    return Kernel(find_compiler(architecture).kernel())


def _invert(to: Tensor, seen: Tensor) -> None:
    torch.bitwise_not(seen, out=to)


def _copy_is_wrong(_: Problem, outputs: Outputs) -> str:
    return "" if torch.equal(*outputs) else "the copy differs"


def _inverse_is_wrong(_: Problem, outputs: Outputs) -> str:
    return "" if torch.equal(~outputs[0], outputs[1]) else "the inverse differs"
