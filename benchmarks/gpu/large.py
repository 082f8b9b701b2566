"""Tensors of more elements than 32 bits count, checked a head at a time."""

from __future__ import annotations

import torch

from benchmarks.gpu.bits import differing
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel, Launch
from benchmarks.gpu.seed import seed_apply_rope
from benchmarks.gpu.verdict import SKIPPED, Check, check_of

NAME = "more than 2^31 elements"
HEADS, HEAD_SIZE = 32, 128
LENGTH = (1 << 31) // (HEADS * HEAD_SIZE) + 3  # positions just beyond 2^31 elements of q
_BYTES = 2  # of a float16
# q in and out, the matrices, and room for one head in float32 several times over
NEEDED_BYTES = 2 * HEADS * LENGTH * HEAD_SIZE * _BYTES + 16 * LENGTH * HEAD_SIZE * 4


def large_check(device: CudaDevice, kernel: Kernel, length: int = LENGTH) -> Check:
    """Rotate q of (1, 32, length, 128) and k of one head, and compare head by head."""
    if length == LENGTH and device.free_bytes < NEEDED_BYTES:
        need, free = NEEDED_BYTES / 1e9, device.free_bytes / 1e9
        return Check(NAME, SKIPPED, f"needs {need:.0f} GB of the GPU's memory, {free:.0f} are free")
    launch = _launch(device, length)
    kernel.call(launch)(device.stream())
    device.synchronize()
    rotate = seed_apply_rope()
    failures = []
    for head in range(HEADS):
        q = launch.q[:, head : head + 1]
        expected = rotate(q, launch.k, launch.pe)
        pairs = [(f"q, head {head}", expected[0], launch.out[0][:, head : head + 1])]
        if head == 0:
            pairs.append(("k", expected[1], launch.out[1]))
        for name, a, b in pairs:
            difference = differing(a, b)
            failures += [f"{name}: {difference}"] if difference else []
    return check_of(NAME, HEADS + 1, failures)


def _launch(device: CudaDevice, length: int) -> Launch:
    generator = torch.Generator(device.torch).manual_seed(0)
    q = torch.empty((1, HEADS, length, HEAD_SIZE), device=device.torch, dtype=torch.float16)
    for head in range(HEADS):  # a head at a time: its float32 numbers are gone before the next
        q[:, head].normal_(generator=generator)
    k = torch.empty_like(q[:, :1]).normal_(generator=generator)
    pe = torch.empty((1, 1, length, HEAD_SIZE // 2, 2, 2), device=device.torch)
    out = (torch.full_like(q, -7.0), torch.full_like(k, -7.0))
    return Launch(q, k, pe.normal_(generator=generator), out)
