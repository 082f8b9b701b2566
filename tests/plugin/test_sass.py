"""What the compiler made of the kernel: wide accesses, several in flight, nothing spilled."""

from __future__ import annotations

import re

import pytest
from plugin import sass

PAIRINGS = ("Interleaved", "Half")


@pytest.fixture(scope="module")
def all_kernels(library) -> list[sass.Kernel]:
    return sass.kernels(library)


@pytest.fixture(scope="module")
def kernels(all_kernels) -> list[sass.Kernel]:
    """Those that rotate alone."""
    return [kernel for kernel in all_kernels if not kernel.normed]


@pytest.fixture(scope="module")
def norm_kernels(all_kernels) -> list[sass.Kernel]:
    """Those that norm first."""
    return [kernel for kernel in all_kernels if kernel.normed]


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


def test_no_local_memory(all_kernels) -> None:
    for kernel in all_kernels:
        assert kernel.starting_with("LDL", "STL") == [], kernel


def usage_of(library) -> list[tuple[str, str, str, str]]:
    """Return each kernel's name, its registers, and its bytes of stack and of local memory."""
    pattern = r"Function (\S+?):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)"
    return re.findall(pattern, sass.dump(library, "-res-usage"))


def test_no_register_is_spilled_and_eight_blocks_fit(library) -> None:
    usage = [use for name, *use in usage_of(library) if "norm_rope" not in name]
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


# what the kernels that norm first rotate by
NORM_POLICIES = ("Interleaved Matrices", "Interleaved Tables", "Half Tables")
IN_FLIGHT = {"Interleaved": 4, "Half": 2}  # heads


def test_every_norm_is_there(norm_kernels) -> None:
    found = {(k.architecture, k.dtype, k.access_bytes, k.normed, k.policies) for k in norm_kernels}
    expected = {
        (architecture, dtype, access, of, policies)
        for architecture in ("sm_80", "sm_90")
        for dtype, size in (("float32", 4), ("float16", 2), ("bfloat16", 2))
        for access in (16, 2 * size, size)
        for of in ("columns", "spans")
        for policies in NORM_POLICIES
    }
    assert found == expected
    assert len(norm_kernels) == len(expected)


def test_registers_of_the_norms(library) -> None:
    usage = [use for use in usage_of(library) if "norm_rope" in use[0]]
    assert len(usage) == 2 * 3 * 3 * 2 * len(NORM_POLICIES)
    for name, registers, stack, local in usage:
        assert (int(stack), int(local)) == (0, 0), name
        if "columns" in name:
            assert int(registers) <= 80, name  # 65536 registers, 6 blocks of 128 threads


@pytest.fixture(scope="module")
def main_columns(norm_kernels) -> list[sass.Kernel]:
    """Those that norm rows wherever alignment allows."""
    return [k for k in norm_kernels if k.normed == "columns" and k.access_bytes == 16]


def test_norms_by_sixteen_bytes_an_access(norm_kernels) -> None:
    for kernel in norm_kernels:
        if kernel.access_bytes != 16:
            continue
        accesses = kernel.starting_with("LDG", "STG")
        shared = [access for access in accesses if access.endswith("CONSTANT")]
        data = [access for access in accesses if access not in shared]
        assert any(access.startswith("LDG") for access in data), kernel
        assert any(access.startswith("STG") for access in data), kernel
        assert all(".128" in access for access in data), (kernel, accesses)
        # two cosines of float32 neighbours are all that a thread needs
        widths = (".128", ".64") if "Tables" in kernel.policies else (".128",)
        assert all(any(w in access for w in widths) for access in shared), (kernel, accesses)


def test_heads_of_a_norm_are_in_flight(main_columns) -> None:
    """Their loads stand before the first shuffle, and each head has five of those."""
    assert len(main_columns) == 2 * 3 * len(NORM_POLICIES)
    for kernel in main_columns:
        heads = next(n for pairing, n in IN_FLIGHT.items() if pairing in kernel.policies)
        accesses = 2 if "Half" in kernel.policies else 1
        assert len(kernel.starting_with("SHFL")) == 5 * heads, kernel
        first = next(i for i, op in enumerate(kernel.opcodes) if op.startswith("SHFL"))
        loads = [op for op in kernel.opcodes[:first] if op.startswith("LDG.E.EF")]
        assert len(loads) == heads * accesses, kernel


def test_a_span_has_one_barrier(norm_kernels) -> None:
    for kernel in norm_kernels:
        barriers = kernel.starting_with("BAR.SYNC")
        assert len(barriers) == (1 if kernel.normed == "spans" else 0), kernel
        if kernel.normed == "spans":
            assert len(kernel.starting_with("SHFL")) == 5, kernel
            assert kernel.starting_with("STS"), kernel
