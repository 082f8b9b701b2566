"""The kernel that norms q and k, brings them into (B, H, L, D) and rotates them, beside others.

q and k come as a projection leaves them, (B, L, H, D) in memory.  Whoever has no kernel for all of
it norms with one launch or more for each tensor, and moves or rotates with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.gpu.contenders import (
    OURS,
    Call,
    Groups,
    Outputs,
    Routine,
    by_token,
    copies,
    or_absent,
)
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel, Launch, NormLaunch
from benchmarks.gpu.records import Check, check_of, reason_of
from benchmarks.gpu.shapes import (
    DTYPES,
    Problem,
    Shape,
    beyond_rounding,
    differing,
    make_problem,
    seed_apply_rope,
)
from ropeexport.errors import MissingError

EPSILON = 1e-6
# of FLUX in small: rows that are no whole number of 16 bytes, one token, heads of k that are fewer
_SMALL = (
    Shape("one", 1, 6, 6, 33, 128),
    Shape("odd", 2, 3, 3, 7, 66),
    Shape("grouped", 1, 8, 2, 17, 128),
    Shape("decode", 5, 8, 2, 1, 64, pe_batch=5),
)


@dataclass(frozen=True)
class NormProblem(Problem):
    """q and k (B, H, L, D) that lie as (B, L, H, D), with a scale (D,) or (H, D) for each."""

    q_scale: Tensor
    k_scale: Tensor
    across_heads: bool = False

    rounded_before: ClassVar[int] = 2  # normed, scaled

    def rotated_data(self, name: str, head: int) -> Tensor:
        """Return a head of q or k, normed and scaled in float64."""
        x, scale = getattr(self, name), getattr(self, f"{name}_scale").double()
        heads = range(x.shape[1]) if self.across_heads else (head,)
        squares = [x[:, h].double().square().sum(-1, keepdim=True) for h in heads]
        mean = torch.stack(squares).sum(0) / (len(squares) * x.shape[-1])
        own = scale[head] if self.across_heads else scale
        made: Tensor = x[:, head].double() / (mean + EPSILON).sqrt() * own
        return made


@dataclass(frozen=True)
class NormRoutine(Routine):
    """A way to norm and rotate q and k, held to float64."""

    def wrong(self, problem: Problem, outputs: Outputs) -> str:
        """Say what is wrong with outputs; empty: nothing."""
        return beyond_rounding(problem, outputs, self.pairing)


def make_norm_problem(
    shape: Shape, dtype: str, device: torch.device, seed: int, *, across_heads: bool | None = None
) -> NormProblem:
    """Return normal numbers as a projection leaves them; of a video all heads as one."""
    plain = make_problem(shape, dtype, device, seed)
    together = shape.name == "video" if across_heads is None else across_heads
    generator = torch.Generator(device).manual_seed(seed + 1)

    def scale(heads: int) -> Tensor:
        sizes = (heads, shape.head_size) if together else (shape.head_size,)
        return torch.randn(sizes, generator=generator, device=device, dtype=DTYPES[dtype])

    q, k = (by_token(x).transpose(1, 2) for x in (plain.q, plain.k))
    tables = (plain.cos, plain.sin, plain.pe)
    return NormProblem(q, k, *tables, scale(shape.q_heads), scale(shape.k_heads), together)


def norm_groups(device: CudaDevice, kernel: Kernel) -> Groups:
    """Return what is timed together, in the order in which it is timed."""
    ours = [
        NormRoutine(f"{OURS}{name}", partial(_own_call, device, kernel, tables), pairing, kind)
        for name, tables, pairing, kind in _FORMS
    ]
    apart = [
        NormRoutine(f"norms, then {OURS}", partial(_apart, device, kernel), coefficients="matrices")
    ]
    eager = NormRoutine("eager", partial(_torch_call, norm_and_rotate))
    return {
        "kernel": lambda: [*ours, *apart, *copies(device, kernel), eager],
        "torch.compile": lambda: [_compiled()],
        "Liger": partial(or_absent, "Liger", liger),
    }


_FORMS: tuple[tuple[str, str | None, str, str], ...] = (
    ("", None, "interleaved", "matrices"),
    (", tables", "interleaved", "interleaved", "tables"),
    (", tables, halves", "half", "half", "tables"),
)


def norm_checks(device: CudaDevice, kernel: Kernel) -> Iterator[Check]:
    """Yield a check for each form: near float64, and the same bits when it is repeated."""
    for name, tables, pairing, _ in _FORMS:
        count, failures = 0, list[str]()
        for shape in _SMALL:
            for dtype in DTYPES:
                for together in (False, True):
                    count += 1
                    case = f"{shape.name} {dtype}{', all heads' if together else ''}"
                    try:
                        problem = make_norm_problem(
                            shape, dtype, device.torch, 0, across_heads=together
                        )
                        failures += [
                            f"{case}: {text}"
                            for text in _faults(device, kernel, problem, tables, pairing)
                        ]
                    except Exception as error:  # a launch that failed, or any later call
                        failures.append(f"{case}: {reason_of(error)}")
        yield check_of(f"norm and rope{name or ', matrices'}", count, failures)


def _faults(
    device: CudaDevice, kernel: Kernel, problem: NormProblem, tables: str | None, pairing: str
) -> Iterator[str]:
    first, second = (_own_call(device, kernel, tables, problem).run() for _ in range(2))
    device.synchronize()
    if text := beyond_rounding(problem, first, pairing):
        yield text
    for name, a, b in zip("qk", first, second, strict=True):
        if text := differing(a, b):
            yield f"{name}, repeated: {text}"


def _own_call(device: CudaDevice, kernel: Kernel, tables: str | None, problem: Problem) -> Call:
    """Return a launch of the kernel, with tables of a pairing where one is named."""
    assert isinstance(problem, NormProblem)
    out = _outputs(problem)
    given = (problem.cos, out, problem.sin, tables) if tables else (problem.pe, out)
    scales = (problem.q_scale, problem.k_scale)
    launch = Launch(problem.q, problem.k, *given)
    enqueue = kernel.norm_call(NormLaunch(launch, scales, EPSILON, problem.across_heads))
    return Call(lambda: (enqueue(device.stream()), out)[1], _moved(problem, tables is not None))


def _apart(device: CudaDevice, kernel: Kernel, problem: Problem) -> Call:
    """Return torch's norm of q and of k, then the kernel that rotates, which moves them too."""
    assert isinstance(problem, NormProblem)
    out = _outputs(problem)

    def run() -> Outputs:
        q, k = _normed(problem.q, problem.q_scale), _normed(problem.k, problem.k_scale)
        kernel.call(Launch(q, k, problem.pe, out))(device.stream())
        return out

    return Call(run, _moved(problem, tables=False))


def _outputs(problem: Problem) -> Outputs:
    like = torch.contiguous_format
    return tuple(torch.empty_like(x, memory_format=like) for x in (problem.q, problem.k))  # type: ignore[return-value]  # two


def _normed(x: Tensor, scale: Tensor) -> Tensor:
    """Return torch's norm of q or of k, which lies as that does."""
    tokens = x.transpose(1, 2)
    normed = torch.nn.functional.rms_norm(tokens, scale.shape, scale, EPSILON)
    return normed.transpose(1, 2)


def norm_and_rotate(q: Tensor, k: Tensor, pe: Tensor, q_scale: Tensor, k_scale: Tensor) -> Outputs:
    """Return what eager torch makes: a norm of each, then FLUX's rotation."""
    rotated = seed_apply_rope(_normed(q, q_scale), _normed(k, k_scale), pe)
    return rotated[0].contiguous(), rotated[1].contiguous()


def _compiled() -> Routine:
    torch.compiler.reset()
    fused = torch.compile(norm_and_rotate, fullgraph=True, dynamic=False)
    return NormRoutine("torch.compile", partial(_torch_call, fused))


def liger() -> list[Routine]:
    """Return Liger's two kernels, a norm of each and a rotation of both by halves."""
    try:
        norm = import_module("liger_kernel.ops.rms_norm").LigerRMSNormFunction
        rotate = import_module("liger_kernel.ops.rope").LigerRopeFunction
    except (ImportError, OSError) as error:
        raise MissingError(f"liger-kernel cannot be imported ({error})") from error

    def prepare(problem: Problem) -> Call:
        assert isinstance(problem, NormProblem)
        if problem.across_heads:
            raise MissingError("Liger's rotation takes heads, its norm all of them: not tried")
        tables = [
            torch.cat([x, x], dim=-1)[:, 0].to(problem.q.dtype) for x in (problem.cos, problem.sin)
        ]

        def run() -> Outputs:
            q, k = (
                norm.apply(x.transpose(1, 2), scale, EPSILON, 0.0, "llama", False).transpose(1, 2)
                for x, scale in ((problem.q, problem.q_scale), (problem.k, problem.k_scale))
            )
            made: Outputs = rotate.apply(q, k, *tables)
            return made

        return Call(run, _moved(problem, tables=True))

    return [NormRoutine("Liger", prepare, "half", "tables")]


def _torch_call(run: Callable[..., Outputs], problem: Problem) -> Call:
    assert isinstance(problem, NormProblem)
    given = (problem.q, problem.k, problem.pe, problem.q_scale, problem.k_scale)
    return Call(lambda: run(*given), _moved(problem, tables=False))


def _moved(problem: NormProblem, tables: bool) -> int:
    scales = problem.q_scale.nbytes + problem.k_scale.nbytes
    given = problem.cos.nbytes + problem.sin.nbytes if tables else problem.pe.nbytes
    return problem.data_bytes + scales + given
