"""Where a benchmark runs: the CPU, or the first NVIDIA GPU that torch sees.

Source: PyTorch's notes on CUDA semantics (streams) and the reference of ``torch.cuda.Event``.
"""

from __future__ import annotations

from collections.abc import Callable

from ropeexport.bench.records import Device
from ropeexport.errors import MissingError


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
            "install a CUDA build of torch"
        )
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


class CudaDevice:
    """The GPU, and the stream that every runtime of this process enqueues its work on."""

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]

    @property
    def l2_bytes(self) -> int:
        """Size of the last cache before the memory."""
        return int(self._cuda.get_device_properties(0).L2_cache_size)

    def elapsed_us(self, work: Callable[[], object], times: int) -> float:
        """Return the GPU's microseconds for so many runs of a work, between two events."""
        start = self._cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = self._cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        return 1e3 * float(start.elapsed_time(end))
