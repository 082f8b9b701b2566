"""``ropeexport.apply_rope`` on the GPU equals itself on the CPU, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.bits import differing
from benchmarks.gpu.cases import DTYPES, Case, extreme_case, random_case
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.verdict import Check, check_of

_SHAPES = ((2, 6, 6, 33, 64, 1, 6), (2, 32, 8, 17, 128, 2, 1))


def torch_op_check(device: CudaDevice) -> Check:
    """Run the torch op on both, on random and on extreme values."""
    cases = [random_case(shape, name) for shape in _SHAPES for name in DTYPES]
    cases += [extreme_case(name) for name in DTYPES]
    failures = [failure for case in cases for failure in _failures(device, case)]
    return check_of("the torch op on the GPU", len(cases), failures)


def _failures(device: CudaDevice, case: Case) -> Iterator[str]:
    from ropeexport.ops.apply_rope_torch import apply_rope

    inputs = (case.q, case.k, case.pe)
    there = apply_rope(*(x.to(device.torch) for x in inputs))
    for name, expected, got in zip("qk", apply_rope(*inputs), there, strict=True):
        difference = differing(expected, got.cpu())
        if difference:
            yield f"{case}: {name}: {difference}"
