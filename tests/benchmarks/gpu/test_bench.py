"""The bench on the CPU with small shapes: who is timed, who is out, and why."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.gpu.bench import measure
from benchmarks.gpu.contenders import (
    Call,
    Contender,
    beside,
    compiled,
    copies,
    kernel_contenders,
    own_forms,
)
from benchmarks.gpu.correct import bound, equals_eager, is_rotation
from benchmarks.gpu.seed import seed_apply_rope
from benchmarks.gpu.shapes import SHAPES, Shape, count_sets, make_problem
from benchmarks.gpu.timing import Plan
from benchmarks.gpu.verdict import Skipped

CPU = torch.device("cpu")
SHAPE = Shape("small", 2, 4, 2, 3, 16, pe_batch=2)
PLAN = Plan(rounds=2, batches=1, batch_us=1.0, graph_us=1.0, most_calls=8)
INTERLEAVED = partial(is_rotation, pairing="interleaved")


def eager(problem):
    return seed_apply_rope()(problem.q, problem.k, problem.pe)


def contender(name: str, run, wrong=equals_eager, **options) -> Contender:
    call = {key: options.pop(key) for key in ("checked_again",) if key in options}
    return Contender(name, lambda p: Call(partial(run, p), 100, **call), wrong, **options)


def measured(device, *contenders: Contender) -> dict[str, dict]:
    entry = measure(device, SHAPE, "fp16", contenders, PLAN, lambda text: None)
    return {record["name"]: record for record in entry["contenders"]}


@pytest.mark.plugin
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_own_contenders_are_right_and_timed(device, host_kernel, dtype) -> None:
    own = kernel_contenders(device, host_kernel)
    entry = measure(device, SHAPE, dtype, own, PLAN, lambda text: None)
    assert {record["status"] for record in entry["contenders"]} == {"TIMED"}
    for record in entry["contenders"]:
        assert record["time_us"] > 0
        assert len(record["rounds_us"]) == PLAN.rounds
        assert record["copy_share"] > 0
    ours = entry["contenders"][0]
    assert (ours["name"], ours["ratio"], ours["rival"]) == ("ours", 1.0, False)
    assert ours["moved_bytes"] == entry["moved_bytes"] == SHAPE.moved_bytes(dtype)
    assert [c.name for c in own if c.is_rival] == ["eager"]
    beside = {r["name"]: r["beside"] for r in entry["contenders"]}
    assert beside["ours, tables"] == "ours, tables"
    assert beside["eager"] == beside["copy"] == "ours"


@pytest.mark.plugin
def test_copies_move_as_many_bytes_as_the_op(device, host_kernel) -> None:
    problem = make_problem(SHAPE, "fp16", CPU, 0)
    for copy in copies(device, host_kernel):
        call = copy.prepare(problem)
        outputs = call.run()
        assert call.moved_bytes == SHAPE.moved_bytes("fp16")
        assert copy.wrong(problem, outputs) == ""
        outputs[1][-1] ^= 1
        assert copy.wrong(problem, outputs) != ""
    assert [copy.captured for copy in copies()] == [True, False, True, True]


@pytest.mark.plugin
def test_torch_compile_is_one_graph(device, host_kernel) -> None:
    """A graph break would be an error, never an eager run under another's name."""
    names = ("torch.compile", "torch.compile, max-autotune")
    own = own_forms(device, host_kernel)
    problem = make_problem(SHAPE, "fp16", CPU, 0)
    for name, autotuned in zip(names, (False, True), strict=True):
        contender = compiled(autotuned=autotuned)
        assert contender.name == name
        assert contender.is_rival
        assert [c.name for c in beside([contender], own)] == ["ours", name]
        assert contender.wrong(problem, contender.prepare(problem).run()) == ""


def test_one_that_computes_something_else_is_not_timed(device) -> None:
    def shifted(problem):
        q, k = eager(problem)
        return q, k + 0.1

    found = measured(device, contender("eager", eager), contender("wrong", shifted))
    assert found["eager"]["status"] == "TIMED"
    assert found["wrong"]["status"] == "WRONG"
    assert found["wrong"]["reason"].startswith("k: ")
    assert "time_us" not in found["wrong"]


def test_one_that_is_right_only_once_is_not_timed(device) -> None:
    seen: list[object] = []

    def first_of_each(problem):
        known = any(problem is other for other in seen)
        seen.append(problem)
        rotated = eager(problem)
        return tuple(torch.zeros_like(x) for x in rotated) if known else rotated

    found = measured(device, contender("once", first_of_each))
    assert found["once"]["status"] == "WRONG"
    assert found["once"]["reason"].startswith("when repeated: ")


def test_one_that_overwrites_its_inputs_is_checked_once(device) -> None:
    """Its second run rotates what the first one left, which is no fault."""

    def in_place(problem):
        for x, rotated in zip((problem.q, problem.k), eager(problem), strict=True):
            x.copy_(rotated)
        return problem.q, problem.k

    def right(problem, outputs):
        return "" if outputs[0] is problem.q else "another tensor"

    found = measured(device, contender("in place", in_place, right, checked_again=False))
    assert found["in place"]["status"] == "TIMED"


def test_arrays_live_as_long_as_their_graph(device, monkeypatch) -> None:
    """A graph owns none of them: freed ones would be another contender's when it is replayed."""
    arrays: list[weakref.ref] = []

    def prepare(problem):
        out = tuple(torch.empty_like(x) for x in (problem.q, problem.k))
        arrays.extend(weakref.ref(x) for x in out)

        def run():
            for x, rotated in zip(out, eager(problem), strict=True):
                x.copy_(rotated)
            return out

        return Call(run, 100)

    alive: list[bool] = []

    def capture(self, work):
        work()

        def replay() -> None:
            alive.append(all(array() is not None for array in arrays))
            if alive[-1]:
                work_again()

        def work_again() -> None:
            for array, source in zip(arrays, sources, strict=True):
                array().copy_(source)

        sources = [array().clone() for array in arrays]
        return replay

    monkeypatch.setattr(type(device), "capture", capture)
    found = measured(device, replace(contender("graph", eager), prepare=prepare))
    assert found["graph"]["status"] == "TIMED", found["graph"]["reason"]
    assert alive
    assert all(alive)


def test_one_that_raises_is_out_alone(device) -> None:
    def broken(problem):
        raise RuntimeError("no kernel image\nand a long trace")

    def silent(problem):
        raise RuntimeError

    def absent(problem):
        raise Skipped("MISSING: liger-kernel")

    found = measured(
        device,
        contender("broken", broken),
        contender("silent", silent),
        replace(contender("absent", eager), prepare=absent),
        contender("eager", eager),
    )
    assert (found["broken"]["status"], found["broken"]["reason"]) == (
        "ERROR",
        "RuntimeError: no kernel image",
    )
    assert found["silent"]["status"] == "ERROR"
    assert (found["absent"]["status"], found["absent"]["reason"]) == (
        "SKIPPED",
        "MISSING: liger-kernel",
    )
    assert found["eager"]["status"] == "TIMED"


def test_a_gpu_that_is_lost_leaves_what_was_timed_and_its_culprit(device, monkeypatch) -> None:
    """After an illegal access every call of the process fails; the entry names whose it was."""
    lost = []
    elapsed = type(device).elapsed_us

    def fatal(problem):
        lost.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    def elapsed_us(self, work, times: int) -> float:
        if lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return elapsed(self, work, times)

    monkeypatch.setattr(type(device), "elapsed_us", elapsed_us)
    found = measured(device, contender("eager", eager), contender("rival", fatal))
    assert found["rival"]["status"] == "ERROR"
    assert found["rival"]["reason"].endswith("an illegal memory access was encountered")
    assert (found["eager"]["status"], found["eager"]["reason"]) == (
        "SKIPPED",
        "not timed: RuntimeError: CUDA error: an illegal memory access was encountered",
    )


def test_a_shape_that_does_not_fit_is_skipped(device, monkeypatch) -> None:
    monkeypatch.setattr(type(device), "free_bytes", 1 << 10)
    with pytest.raises(Skipped, match="GB of the GPU's memory"):
        measured(device, contender("eager", eager))


@pytest.mark.parametrize(
    ("set_bytes", "expected"), [(118_000_000, 3), (1_400_000, 109), (10**12, 2)]
)
def test_sets_pass_the_cache_three_times(set_bytes, expected) -> None:
    l2 = 50_000_000
    sets = count_sets(set_bytes, l2)
    assert sets == expected
    assert (sets - 1) * set_bytes >= 3 * l2


def test_bytes_at_the_flux_shape_are_those_counted() -> None:
    flux = SHAPES[0]
    assert flux.moved_bytes("fp16") == 113_246_208 + 4_718_592  # q and k both ways, the matrices
    assert flux.moved_bytes("fp32") == 2 * 113_246_208 + 4_718_592


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_problems_are_rotations_and_of_their_seed(dtype) -> None:
    one, again, other = (make_problem(SHAPE, dtype, CPU, seed) for seed in (1, 1, 2))
    assert torch.equal(one.q, again.q)
    assert not torch.equal(one.q, other.q)
    assert not torch.equal(one.cos, other.cos)
    assert one.pe.shape == (2, 1, 3, 8, 2, 2)
    assert torch.equal(one.pe[..., 0, 1], -one.pe[..., 1, 0])
    assert INTERLEAVED(one, eager(one)) == ""


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_what_no_rounding_explains_is_wrong(dtype) -> None:
    problem = make_problem(SHAPE, dtype, CPU, 0)
    q, k = eager(problem)
    assert "q: relative L2" in is_rotation(problem, (q, k), "half")
    nan = k.clone()
    nan[0, 0, 0, 0] = torch.nan
    assert "k: relative L2 distance nan" in INTERLEAVED(problem, (q, nan))
    assert "q: relative L2" in INTERLEAVED(problem, (q * (1 + 2 * bound(q.dtype)), k))
    assert "expected" in INTERLEAVED(problem, (q[:1], k))
    assert "expected" in INTERLEAVED(problem, (q.double(), k))


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_all_arithmetic_in_the_type_is_within_the_bound(dtype) -> None:
    """The coarsest that a rival does: tables, products and sums, each rounded to the type."""
    problem = make_problem(Shape("a", 1, 8, 8, 64, 64), dtype, CPU, 0)
    cos, sin = problem.cos.to(problem.q.dtype), problem.sin.to(problem.q.dtype)

    def rotated(x):
        x0, x1 = x[..., 0::2], x[..., 1::2]
        return torch.stack([x0 * cos - x1 * sin, x0 * sin + x1 * cos], -1).flatten(-2)

    assert INTERLEAVED(problem, (rotated(problem.q), rotated(problem.k))) == ""
