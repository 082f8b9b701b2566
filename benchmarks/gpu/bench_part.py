"""The part of a run that times: every shape and type asked for, every contender at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from benchmarks.gpu.bench import measure
from benchmarks.gpu.compiler import CompileError
from benchmarks.gpu.contenders import Contender, beside, compiled, kernel_contenders, own_forms
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.flashinfer import NAME as FLASHINFER
from benchmarks.gpu.flashinfer import flashinfer
from benchmarks.gpu.result import bench_key
from benchmarks.gpu.rivals import FLASH_ATTENTION, LIGER, flash_attention, liger
from benchmarks.gpu.session import Session
from benchmarks.gpu.shapes import SHAPES, Shape
from benchmarks.gpu.standings import ERROR, TIMED, WRONG
from benchmarks.gpu.targets import targets
from benchmarks.gpu.timing import QUICK, Plan
from benchmarks.gpu.verdict import FAIL, PASS, SKIPPED, Check, Skipped, part_of
from ropeexport.errors import first_line

Group = Callable[[], list[Contender]]


def bench(session: Session) -> Check:
    """Time the contenders on each shape and type, a group of them after the other.

    The kernel, copies and eager come first, for all shapes; then torch.compile, and each rival by
    itself, beside those forms of the kernel that do the same.  So a run that is cut short, or a
    rival that breaks the GPU for the whole process, costs what comes after it alone; what may read
    beyond its arrays (FlashInfer) comes late, what takes longest to compile last.
    """
    device, kernel = session.device(), session.kernel()
    own = own_forms(device, kernel)
    groups: dict[str, Group] = {
        "kernel": lambda: kernel_contenders(device, kernel),
        "torch.compile": lambda: beside([compiled()], own),
    }
    groups |= {
        name: partial(beside, contenders, own)
        for name, contenders in _rivals(session, device).items()
    }
    if not session.options.quick:
        groups["max-autotune"] = lambda: beside([compiled(autotuned=True)], own)
    cases = [
        (group, shape, dtype)
        for group in groups
        for shape in SHAPES
        if shape.name in session.options.shapes
        for dtype in session.options.dtypes
    ]
    return part_of("bench", [_timed(session, device, case, groups[case[0]]) for case in cases])


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
    except Exception as error:  # the GPU is lost to this process: nothing works from here on
        return Check(name, FAIL, f"not run: {type(error).__name__}: {first_line(error)}")
    finally:
        device.release()
    session.join("bench", [entry], bench_key)
    session.update(targets=targets(session.document["bench"]))
    return _bench_check(name, entry["contenders"])


def _rivals(session: Session, device: CudaDevice) -> dict[str, list[Contender]]:
    """Return other people's kernels; one not at hand stays in the table with its reason."""
    options = session.options
    makers: dict[str, Callable[[], list[Contender]]] = {
        LIGER: lambda: [liger()],
        FLASH_ATTENTION: lambda: flash_attention(options.flash_attention),
        FLASHINFER: lambda: flashinfer(device, session.compiler(), options.flashinfer),
    }
    found: dict[str, list[Contender]] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except (Skipped, CompileError) as reason:
            session.say(f"bench: {name}: SKIPPED: {reason}")
            found[name] = [_absent(name, str(reason))]
    return found


def _absent(name: str, reason: str) -> Contender:
    def prepare(_: object) -> NoReturn:
        raise Skipped(reason)

    # of no kind: no form of the kernel is timed beside it
    return Contender(name, prepare, lambda *_: "", pairing="", coefficients="")


def _bench_check(name: str, contenders: Sequence[dict[str, Any]]) -> Check:
    """Return whether the kernel itself computed what it must; speed is no verdict."""
    ours = [c for c in contenders if str(c["name"]).startswith("ours")]
    faults = [f"{c['name']}: {c['reason']}" for c in ours if c["status"] in (WRONG, ERROR)]
    timed = sum(c["status"] == TIMED for c in contenders)
    others = {c["status"] for c in contenders if not str(c["name"]).startswith("ours")}
    if not faults and others == {SKIPPED}:
        return Check(name, SKIPPED, str(contenders[-1]["reason"]), timed)
    if not timed:
        faults += [f"{c['name']}: {c['reason']}" for c in contenders if c["status"] == ERROR]
    return Check(name, FAIL if faults or not timed else PASS, "; ".join(faults), timed)
