"""What the measurements ask of CUDA beyond ``ropeexport bench``: further streams, and graphs.

Source: PyTorch's notes on CUDA semantics (streams, CUDA graphs: warm up on a side stream, then
capture) and the reference of ``torch.cuda.graph``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from ropeexport.bench import device
from ropeexport.bench.device import Work

_WARM_UPS = 3


class CudaDevice(device.CudaDevice):
    """The first NVIDIA GPU that torch sees: what ``ropeexport bench`` asks of it, and graphs."""

    @property
    def free_bytes(self) -> int:
        """Memory that is free, that of torch's own cache included."""
        cached = torch.cuda.memory_reserved(self.torch) - torch.cuda.memory_allocated(self.torch)
        return int(self.untaken_bytes + cached)

    def stream(self) -> int:
        """Return CUDA's handle of torch's current stream."""
        return int(torch.cuda.current_stream(self.torch).cuda_stream)

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
        self.at_once([lambda: [work() for _ in range(_WARM_UPS)]])

    def capture(self, work: Work) -> Callable[[], None]:
        """Return the replay of a work that was warmed up, captured as a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        # only this thread is held to what a capture allows: compilers keep threads of their own
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def release(self) -> None:
        """Give memory that nothing holds back to the GPU, if it still answers."""
        gc.collect()
        with suppress(RuntimeError):  # lost: whoever asks it for something will be told
            torch.cuda.empty_cache()
