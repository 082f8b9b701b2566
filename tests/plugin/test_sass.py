"""What the compiler made of the kernel: wide accesses, several in flight, nothing spilled."""

from __future__ import annotations

import re

import pytest
from plugin import sass

PAIRINGS = ("Interleaved", "Half")


@pytest.fixture(scope="module")
def kernels(library) -> list[sass.Kernel]:
    return sass.kernels(library)


@pytest.fixture(scope="module")
def main_kernels(kernels) -> list[sass.Kernel]:
    """Those that run wherever alignment allows."""
    return [kernel for kernel in kernels if kernel.access_bytes == 16]


@pytest.fixture(scope="module")
def flux_kernels(main_kernels) -> list[sass.Kernel]:
    """Of those, the ones of ApplyRope itself."""
    return [kernel for kernel in main_kernels if kernel.policies == "Interleaved Matrices"]


# what is multiplied, and whether each head has its own
POLICIES = [
    *((f"{pairing} Matrices", own) for pairing in PAIRINGS for own in (False, True)),
    *((f"{pairing} Tables{part}", False) for pairing in PAIRINGS for part in ("", " Partial")),
]


def test_every_variant_is_there(kernels) -> None:
    found = {(k.architecture, k.dtype, k.access_bytes, k.per_head, k.policies) for k in kernels}
    expected = {
        (architecture, dtype, access, per_head, policies)
        for architecture in ("sm_80", "sm_90")
        for dtype, size in (("float32", 4), ("float16", 2), ("bfloat16", 2))
        for access in (16, 2 * size, size)
        for policies, per_head in POLICIES
    }
    assert found == expected
    assert len(kernels) == len(expected)
    assert all(len(kernel.opcodes) > 50 for kernel in kernels)


def test_no_local_memory(kernels) -> None:
    for kernel in kernels:
        assert kernel.starting_with("LDL", "STL") == [], kernel


def test_no_register_is_spilled_and_eight_blocks_fit(library) -> None:
    usage = re.findall(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", sass.dump(library, "-res-usage"))
    assert len(usage) == 2 * 9 * len(POLICIES)
    most = [int(registers) for registers, _, _ in usage]
    assert max(most) <= 96  # 65536 registers, 5 blocks of 128 threads, see policies.cuh
    assert sum(registers > 64 for registers in most) <= 2 * 4  # 8 blocks of the others
    for _, stack, local in usage:
        assert (int(stack), int(local)) == (0, 0)


def test_no_product_is_fused_into_a_sum(kernels) -> None:
    for kernel in kernels:
        assert kernel.starting_with("FFMA", "HFMA", "FMUL.FTZ", "FADD.FTZ") == [], kernel
        assert kernel.starting_with("FMUL"), kernel
        assert kernel.starting_with("FADD"), kernel


def test_sixteen_bytes_an_access(main_kernels) -> None:
    assert len(main_kernels) == 2 * 3 * len(POLICIES)
    for kernel in main_kernels:
        accesses = kernel.starting_with("LDG", "STG")
        coefficients = [access for access in accesses if access.endswith("CONSTANT")]
        data = [access for access in accesses if access not in coefficients]
        assert all(".128" in access for access in data), (kernel, accesses)
        # two cosines of float32 neighbours are all that a thread needs
        widths = (".128", ".64") if "Tables" in kernel.policies else (".128",)
        assert all(access.startswith("LDG.E") for access in coefficients)
        assert all(any(w in access for w in widths) for access in coefficients), kernel
        assert any(access.startswith("LDG") for access in accesses), kernel
        assert any(access.startswith("STG") for access in accesses), kernel


def test_several_heads_are_in_flight(flux_kernels) -> None:
    """The loads of a batch of heads all stand before its first store."""
    assert len(flux_kernels) == 2 * 3 * 2
    for kernel in flux_kernels:
        first_store = next(i for i, op in enumerate(kernel.opcodes) if op.startswith("STG"))
        # data is read with an "evict first" hint, matrices through the read-only cache
        data = [op for op in kernel.opcodes[:first_store] if op.startswith("LDG.E.EF")]
        assert len(data) == (2 if kernel.per_head else 4), kernel


def test_matrices_are_read_once_for_all_heads(flux_kernels) -> None:
    for kernel in flux_kernels:
        if not kernel.per_head:
            pairs = 2 if kernel.dtype == "float32" else 4  # a matrix is 16 bytes
            assert len(kernel.starting_with("LDG.E.128.CONSTANT")) == pairs, kernel


def test_newer_gpus_get_ptx(library) -> None:
    assert "sm_90.ptx" in sass.dump(library, "--list-ptx")
