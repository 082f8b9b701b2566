"""The timing on the CPU with small shapes: who is timed, who is out, and what is compared."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.gpu.contenders import COPY, OURS, Call, Routine, own_forms, routine_groups
from benchmarks.gpu.shapes import (
    SHAPES,
    Shape,
    beyond_rounding,
    bound,
    count_sets,
    make_problem,
    rotated_by_tables,
    seed_apply_rope,
)
from benchmarks.gpu.timing import Entrant, Plan, bench, beside, measure, passes_of, timings
from ropeexport.errors import MissingError

CPU = torch.device("cpu")
SHAPE = Shape("small", 2, 4, 2, 3, 16, pe_batch=2)
PLAN = Plan(rounds=2, batches=1, batch_us=1.0, graph_us=1.0, most_calls=8)
LOST = "CUDA error: an illegal memory access was encountered"


def eager(problem):
    return seed_apply_rope(problem.q, problem.k, problem.pe)


def contender(name: str, run, **call) -> Routine:
    return Routine(name, lambda p: Call(partial(run, p), 100, **call), exact=True)


def measured(device, *contenders: Routine):
    check = measure(device, "small fp16", (SHAPE, "fp16"), contenders, PLAN)
    return check, {timing.name: timing for timing in check.timings}


@pytest.mark.plugin
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_own_contenders_are_right_and_timed(device, host_kernel, dtype) -> None:
    groups = {"kernel": routine_groups(device, host_kernel, None)["kernel"]}
    (check,) = bench(device, groups, [(SHAPE, dtype)], PLAN)
    assert (check.verdict, check.cases, check.reason) == ("PASS", 8, "")
    for timing in check.timings:
        assert timing.time_us > 0
        assert len(timing.rounds_us) == PLAN.rounds
        assert timing.copy_share > 0
    ours = check.timings[0]
    assert (ours.name, ours.ratio) == ("ours", 1.0)
    assert ours.moved_bytes == check.sizes["moved_bytes"] == SHAPE.moved_bytes(dtype)
    found = {timing.name: timing.beside for timing in check.timings}
    assert found["ours, tables"] == "ours, tables"
    assert found["eager"] == found["copy"] == "ours"


def test_one_that_computes_something_else_is_not_timed(device) -> None:
    def shifted(problem):
        q, k = eager(problem)
        return q, k + 0.1

    check, found = measured(device, contender("eager", eager), contender("wrong", shifted))
    assert check.verdict == "PASS"  # what others compute is no fault of the kernel's
    assert found["eager"].status == "TIMED"
    assert found["wrong"].status == "WRONG"
    assert found["wrong"].reason.startswith("k: ")
    assert found["wrong"].time_us is None
    check, _ = measured(device, contender("eager", eager), contender("ours", shifted))
    assert (check.verdict, check.reason[:8]) == ("FAIL", "ours: k:")


def test_one_that_is_right_only_once_is_not_timed(device) -> None:
    seen: list[object] = []

    def first_of_each(problem):
        known = any(problem is other for other in seen)
        seen.append(problem)
        rotated = eager(problem)
        return tuple(torch.zeros_like(x) for x in rotated) if known else rotated

    _, found = measured(device, contender("once", first_of_each))
    assert found["once"].status == "WRONG"
    assert found["once"].reason.startswith("when repeated: ")


def test_one_that_overwrites_its_inputs_is_checked_once(device) -> None:
    """Its second run rotates what the first one left, which is no fault."""

    def in_place(problem):
        for x, rotated in zip((problem.q, problem.k), eager(problem), strict=True):
            x.copy_(rotated)
        return problem.q, problem.k

    once = contender("copy in place", in_place, checked_again=False)
    made = replace(once, name="in place", pairing="half", exact=False)
    first: dict[int, tuple] = {}

    class Right(Routine):
        def wrong(self, problem, outputs) -> str:
            return "" if first.setdefault(id(problem), outputs) == outputs else "another tensor"

    _, found = measured(device, Right(made.name, made.prepare))
    assert found["in place"].status == "TIMED"


def test_arrays_live_as_long_as_their_graph(device) -> None:
    """A graph owns none of them: freed ones would be another contender's when it is replayed."""
    arrays: list[weakref.ref] = []
    alive: list[bool] = []

    def prepare(problem):
        out = tuple(torch.empty_like(x) for x in (problem.q, problem.k))
        arrays.extend(weakref.ref(x) for x in out)

        def run():
            for x, rotated in zip(out, eager(problem), strict=True):
                x.copy_(rotated)
            return out

        return Call(run, 100)

    class Graphs(type(device)):
        def capture(self, work):
            work()
            kept = [array().clone() for array in arrays]

            def replay() -> None:
                alive.append(all(array() is not None for array in arrays))
                for array, content in zip(arrays, kept, strict=True):
                    array().copy_(content)

            return replay

    _, found = measured(Graphs(), Routine("graph", prepare, exact=True))
    assert found["graph"].status == "TIMED", found["graph"].reason
    assert alive
    assert all(alive)


def test_one_that_raises_is_out_alone(device) -> None:
    def broken(problem):
        raise RuntimeError("no kernel image\nand a long trace")

    def absent(problem):
        raise MissingError("no liger-kernel")

    check, found = measured(
        device,
        contender("broken", broken),
        contender("absent", absent),
        contender("eager", eager),
    )
    assert (check.verdict, check.cases) == ("PASS", 1)
    assert (found["broken"].status, found["broken"].reason) == (
        "FAILED",
        "RuntimeError: no kernel image",
    )
    assert (found["absent"].status, found["absent"].reason) == ("SKIPPED", "no liger-kernel")
    assert found["eager"].status == "TIMED"
    check, _ = measured(device, contender("ours", eager), contender("absent", absent))
    assert (check.verdict, check.reason) == ("SKIPPED", "absent: no liger-kernel")


def test_a_gpu_that_is_lost_leaves_what_was_timed_and_its_culprit(device) -> None:
    """After an illegal access every call of the process fails; the entry names whose it was."""
    lost = []

    def fatal(problem):
        lost.append(True)
        raise RuntimeError(f"{LOST}\nmore")

    class Breaking(type(device)):
        def elapsed_us(self, work, times: int) -> float:
            if lost:
                raise RuntimeError(LOST)
            return super().elapsed_us(work, times)

    _, found = measured(Breaking(), contender("eager", eager), contender("rival", fatal))
    assert (found["rival"].status, found["rival"].reason) == ("FAILED", f"RuntimeError: {LOST}")
    assert (found["eager"].status, found["eager"].reason) == (
        "SKIPPED",
        f"not timed: RuntimeError: {LOST}",
    )


def test_a_group_that_cannot_run_leaves_the_next_its_turn(device) -> None:
    def lost():
        raise RuntimeError(LOST)

    class Small(type(device)):
        free_bytes = 1 << 10

    groups = {"kernel": lambda: [contender(OURS, eager)], "broken": lambda: []}
    groups["eager"] = lambda: [contender("eager", eager)]
    cases = [(SHAPE, "fp16")]
    for where, verdict, said in (
        (device, "PASS", ""),
        (Small(), "SKIPPED", "GB of the GPU's memory"),
    ):
        first, _, last = bench(where, groups, cases, PLAN)
        assert (first.verdict, last.verdict) == (verdict, verdict)
        assert said in last.reason
        assert last.name == "small fp16, eager"


def test_a_rival_is_timed_beside_the_form_that_does_the_same(device) -> None:
    own = own_forms(device, None)
    for pairing, coefficients, expected in (
        ("interleaved", "matrices", "ours"),
        ("interleaved", "tables", "ours, tables"),
        ("half", "tables", "ours, tables, halves"),
    ):
        rival = Routine("rival", None, pairing, coefficients)
        assert [c.name for c in beside([rival], own)] == [expected, "rival"]
    absent = Routine("absent", None, "", "")
    assert beside([absent], own) == [absent]


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
    assert beyond_rounding(one, eager(one), "interleaved") == ""


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_what_no_rounding_explains_is_wrong(dtype) -> None:
    problem = make_problem(SHAPE, dtype, CPU, 0)
    q, k = eager(problem)
    nan = k.clone()
    nan[0, 0, 0, 0] = torch.nan
    assert "q: relative L2" in beyond_rounding(problem, (q, k), "half")
    for outputs, said in (
        ((q, nan), "k: relative L2 distance nan"),
        ((q * (1 + 2 * bound(q.dtype)), k), "q: relative L2"),
        ((q[:1], k), "expected"),
        ((q.double(), k), "expected"),
    ):
        assert said in beyond_rounding(problem, outputs, "interleaved")


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_all_arithmetic_in_the_type_is_within_the_bound(dtype) -> None:
    """The coarsest that a rival does: tables, products and sums, each rounded to the type."""
    problem = make_problem(Shape("a", 1, 8, 8, 64, 64), dtype, CPU, 0)
    tables = [table.to(problem.q.dtype) for table in (problem.cos, problem.sin)]
    outputs = [rotated_by_tables(x, *tables, "interleaved") for x in (problem.q, problem.k)]
    assert beyond_rounding(problem, outputs, "interleaved") == ""


def entrant(name: str, moved: int, *rounds_us: float, **options) -> Entrant:
    calls = [Call(None, moved)]
    return Entrant(Routine(name, None, **options), calls=calls, rounds_us=rounds_us)


def test_records_have_shares_and_ratios() -> None:
    entrants = [
        entrant(OURS, 1000, 10.0, 10.0, 12.0),
        entrant("eager", 1000, 20.0),
        entrant(COPY, 1000, 9.0),
        entrant("copy, launched", 2000, 22.0),
    ]
    ours, eager, copy, launched = timings(entrants)
    assert ours.time_us == 10.0
    assert ours.spread == pytest.approx(0.2)
    assert ours.copy_share == pytest.approx(0.9)
    assert ours.ratio == ours.equal_bytes == 1.0
    assert eager.ratio == 2.0
    assert eager.copy_share == pytest.approx(9.0 / 20.0)
    assert (copy.copy_share, launched.copy_share) == (1.0, pytest.approx(9.0 / 11.0))


def test_like_is_compared_with_like() -> None:
    """A rival with tables is compared with the kernel's form of tables, byte for byte."""
    tables = {"coefficients": "tables"}
    halves = tables | {"pairing": "half"}
    entrants = [
        entrant(OURS, 118_000, 40.0),
        entrant("ours, tables", 115_600, 39.0, **tables),
        entrant("ours, tables, halves", 115_600, 38.0, **halves),
        entrant("FlashInfer", 115_600, 39.0, **tables),
        entrant("FlashInfer, halves", 115_600, 39.0, **halves),
        entrant("Liger", 114_400, 38.0, **halves),
        entrant("torch.compile", 118_000, 44.0),
        entrant("another", 118_000, 44.0, pairing="half"),
    ]
    found = {timing.name: timing for timing in timings(entrants)}
    assert [found[e.routine.name].beside for e in entrants] == [
        *(OURS, "ours, tables", "ours, tables, halves", "ours, tables", "ours, tables, halves"),
        *("ours, tables, halves", OURS, ""),
    ]
    assert found["FlashInfer"].equal_bytes == 1.0
    assert found["FlashInfer, halves"].equal_bytes == pytest.approx(39 / 38)
    assert found["Liger"].ratio == 1.0
    # as quick, but with smaller tables: a byte of it takes longer
    assert found["Liger"].equal_bytes == pytest.approx(115.6 / 114.4)
    assert found["another"].ratio is found["another"].equal_bytes is None
    assert found["Liger"].copy_share is None  # without a copy


@pytest.mark.parametrize(
    ("pass_us", "sets", "expected"),
    [(120.0, 3, 42), (1e6, 3, 1), (0.5, 111, 18), (0.0, 2, 1000), (1.0, 5000, 1)],
)
def test_passes_of_a_graph(pass_us, sets, expected) -> None:
    assert passes_of(pass_us, sets, Plan()) == expected
