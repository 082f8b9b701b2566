"""The part of a run that times: every shape and type asked for, every contender at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from benchmarks.gpu.bench import measure
from benchmarks.gpu.compiler import CompileError
from benchmarks.gpu.contenders import Contender, compiler_contenders, kernel_contenders
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.flashinfer import NAME as FLASHINFER
from benchmarks.gpu.flashinfer import flashinfer
from benchmarks.gpu.kernel import Kernel
from benchmarks.gpu.result import bench_key
from benchmarks.gpu.rivals import FLASH_ATTENTION, LIGER, flash_attention, liger
from benchmarks.gpu.session import Session
from benchmarks.gpu.shapes import SHAPES, Shape
from benchmarks.gpu.standings import ERROR, TIMED, WRONG
from benchmarks.gpu.targets import targets
from benchmarks.gpu.timing import QUICK, Plan
from benchmarks.gpu.verdict import FAIL, PASS, SKIPPED, Check, Skipped, part_of

Group = Callable[[], list[Contender]]


def bench(session: Session) -> Check:
    """Time the contenders on each shape and type, in two groups.

    What compiles nothing comes first, for all of them: a run that is cut short then lacks
    torch.compile alone, which takes longer to compile than all else to be timed.
    """
    device, kernel = session.device(), session.kernel()
    rivals = _rivals(session, device)
    groups: dict[str, Group] = {
        "kernels": lambda: [*kernel_contenders(device, kernel), *rivals],
        "compilers": lambda: _compilers(device, kernel, session),
    }
    cases = [
        (group, shape, dtype)
        for group in groups
        for shape in SHAPES
        if shape.name in session.options.shapes
        for dtype in session.options.dtypes
    ]
    checks = [_timed(session, device, case, groups[case[0]]) for case in cases]
    return part_of("bench", checks)


def _timed(
    session: Session, device: CudaDevice, case: tuple[str, Shape, str], group: Group
) -> Check:
    group_name, shape, dtype = case
    name = f"{shape.name} {dtype}, {group_name}"
    plan = QUICK if session.options.quick else Plan()
    try:
        entry = measure(device, shape, dtype, group(), plan, session.say) | {"group": group_name}
    except Skipped as reason:
        return Check(name, SKIPPED, str(reason))
    finally:
        device.release()
    session.join("bench", [entry], bench_key)
    session.update(targets=targets(session.document["bench"]))
    return _bench_check(name, entry["contenders"])


def _compilers(device: CudaDevice, kernel: Kernel, session: Session) -> list[Contender]:
    torch.compiler.reset()  # else the shapes before this one count against its recompilations
    return compiler_contenders(device, kernel, thorough=not session.options.quick)


def _rivals(session: Session, device: CudaDevice) -> list[Contender]:
    """Return other people's kernels; one not at hand stands in the table with its reason."""
    options = session.options
    makers: dict[str, Callable[[], list[Contender]]] = {
        LIGER: lambda: [liger()],
        FLASH_ATTENTION: lambda: flash_attention(options.flash_attention),
        FLASHINFER: lambda: flashinfer(device, session.compiler(), options.flashinfer),
    }
    found: list[Contender] = []
    for name, make in makers.items():
        try:
            found += make()
        except (Skipped, CompileError) as reason:
            session.say(f"bench: {name}: SKIPPED: {reason}")
            found.append(_absent(name, str(reason)))
    return found


def _absent(name: str, reason: str) -> Contender:
    def prepare(_: object) -> NoReturn:
        raise Skipped(reason)

    return Contender(name, prepare, lambda *_: "")


def _bench_check(name: str, contenders: Sequence[dict[str, Any]]) -> Check:
    """Return whether the kernel itself computed what it must; speed is no verdict."""
    ours = [c for c in contenders if str(c["name"]).startswith("ours")]
    faults = [f"{c['name']}: {c['reason']}" for c in ours if c["status"] in (WRONG, ERROR)]
    timed = sum(c["status"] == TIMED for c in contenders)
    return Check(name, FAIL if faults or not timed else PASS, "; ".join(faults), timed)
