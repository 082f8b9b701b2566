"""All that the measurements ask of CUDA, in one place: streams, graphs, events.

Source: PyTorch's notes on CUDA semantics (streams, CUDA graphs: warm up on a side stream, then
capture) and the reference of ``torch.cuda.graph`` and ``torch.cuda.Event``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

Work = Callable[[], object]

_WARM_UPS = 3


class CudaDevice:
    """The first NVIDIA GPU that torch sees."""

    def __init__(self) -> None:
        self.torch = torch.device("cuda", 0)
        self._properties = torch.cuda.get_device_properties(self.torch)

    @property
    def l2_bytes(self) -> int:
        """Size of the last cache before the memory."""
        return int(self._properties.L2_cache_size)

    @property
    def free_bytes(self) -> int:
        """Memory that is free, that of torch's own cache included."""
        free, _ = torch.cuda.mem_get_info(self.torch)
        cached = torch.cuda.memory_reserved(self.torch) - torch.cuda.memory_allocated(self.torch)
        return int(free + cached)

    def stream(self) -> int:
        """Return CUDA's handle of torch's current stream."""
        return int(torch.cuda.current_stream(self.torch).cuda_stream)

    def synchronize(self) -> None:
        """Wait for everything; errors of former launches are raised here."""
        torch.cuda.synchronize(self.torch)

    def at_once(self, works: Sequence[Work]) -> None:
        """Run each work on a stream of its own, all after what was enqueued before, and wait."""
        self.synchronize()
        streams = [torch.cuda.Stream(self.torch) for _ in works]
        for stream, work in zip(streams, works, strict=True):
            with torch.cuda.stream(stream):
                work()
        self.synchronize()

    def warm_up(self, work: Work) -> None:
        """Run a work on a side stream, as a capture needs it: kernels loaded, memory at hand."""
        stream = torch.cuda.Stream(self.torch)
        stream.wait_stream(torch.cuda.current_stream(self.torch))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream(self.torch).wait_stream(stream)
        self.synchronize()

    def capture(self, work: Work) -> Callable[[], None]:
        """Return the replay of a work that was warmed up, captured as a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        # only this thread is held to what a capture allows: compilers keep threads of their own
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def elapsed_us(self, work: Work, times: int) -> float:
        """Return the GPU's microseconds for so many runs of a work, between two events."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        return 1e3 * float(start.elapsed_time(end))

    def release(self) -> None:
        """Give memory that nothing holds back to the GPU."""
        gc.collect()
        torch.cuda.empty_cache()
