"""Where a benchmark runs: the CPU, or the first NVIDIA GPU that torch sees.

Source: PyTorch's notes on CUDA semantics (streams) and the reference of ``torch.cuda.Event``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ropeexport.errors import MissingError

if TYPE_CHECKING:
    from ropeexport.runners.registry import Device

Work = Callable[[], object]
_CACHES_BETWEEN = 3  # of the GPU's, between two uses of a set
_MOST_SETS = 512  # inputs of a few kB are no matter of the cache's


def choose_device(asked: Device | None) -> Device:
    """Return the device that was asked for, else the GPU where torch sees one.

    Raises
    ------
    MissingError
        Where a GPU was asked for and there is none.
    """
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise MissingError(
            f"--device cuda: torch {torch.__version__} sees no NVIDIA GPU; on a machine with one, "
            "install a CUDA build of torch",
            code="RX904",
        )
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def use_own_stream() -> None:
    """Make a new stream the current one: what every runtime of this process enqueues its work on.

    Work on the default stream waits for that of all others.
    """
    import torch

    torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]


def count_sets(set_bytes: int, l2_bytes: int) -> int:
    """Return how many sets of inputs to go round, so that the L2 does not hold the next one."""
    return min(_MOST_SETS, 1 + math.ceil(_CACHES_BETWEEN * l2_bytes / set_bytes))


class CudaDevice:
    """The first NVIDIA GPU that torch sees."""

    def __init__(self) -> None:
        import torch

        self.torch = torch.device("cuda", 0)
        self._cuda = torch.cuda

    @property
    def l2_bytes(self) -> int:
        """Size of the last cache before the memory."""
        return int(self._cuda.get_device_properties(self.torch).L2_cache_size)

    @property
    def untaken_bytes(self) -> int:
        """Memory that no process has taken."""
        return int(self._cuda.mem_get_info(self.torch)[0])

    def synchronize(self) -> None:
        """Wait for everything; errors of former launches are raised here."""
        self._cuda.synchronize(self.torch)

    def elapsed_us(self, work: Work, times: int) -> float:
        """Return the GPU's microseconds for so many runs of a work, between two events."""
        start = self._cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = self._cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        return 1e3 * float(start.elapsed_time(end))

    def launch_us(self, work: Work) -> float:
        """Return the host's microseconds to enqueue a work, on a GPU that has nothing to do."""
        self.synchronize()
        start = time.perf_counter()
        work()
        elapsed = time.perf_counter() - start
        self.synchronize()
        return 1e6 * elapsed
