"""The proof's own code, run with the kernel's grid on the host; and faults, which it must find."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.gpu import exactness
from benchmarks.gpu.cases import DTYPES, flux_matrices, place, random_case, sweep
from benchmarks.gpu.compiler import ROOT
from benchmarks.gpu.exactness import case_check, differences, kernel_checks, large_check
from benchmarks.gpu.kernel import Kernel, Tuning
from benchmarks.gpu.records import guarded
from benchmarks.gpu.shapes import differing, module_from, seed_apply_rope
from ropeexport.errors import MissingError
from ropeexport.machine import find_gpu

CASE = random_case((2, 4, 2, 5, 16, 1, 1), "fp16")


class FaultyKernel:
    """Computes the seed's function, and then breaks something."""

    def __init__(self, fault) -> None:
        self._fault = fault

    def call(self, launch, tuning=None):
        def enqueue(stream: int) -> None:
            rotated = seed_apply_rope(launch.q, launch.k, launch.pe)
            for out, x in zip(launch.out, rotated, strict=True):
                out.copy_(x)
            self._fault(launch)

        return enqueue


@pytest.mark.plugin
def test_every_check_holds_on_the_host(device, host_kernel) -> None:
    seen: dict[str, int] = {}
    some = []
    for case in sweep():  # the small ones of each kind: the grid is walked on the host
        if case.q.numel() < 1 << 18 and seen.setdefault(case.kind, 0) < 9:
            seen[case.kind] += 1
            some.append(case)
    checks = list(kernel_checks(device, host_kernel, some))
    assert [(check.name, check.reason) for check in checks if check.verdict != "PASS"] == []
    names = {check.name for check in checks}
    assert {"random", "unaligned", "strided views", "extreme values", "other cuts"} <= names
    assert {"a first launch, captured", "in place", "4 streams at once", "CUDA graph"} <= names


@pytest.mark.plugin
def test_a_long_tensor_is_checked_head_by_head(device, host_kernel) -> None:
    assert large_check(device, host_kernel, length=7).verdict == "PASS"


def test_a_long_tensor_needs_memory(device) -> None:
    device.free_bytes = 1 << 30
    with pytest.raises(MissingError, match="GB of the GPU's memory"):
        large_check(device, FaultyKernel(None))


def test_a_wrong_head_of_a_long_tensor_is_found(device) -> None:
    kernel = FaultyKernel(lambda launch: launch.out[0][:, 31, 6].neg_())
    check = large_check(device, kernel, length=7)
    assert (check.verdict, check.cases) == ("FAIL", exactness.HEADS + 1)
    assert check.reason.startswith("q, head 31")


def test_the_torch_op_equals_itself(device) -> None:
    check = exactness.torch_op_check(device)
    assert (check.verdict, check.cases) == ("PASS", 9)


def _one_bit(launch) -> None:
    launch.out[1][1, 1, 4, 15:].view(torch.int16).bitwise_xor_(1)


def _nan(launch) -> None:
    launch.out[0][0, 0, 0, 0] = torch.nan


def _beside(launch) -> None:
    out = launch.out[0]
    out.as_strided((1,), (1,), out.storage_offset() + out.numel()).fill_(1)


@pytest.mark.parametrize(
    ("fault", "said"),
    [(_one_bit, "k and the seed's"), (_nan, "q and the seed's"), (_beside, "beside the outputs")],
)
@pytest.mark.parametrize("way", [{}, {"in_place": True}, {"streams": 4}, {"graph": True}])
def test_faults_are_found(device, fault, said, way) -> None:
    work = partial(differences, device, FaultyKernel(fault), **way)
    check = case_check("faulty", [CASE], work)
    assert check.verdict == "FAIL"
    assert said in check.reason


def test_a_launch_that_fails_leaves_the_other_cases_theirs(device) -> None:
    class Failing(FaultyKernel):
        def call(self, launch, tuning=None):
            if launch.q.shape[0] == 3:
                raise RuntimeError("a case: invalid argument (cudaError 1)\nand more")
            return super().call(launch, tuning)

    other = random_case((3, 2, 2, 5, 16, 1, 1), "fp16")
    work = partial(differences, device, Failing(lambda launch: None))
    check = case_check("failing", [CASE, other, CASE], work)
    assert (check.verdict, check.cases) == ("FAIL", 3)
    assert check.reason == f"{other}: RuntimeError: a case: invalid argument (cudaError 1)"


@pytest.mark.parametrize("way", [{}, {"graph": True}])
def test_an_output_that_was_not_written_is_found(device, way) -> None:
    class Idle:
        def call(self, launch, tuning=None):
            return lambda stream: None

    check = case_check("idle", [CASE], partial(differences, device, Idle(), **way))
    assert check.verdict == "FAIL"
    assert "got -7.0" in check.reason


def test_what_a_check_raises_is_its_verdict() -> None:
    def missing():
        raise MissingError("no cmake")

    def broken():
        raise RuntimeError("CUDA error\nmore")

    found = [guarded("a", work) for work in (missing, broken)]
    assert [(check.verdict, check.reason) for check in found] == [
        ("SKIPPED", "no cmake"),
        ("FAIL", "RuntimeError: CUDA error"),
    ]


@pytest.mark.parametrize(
    ("status", "output", "said"),
    [
        (0, "ok   a\n12 passed, 0 failed\n", ""),
        (0, "0 passed, 0 failed\n", "nothing was compared"),
        (0, "", "exit code 0"),
        (1, "FAIL a: 3 elements of q differ\n11 passed, 1 failed\n", "exit code 1; FAIL a: 3"),
        (1, "12 passed, 0 failed\n", "exit code 1"),
        (3, "error: no GPU\n", "exit code 3; error: no GPU"),
    ],
)
def test_the_harness_is_read(status, output, said) -> None:
    check = exactness.read_harness(status, output)
    assert (check.verdict == "PASS") == (said == "")
    assert said in check.reason


@pytest.mark.plugin
def test_the_harness_takes_the_cases(compiler) -> None:
    """Written for the harness that is compiled here; without a GPU it reads them and says so."""
    check = exactness.plugin_check(compiler)
    if find_gpu() is None:
        assert check.reason.startswith("exit code 3; error: no GPU")
    else:
        assert check.verdict == "PASS"


def test_the_sweep_has_each_kind_in_each_type() -> None:
    kinds: dict[str, set[torch.dtype]] = {}
    for case in sweep():
        kinds.setdefault(case.kind, set()).add(case.q.dtype)
    assert kinds.keys() == {
        *("random", "unaligned", "strided views", "extreme values", "other cuts"),
        *("long positions", "FLUX positions"),
    }
    assert all(found == set(DTYPES.values()) for found in kinds.values())


def test_flux_matrices_are_those_of_the_seed() -> None:
    seed_rope = module_from_tests().seed_rope
    found = flux_matrices(3, 2, 5)
    ids = [(0, 0, 0)] * 3 + [(0, row, column) for row in range(2) for column in range(5)]
    axes = torch.tensor(ids, dtype=torch.float64).T
    parts = [
        seed_rope(axis[None], dim, 10_000) for axis, dim in zip(axes, (16, 56, 56), strict=True)
    ]
    assert torch.equal(found, torch.cat(parts, dim=-3)[:, None])


def module_from_tests():
    return module_from(ROOT / "tests" / "seed_functions.py")


@pytest.mark.parametrize("offset", [0, 1, 8])
@pytest.mark.parametrize("layout", ["BHLD", "BLHD"])
def test_cases_lie_where_they_are_asked_to(offset, layout) -> None:
    case = replace(CASE, offset=offset, layout=layout)
    placed = place(case, torch.device("cpu"))
    launch = placed.launch
    for x, given, out in zip((case.q, case.k), (launch.q, launch.k), launch.out, strict=True):
        assert torch.equal(given, x)
        assert given.data_ptr() % 64 == offset * 2 % 64
        assert out.data_ptr() % 16 == offset * 2 % 16
        assert out.is_contiguous() == (layout == "BHLD")
    assert all(bool((whole == -7).all()) for whole in placed.whole)


def test_differences_in_words() -> None:
    nan = torch.tensor([1.0, torch.nan, 0.0])
    assert differing(nan, nan.clone()) == ""
    assert "1 of 3 elements, the first at (2,)" in differing(
        nan, torch.tensor([1, torch.nan, -0.0])
    )
    assert "expected (3,) float32, got (3,) float16" in differing(nan, nan.half())


@pytest.mark.plugin
def test_a_refused_launch_names_its_shapes(host_kernel) -> None:
    placed = place(CASE, torch.device("cpu"))
    wrong = replace(placed.launch, pe=placed.launch.pe.expand(3, -1, -1, -1, -1, -1))
    with pytest.raises(RuntimeError, match=r"\(2, 4, 5, 16\).*cudaError 1"):
        host_kernel.call(wrong, Tuning())(0)


def test_rows_that_are_no_neighbours_are_refused() -> None:
    placed = place(CASE, torch.device("cpu"))
    with pytest.raises(ValueError, match="rows of neighbours"):
        replace(placed.launch, q=placed.launch.q.transpose(2, 3)).params()


@pytest.mark.plugin
def test_a_library_of_other_parameters_is_refused(host_build, tmp_path) -> None:
    source = tmp_path / "other.cpp"
    source.write_text('extern "C" long ropeexport_params_bytes() { return 8; }\n')
    with pytest.raises(RuntimeError, match="other parameters"):
        Kernel(host_build("libother.so", source))
