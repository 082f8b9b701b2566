"""What norms and rotates on a GPU, on the host: the kernel walked, rivals by what they document."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from liger_standins import LigerRMSNormFunction, LigerRopeFunction

from benchmarks.gpu import norms, timing
from benchmarks.gpu.shapes import Shape

pytestmark = pytest.mark.plugin  # nvcc compiles the kernel for the host
CPU = torch.device("cpu")
SHAPE = Shape("one", 1, 6, 2, 9, 64)


def test_the_kernel_is_near_float64_and_repeats(device, host_kernel) -> None:
    checks = [*norms.norm_checks(device, host_kernel)]
    assert [(check.verdict, check.cases) for check in checks] == [("PASS", 24)] * 3, checks
    assert len({check.name for check in checks}) == 3


@pytest.mark.parametrize("together", [False, True])
def test_every_way_is_held_to_float64(device, host_kernel, together) -> None:
    problem = norms.make_norm_problem(SHAPE, "fp16", CPU, 0, across_heads=together)
    routines = norms.norm_groups(device, host_kernel)["kernel"]()
    for routine in routines:
        assert routine.wrong(problem, routine.prepare(problem).run()) == "", routine.name
    names = [routine.name for routine in routines]
    assert names[:5] == [
        "ours", "ours, tables", "ours, tables, halves", "norms, then ours", "copy",
    ]  # fmt: skip
    assert sum(name.startswith("ours") for name in names) == 3


@pytest.mark.parametrize("fault", ["scale", "epsilon", "one head", "tables"])
def test_another_result_is_wrong(device, host_kernel, fault) -> None:
    problem = norms.make_norm_problem(SHAPE, "fp16", CPU, 0)
    problem = replace(problem, q=problem.q * 1e-3)  # where an epsilon counts
    routine = norms.norm_groups(device, host_kernel)["kernel"]()[0]
    other = {
        "scale": replace(problem, k_scale=problem.k_scale.roll(1)),
        "epsilon": replace(problem, q=problem.q * 2),
        "one head": replace(problem, k=problem.k.flip(1)),
        "tables": replace(problem, pe=problem.pe.mT.contiguous()),
    }[fault]
    assert routine.wrong(problem, routine.prepare(problem).run()) == ""
    assert "relative L2 distance" in routine.wrong(problem, routine.prepare(other).run())


def test_liger(device, monkeypatch) -> None:
    for name, function in (("rms_norm", LigerRMSNormFunction), ("rope", LigerRopeFunction)):
        module = ModuleType(f"liger_kernel.ops.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    (routine,) = norms.liger()
    problem = norms.make_norm_problem(SHAPE, "fp16", CPU, 0)
    before = problem.q.clone()
    assert routine.wrong(problem, routine.prepare(problem).run()) == ""
    assert torch.equal(problem.q, before)


def test_they_are_timed_side_by_side(device, host_kernel) -> None:
    plan = timing.Plan(rounds=1, batches=1, batch_us=1.0, graph_us=1.0, most_calls=2)
    groups = {"kernel": norms.norm_groups(device, host_kernel)["kernel"]}
    (check,) = timing.bench(device, groups, [(SHAPE, "bf16")], plan, norms.make_norm_problem)
    assert check.verdict == "PASS", check.reason
    assert all(timed.status == "TIMED" for timed in check.timings), check.timings
    assert {t.beside for t in check.timings if t.name in ("eager", "norms, then ours")} == {"ours"}
