"""The kernel on the GPU, bit for bit with eager torch there and with the seed's function here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import torch
from torch import Tensor

from benchmarks.gpu.arrays import Placed, place
from benchmarks.gpu.bits import differing
from benchmarks.gpu.cases import Case, extreme_case, random_case, sweep
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel, Tuning
from benchmarks.gpu.seed import seed_apply_rope
from benchmarks.gpu.verdict import Check, check_of
from ropeexport.errors import first_line

Say = Callable[[str], None]

_STREAMS = 4
_REPLAYS = 2
# some of each path for what is run in other ways than once on one stream
_FEW = ((2, 24, 24, 65, 128, 2, 1), (2, 6, 6, 33, 64, 1, 6), (1, 3, 3, 7, 66, 1, 1))


def kernel_checks(device: CudaDevice, kernel: Kernel, quick: bool, say: Say) -> Iterator[Check]:
    """Yield a check for each kind of case and each way to launch."""
    prover = Prover(device, kernel)
    # before anything else: what a launch asks of the device it then asks within a capture
    first = "a first launch, captured"
    say(f"exactness: {first}")
    yield prover.check(first, iter([random_case(_FEW[0], "bf16")]), prover.captured_first)
    for kind, cases in groupby(_by_kind(sweep(quick)), lambda case: case.kind):
        say(f"exactness: {kind}")
        yield prover.check(kind, cases, prover.once)
    few = [random_case(shape, name) for shape in _FEW for name in ("fp32", "fp16", "bf16")]
    few.append(extreme_case("fp16"))
    ways = {
        "in place": prover.in_place,
        f"{_STREAMS} streams at once": prover.on_streams,
        "CUDA graph": prover.from_graph,
    }
    for name, way in ways.items():
        say(f"exactness: {name}")
        yield prover.check(name, iter(few), way)


class Prover:
    """Runs cases one way and says how they differ from the seed's function."""

    def __init__(self, device: CudaDevice, kernel: Kernel) -> None:
        self._device = device
        self._kernel = kernel
        self._seed = seed_apply_rope()

    def check(
        self, name: str, cases: Iterator[Case], way: Callable[[Case], Iterator[str]]
    ) -> Check:
        """Return the check of a way to run over cases; one that raises leaves the others theirs."""
        failures: list[str] = []
        count = 0
        for case in cases:
            try:
                failures += [f"{case}: {difference}" for difference in way(case)]
            except Exception as error:  # a launch that failed, or any later call after one that did
                failures.append(f"{case}: {type(error).__name__}: {first_line(error)}")
            count += 1
        return check_of(name, count, failures)

    def once(self, case: Case) -> Iterator[str]:
        """Run a case on the current stream."""
        placed = place(case, self._device.torch)
        self._enqueue(case, placed)()
        self._device.synchronize()
        yield from self._differences(case, placed)

    def in_place(self, case: Case) -> Iterator[str]:
        """Run a case whose outputs are its inputs."""
        placed = place(case, self._device.torch, in_place=True)
        self._enqueue(case, placed)()
        self._device.synchronize()
        yield from self._differences(case, placed)

    def on_streams(self, case: Case) -> Iterator[str]:
        """Run a case several times at once."""
        all_placed = [place(case, self._device.torch) for _ in range(_STREAMS)]
        self._device.at_once([self._enqueue(case, placed) for placed in all_placed])
        for placed in all_placed:
            yield from self._differences(case, placed)

    def from_graph(self, case: Case) -> Iterator[str]:
        """Capture a case and replay it."""
        placed = place(case, self._device.torch)
        work = self._enqueue(case, placed)
        self._device.warm_up(work)
        replay = self._device.capture(work)
        for _ in range(_REPLAYS):
            placed.clear()
            replay()
            self._device.synchronize()
            yield from self._differences(case, placed)

    def captured_first(self, case: Case) -> Iterator[str]:
        """Capture a case that was never launched, and replay it."""
        placed = place(case, self._device.torch)
        self._device.synchronize()
        self._device.capture(self._enqueue(case, placed))()
        self._device.synchronize()
        yield from self._differences(case, placed)

    def _enqueue(self, case: Case, placed: Placed) -> Callable[[], None]:
        tuning = Tuning(*case.tuning) if case.tuning else None
        call = self._kernel.call(placed.launch, tuning)
        return lambda: call(self._device.stream())

    def _eager(self, case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
        q, k, pe = (x.to(device) for x in (case.q, case.k, case.pe))
        # torch refuses to reshape nothing into pairs
        return self._seed(q, k, pe) if q.numel() else (q, k)

    def _differences(self, case: Case, placed: Placed) -> Iterator[str]:
        here = self._eager(case, torch.device("cpu"))
        there = self._eager(case, self._device.torch)
        outputs = placed.launch.out
        for name, got, cpu, eager in zip("qk", outputs, here, there, strict=True):
            yield from _told(f"{name} and the seed's function on the CPU", cpu, got.cpu())
            yield from _told(f"{name} and eager torch on the GPU", eager, got)
        if not all(room.guards_hold() for room in placed.rooms):
            yield "something beside the outputs was written"


def _told(what: str, expected: Tensor, got: Tensor) -> Iterator[str]:
    difference = differing(expected, got)
    if difference:
        yield f"{what} differ: {difference}"


def _by_kind(cases: Iterator[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: case.kind)
