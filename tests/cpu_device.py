"""The CPU in the place of ``benchmarks.gpu.device.CudaDevice``."""

from __future__ import annotations

import time

import torch


class CpuDevice:
    """Has the methods of ``CudaDevice``; streams are one, and a graph is the call itself."""

    torch = torch.device("cpu")
    l2_bytes = 1 << 14
    free_bytes = 1 << 34

    def stream(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass

    def at_once(self, works) -> None:
        for work in works:
            work()

    def warm_up(self, work) -> None:
        work()

    def capture(self, work):
        return work

    def elapsed_us(self, work, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        return 1e6 * (time.perf_counter() - start)

    def release(self) -> None:
        pass
