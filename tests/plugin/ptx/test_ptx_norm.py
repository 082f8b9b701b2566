"""The compiled PTX of the norm against the host's walk, bit for bit, and faults planted in it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from plugin.host_norm import Call, HostNorm
from plugin.norm_calls import FORMS, Sizes, beside, make
from plugin.norm_reference import DTYPES
from plugin.ptx.compiled import Build, Edit
from plugin.ptx.norm_trial import NormTrial
from plugin.ptx.trial import Finding

MANY_HEADS = (1 << 30, 1, 12)  # a thread, however few blocks that makes
COLUMN, SPAN = "include/ropeexport/norm_column.cuh", "include/ropeexport/norm_span.cuh"
LAUNCHING = "include/ropeexport/norm_rope.cuh"


@pytest.fixture(scope="session")
def norm(plugin_folder) -> HostNorm:
    return HostNorm(plugin_folder / "test" / "libropeexport_host_norm.so")


# what a case has beside its form and type
CASES: dict[str, dict[str, object]] = {
    "rows": {"sizes": Sizes(2, 6, 3, 5, 128), "layout": "BLHD"},
    "rows, a scale of float32": {"sizes": Sizes(2, 6, 3, 5, 64), "scale": "float32"},
    "rows with idle lanes": {"sizes": Sizes(2, 5, 2, 7, 96), "layout": "BLHD"},
    "rows of pairs": {"sizes": Sizes(2, 5, 2, 7, 44), "scale": "float32"},
    "rows wider than a warp": {"sizes": Sizes(1, 3, 1, 3, 640)},
    "tokens": {"sizes": Sizes(2, 6, 3, 3, 64), "layout": "BLHD", "across_heads": True},
    "tokens, a scale of float32": {
        **{"sizes": Sizes(2, 6, 0, 3, 96), "layout": "BLHD", "across_heads": True},
        "scale": "float32",
    },
    "tokens of many units": {
        **{"sizes": Sizes(1, 72, 1, 2, 128), "layout": "BLHD", "across_heads": True}
    },
}


def call_of(form: str, dtype: str, case: str) -> Call:
    return make(form, dtype, **CASES[case])


def run(build: Build, norm: HostNorm, call: Call) -> list[Finding]:
    return NormTrial(call, MANY_HEADS).run(build, norm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_walk_of_the_host(norm_build, norm, dtype, form, case) -> None:
    assert run(norm_build, norm, call_of(form, dtype, case)) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 2])
@pytest.mark.parametrize("case", ["rows", "tokens", "rows, a scale of float32"])
def test_unaligned_data(norm_build, norm, dtype, offset, case) -> None:
    for form in ("matrices", "tables", "tables, halves"):
        call = make(form, dtype, **{**CASES[case], "layout": "BHLD"})
        call = replace(call, data=[beside(x, offset) for x in call.data])
        assert run(norm_build, norm, call) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("across_heads", [False, True])
def test_in_place(norm_build, norm, dtype, across_heads) -> None:
    call = make("tables, halves", dtype, Sizes(heads=9), across_heads=across_heads)
    assert run(norm_build, norm, replace(call, out=call.data)) == []


def test_several_launches(norm_build, norm) -> None:
    for across_heads in (False, True):
        call = make("tables", "float16", Sizes(3, 4, 2, 5, 72), across_heads=across_heads)
        trial = NormTrial(call, (8 if across_heads else 20, 1, 12))
        assert len(trial.launches(norm_build)) > 1
        assert trial.run(norm_build, norm) == []


def every_call() -> Iterator[Call]:
    """Yield calls of every kernel: each width of each form and type, of rows and of tokens."""
    kinds = itertools.product(("matrices", "tables", "tables, halves"), DTYPES, (False, True))
    for form, dtype, across_heads in kinds:
        call = make(form, dtype, Sizes(1, 2, 1, 2, 64), across_heads=across_heads)
        for offset in (0, 1, 2):
            yield replace(call, data=[beside(x, offset) for x in call.data])


def test_every_kernel_of_the_plugin_is_run(norm_build, norm) -> None:
    runs: Counter[str] = Counter()
    for call in every_call():
        trial = NormTrial(call, MANY_HEADS)
        runs.update({launch.kernel for launch in trial.launches(norm_build)})
        assert trial.run(norm_build, norm) == []
    assert set(runs) == set(norm_build.kernels)
    assert len(runs) == 3 * 3 * 3 * 2  # forms, types, widths, of rows and of tokens


@dataclass(frozen=True)
class Planted:
    """A fault, a case that meets it, and the checks that find it, all of them."""

    name: str
    edit: Edit
    case: str
    checks: set[str]

    def __str__(self) -> str:
        return self.name


PLANTED = (
    Planted(
        "a step of the butterfly left out",
        Edit(COLUMN, "step = kLanes / 2;", "step = kLanes / 8;"),
        "rows",
        {"values"},
    ),
    Planted(
        "lanes without a unit gone before the shuffle",
        Edit(
            COLUMN,
            "  while (column.has_heads()) {",
            "  while (thread % 16 < work.row_units && column.has_heads()) {",
        ),
        "rows with idle lanes",
        {"ExchangeError"},
    ),
    Planted(
        "no barrier before the sum of the warps",
        Edit(SPAN, "  __syncthreads();\n", ""),
        "tokens of many units",
        {"ExchangeError"},
    ),
    Planted(
        "the last warp left out of the sum",
        Edit(SPAN, "warp < threads / kLanes;", "warp + 1 < threads / kLanes;"),
        "tokens of many units",
        {"values"},
    ),
    Planted(
        "the rounding before the scale where there is none",
        Edit(COLUMN, "!norm().scale_is_wide", "norm().scale_is_wide"),
        "rows",
        {"values"},
    ),
    Planted(
        "blocks of fewer threads",
        Edit(LAUNCHING, "work.span_threads, work)", "work.span_threads / 2, work)"),
        "tokens of many units",
        {"ExchangeError"},
    ),
    Planted(
        "blocks of more threads than the kernel is compiled for",
        Edit(LAUNCHING, "work.span_threads, work)", "work.span_threads * 2, work)"),
        "tokens of many units",
        {"launch"},
    ),
)


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_a_planted_fault_is_found(norm_build, norm, planted) -> None:
    call = call_of("tables", "float16", planted.case)
    trial = NormTrial(call, MANY_HEADS)
    assert trial.run(norm_build, norm) == []
    faulty = Build(trial.form, [planted.edit], "fp16", normed=True)
    findings = run(faulty, norm, call)
    assert {finding.check for finding in findings} == planted.checks, findings
