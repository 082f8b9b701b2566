"""A bare machine's Python: no network, few packages; and the CPU for its GPU.

Python runs this file at its start where it lies on the path, in every process of a rehearsal.
"""

from __future__ import annotations

import socket
import sys
from importlib.machinery import PathFinder

ABSENT = {"onnxscript", "tensorrt", "tensorrt_rtx", "liger_kernel"}


find_spec = PathFinder.find_spec


def find_present(name, path=None, target=None):
    """Find no module of a package that the machine lacks."""
    return None if name.partition(".")[0] in ABSENT else find_spec(name, path, target)


def refuse(*_: object) -> None:
    raise OSError("this machine has no network")


def use_the_cpu() -> None:
    import torch
    from cpu_device import CpuDevice

    import benchmarks.gpu.device
    from benchmarks.gpu import cases, shapes

    benchmarks.gpu.device.CudaDevice = CpuDevice
    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_capability = lambda: (9, 0)
    torch.cuda.get_device_name = lambda: "NVIDIA Stand-in"
    torch.compile = lambda function, **_: function
    # the names of the plan's shapes, in little
    shapes.SHAPES = tuple(
        shapes.Shape(s.name, min(s.batch, 2), 4, 2, 4, 16, min(s.pe_batch, 2))
        for s in shapes.SHAPES
    )
    cases.SHAPES = cases.SHAPES[1:4]
    from benchmarks.gpu import exactness

    exactness.large_check.__defaults__ = (7,)  # positions, of more than 2^31 elements


PathFinder.find_spec = find_present
socket.socket.connect = refuse
if {"benchmarks.gpu", "tune.py"} & {part.rpartition("/")[2] for part in sys.orig_argv}:
    use_the_cpu()
