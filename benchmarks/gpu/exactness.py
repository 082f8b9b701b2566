"""The kernel, the torch op and the plugin on the GPU, bit for bit with the seed's function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import torch

from benchmarks.gpu.cases import MARK, Case, extreme_case, place, random_case, sweep
from benchmarks.gpu.compiler import BUILD, Compiler, outcome
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel, Launch, Tuning
from benchmarks.gpu.records import Check, check_of, guarded, reason_of
from benchmarks.gpu.shapes import DTYPES, differing, seed_apply_rope
from ropeexport.errors import MissingError

HEADS, HEAD_SIZE = 32, 128
LENGTH = (1 << 31) // (HEADS * HEAD_SIZE) + 3  # positions just beyond 2^31 elements of q
# q in and out in float16, the matrices, and room for one head in float32 several times over
_LARGE_BYTES = 2 * HEADS * LENGTH * HEAD_SIZE * 2 + 16 * LENGTH * HEAD_SIZE * 4
# some of each path for what is run in other ways than once on one stream
_FEW = ((2, 24, 24, 65, 128, 2, 1), (2, 6, 6, 33, 64, 1, 6), (1, 3, 3, 7, 66, 1, 1))
_PLUGIN_SHAPES = (*_FEW, (2, 32, 8, 65, 128, 1, 1), (64, 32, 8, 1, 128, 64, 1))

Work = Callable[[Case], Iterator[str]]


def exactness(device: CudaDevice, kernel: Kernel, compiler: Compiler) -> Iterator[Check]:
    """Hold the kernel, the torch op and the plugin to eager torch and to the seed, bit for bit."""
    yield from kernel_checks(device, kernel, sweep())
    yield torch_op_check(device)
    yield guarded("more than 2^31 elements", lambda: large_check(device, kernel))
    device.release()
    yield guarded("the plugin's enqueue", lambda: plugin_check(compiler))  # a process of its own


def kernel_checks(device: CudaDevice, kernel: Kernel, cases: Iterable[Case]) -> Iterator[Check]:
    """Yield a check for each kind of case and each way to launch."""
    work = partial(differences, device, kernel)
    # before anything else: what a launch asks of the device it then asks within a capture
    first = [random_case(_FEW[0], "bf16")]
    yield case_check("a first launch, captured", first, partial(work, graph=True))
    for kind, group in groupby(cases, lambda case: case.kind):
        yield case_check(kind, group, work)
    few = [*(random_case(shape, name) for shape in _FEW for name in DTYPES), extreme_case("fp16")]
    yield case_check("in place", few, partial(work, in_place=True))
    yield case_check("4 streams at once", few, partial(work, streams=4))
    yield case_check("CUDA graph", few, partial(work, graph=True))


def case_check(name: str, cases: Iterable[Case], work: Work) -> Check:
    """Return the check of a work over cases; one that raises leaves the others theirs."""
    failures: list[str] = []
    count = 0
    for case in cases:
        count += 1
        try:
            failures += [f"{case}: {difference}" for difference in work(case)]
        except Exception as error:  # a launch that failed, or any later call after one that did
            failures.append(f"{case}: {reason_of(error)}")
    return check_of(name, count, failures)


def differences(
    device: CudaDevice,
    kernel: Kernel,
    case: Case,
    *,
    in_place: bool = False,
    streams: int = 1,
    graph: bool = False,
) -> Iterator[str]:
    """Launch a case, several times at once or replayed twice, and yield what differs."""
    all_placed = [place(case, device.torch, in_place) for _ in range(streams)]
    tuning = Tuning(*case.tuning) if case.tuning else None
    calls = [kernel.call(placed.launch, tuning) for placed in all_placed]
    works = [lambda call=call: call(device.stream()) for call in calls]
    device.synchronize()
    run = device.capture(works[0]) if graph else lambda: device.at_once(works)
    for _ in range(1 + graph):
        for placed in all_placed if graph else ():
            placed.clear()
        run()
        device.synchronize()
        for placed in all_placed:
            for where in (torch.device("cpu"), device.torch):
                inputs = [x.to(where) for x in (case.q, case.k, case.pe)]
                # torch refuses to reshape nothing into pairs
                expected = seed_apply_rope(*inputs) if case.q.numel() else inputs[:2]
                for name, there, got in zip("qk", expected, placed.launch.out, strict=True):
                    if text := differing(there, got.to(where)):
                        yield f"{name} and the seed's function on {where.type} differ: {text}"
            if not placed.guards_hold():
                yield "something beside the outputs was written"


def torch_op_check(device: CudaDevice) -> Check:
    """Run the torch op on both devices, on random and on extreme values."""
    from ropeexport import apply_rope

    def work(case: Case) -> Iterator[str]:
        inputs = (case.q, case.k, case.pe)
        there = apply_rope(*(x.to(device.torch) for x in inputs))
        for name, expected, got in zip("qk", apply_rope(*inputs), there, strict=True):
            if text := differing(expected, got.cpu()):
                yield f"{name}: {text}"

    shapes = ((2, 6, 6, 33, 64, 1, 6), (2, 32, 8, 17, 128, 2, 1))
    cases = [random_case(shape, dtype) for shape in shapes for dtype in DTYPES]
    return case_check("the torch op on the GPU", [*cases, *map(extreme_case, DTYPES)], work)


def large_check(device: CudaDevice, kernel: Kernel, length: int = LENGTH) -> Check:
    """Rotate q of (1, 32, length, 128) and k of one head, and compare head by head."""
    need, free = _LARGE_BYTES / LENGTH * length / 1e9, device.free_bytes / 1e9
    if free < need:
        raise MissingError(f"needs {need:.0f} GB of the GPU's memory, {free:.0f} are free")
    generator = torch.Generator(device.torch).manual_seed(0)
    q = torch.empty((1, HEADS, length, HEAD_SIZE), device=device.torch, dtype=torch.float16)
    for head in range(HEADS):  # a head at a time: its float32 numbers are gone before the next
        q[:, head].normal_(generator=generator)
    k = torch.empty_like(q[:, :1]).normal_(generator=generator)
    pe = torch.empty((1, 1, length, HEAD_SIZE // 2, 2, 2), device=device.torch)
    out = (torch.full_like(q, MARK), torch.full_like(k, MARK))
    kernel.call(Launch(q, k, pe.normal_(generator=generator), out))(device.stream())
    device.synchronize()
    failures = []
    for head in range(HEADS):
        one = slice(head, head + 1)
        expected = seed_apply_rope(q[:, one], k, pe)
        for name, a, b in zip("qk", expected, (out[0][:, one], out[1]), strict=True):
            if text := differing(a, b):
                failures.append(f"{name}, head {head}: {text}")
    return check_of("more than 2^31 elements", HEADS + 1, failures)


def plugin_check(compiler: Compiler) -> Check:
    """Run the plugin's harness on the GPU: one stream, several at once, and CUDA graphs."""
    return read_harness(*outcome(plugin_command(compiler), timeout_s=300))


def plugin_command(compiler: Compiler) -> list[str]:
    """Return the harness's command line over the cases that are written for it."""
    library, harness = compiler.plugin()
    cases = [random_case(shape, dtype) for shape in _PLUGIN_SHAPES for dtype in DTYPES]
    write_cases(BUILD / "enqueue", [*cases, *map(extreme_case, DTYPES)])
    return [str(harness), str(library), "--enqueue", str(BUILD / "enqueue")]


def read_harness(status: int, output: str) -> Check:
    """Return what the harness found: its exit code and its summary must both say so."""
    summary = re.search(r"(\d+) passed, (\d+) failed", output)
    passed, failed = map(int, summary.groups()) if summary else (0, 1)
    lines = output.splitlines()
    faults = [line for line in lines if line.startswith(("FAIL", "error:"))] or lines[-3:]
    failures = [f"exit code {status}", *faults] if status or failed else []
    return check_of("the plugin's enqueue", passed, failures)


def write_cases(folder: Path, cases: Iterable[Case]) -> None:
    """Write cases and what the seed's function makes of them, as the harness's enqueue.h says."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, case in enumerate(cases):
        arrays = (case.q, case.k, case.pe, *seed_apply_rope(case.q, case.k, case.pe))
        batch, heads, length, head_size = case.q.shape
        kind = str(case.q.dtype).removeprefix("torch.")
        sizes = (batch, heads, case.k.shape[1], length, head_size, *case.pe.shape[:2])
        for offset in (0, 1):
            for name, x in zip(("q", "k", "pe", "q_out", "k_out"), arrays, strict=True):
                raw = x.contiguous().view(torch.uint8).numpy().tobytes()
                (folder / f"{index}_{offset}.{name}").write_bytes(raw)
            lines.append(f"{index}_{offset} {kind} {' '.join(map(str, sizes))} {offset}\n")
    (folder / "cases.txt").write_text("".join(lines))
