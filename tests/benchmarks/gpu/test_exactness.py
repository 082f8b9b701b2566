"""The proof's own code, run with the kernel's grid on the host; and faults, which it must find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.gpu.arrays import place
from benchmarks.gpu.bits import differing
from benchmarks.gpu.cases import DTYPES, flux_matrices, random_case, sweep
from benchmarks.gpu.exactness import Prover, kernel_checks
from benchmarks.gpu.kernel import Kernel, LaunchError, Tuning
from benchmarks.gpu.large import HEADS, large_check
from benchmarks.gpu.seed import module_from, seed_apply_rope
from benchmarks.gpu.torch_op import torch_op_check
from benchmarks.gpu.verdict import FAIL, PASS, SKIPPED

CASE = random_case((2, 4, 2, 5, 16, 1, 1), "fp16")


class FaultyKernel:
    """Computes the seed's function, and then breaks something."""

    def __init__(self, fault) -> None:
        self._fault = fault

    def call(self, launch, tuning=None):
        def enqueue(stream: int) -> None:
            rotated = seed_apply_rope()(launch.q, launch.k, launch.pe)
            for out, x in zip(launch.out, rotated, strict=True):
                out.copy_(x)
            self._fault(launch)

        return enqueue


@pytest.mark.plugin
def test_every_check_holds_on_the_host(device, host_kernel) -> None:
    said = []
    checks = list(kernel_checks(device, host_kernel, True, said.append))
    assert [(check.name, check.reason) for check in checks if check.verdict != PASS] == []
    names = {check.name for check in checks}
    assert {"random", "unaligned", "strided views", "extreme values", "FLUX positions"} <= names
    assert {"in place", "4 streams at once", "CUDA graph", "other cuts"} <= names
    assert len(said) == len(checks)


@pytest.mark.plugin
def test_a_long_tensor_is_checked_head_by_head(device, host_kernel) -> None:
    check = large_check(device, host_kernel, length=7)
    assert (check.verdict, check.cases) == (PASS, HEADS + 1)


def test_a_long_tensor_needs_memory(device, monkeypatch) -> None:
    monkeypatch.setattr(type(device), "free_bytes", 1 << 30)
    check = large_check(device, FaultyKernel(None))
    assert check.verdict == SKIPPED
    assert "GB" in check.reason


def test_a_wrong_head_of_a_long_tensor_is_found(device) -> None:
    kernel = FaultyKernel(lambda launch: launch.out[0][:, 31, 6].neg_())
    check = large_check(device, kernel, length=7)
    assert check.verdict == FAIL
    assert "q, head 31" in check.reason


def test_the_torch_op_equals_itself(device) -> None:
    assert torch_op_check(device).verdict == PASS


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
@pytest.mark.parametrize("way", ["once", "in_place", "on_streams", "from_graph"])
def test_faults_are_found(device, fault, said, way) -> None:
    prover = Prover(device, FaultyKernel(fault))
    check = prover.check("faulty", iter([CASE]), getattr(prover, way))
    assert check.verdict == FAIL
    assert said in check.reason


def test_a_launch_that_fails_leaves_the_other_cases_theirs(device) -> None:
    class Failing(FaultyKernel):
        def call(self, launch, tuning=None):
            if launch.q.shape[0] == 3:
                raise LaunchError("a case: invalid argument (cudaError 1)\nand more")
            return super().call(launch, tuning)

    prover = Prover(device, Failing(lambda launch: None))
    other = random_case((3, 2, 2, 5, 16, 1, 1), "fp16")
    check = prover.check("failing", iter([CASE, other, CASE]), prover.once)
    assert (check.verdict, check.cases) == (FAIL, 3)
    assert check.reason == f"{other}: LaunchError: a case: invalid argument (cudaError 1)"


def test_an_output_that_was_not_written_is_found(device) -> None:
    class Idle:
        def call(self, launch, tuning=None):
            return lambda stream: None

    prover = Prover(device, Idle())
    check = prover.check("idle", iter([CASE]), prover.once)
    assert check.verdict == FAIL
    assert "got -7.0" in check.reason


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
    from benchmarks.gpu.compiler import ROOT

    return module_from(ROOT / "tests" / "seed_functions.py")


@pytest.mark.parametrize("offset", [0, 1, 8])
@pytest.mark.parametrize("layout", ["BHLD", "BLHD"])
def test_cases_lie_where_they_are_asked_to(offset, layout) -> None:
    case = replace(CASE, offset=offset, layout=layout)
    placed = place(case, torch.device("cpu"))
    for x, given, room in zip((case.q, case.k), (placed.launch.q, placed.launch.k), placed.rooms,
                              strict=True):  # fmt: skip
        assert torch.equal(given, x)
        assert given.data_ptr() % 64 == offset * 2 % 64
        assert room.inside.data_ptr() % 16 == offset * 2 % 16
        assert room.inside.is_contiguous() == (layout == "BHLD")
    assert all(bool((room.whole == -7).all()) for room in placed.rooms)


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
    with pytest.raises(LaunchError, match=r"\(2, 4, 5, 16\).*cudaError 1"):
        host_kernel.call(wrong, Tuning())(0)


def test_rows_that_are_no_neighbours_are_refused() -> None:
    placed = place(CASE, torch.device("cpu"))
    with pytest.raises(LaunchError, match="rows of neighbours"):
        replace(placed.launch, q=placed.launch.q.transpose(2, 3)).params()


@pytest.mark.plugin
def test_a_library_of_other_parameters_is_refused(host_build, tmp_path) -> None:
    source = tmp_path / "other.cpp"
    source.write_text('extern "C" long ropeexport_params_bytes() { return 8; }\n')
    with pytest.raises(LaunchError, match="other parameters"):
        Kernel(host_build("libother.so", source))
