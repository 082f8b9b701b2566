"""Engines: what the product's answers are taken for, on a machine where none can run."""

from __future__ import annotations

import pytest

from benchmarks.gpu.engines import Engine, check_of_report, engines
from ropeexport import check
from ropeexport.errors import MissingError
from ropeexport.machine import find_gpu
from ropeexport.parity.records import CaseRecord, Comparison, RuntimeRecord
from ropeexport.trt.flavour import available_flavours


def engine(not_run: str = "FAIL") -> Engine:
    return Engine(dtype="fp16", flavour="tensorrt", implementation="native", not_run=not_run)


@pytest.fixture(scope="module")
def report(export_once):
    return check(export_once(), cases=1, runtimes="onnxruntime")


def answered(report, status: str, *, ran: bool):
    """Return a report with what tensorrt is said to have done."""
    runtime = RuntimeRecord(
        name="tensorrt", implementation="", version="", device="cuda", status=status, reason="why"
    )
    case = CaseRecord(name="a", kind="a", sizes={}, seed=0)
    numbers = next(c.numbers for c in report.comparisons if c.numbers is not None)
    compared = Comparison(
        runtime="tensorrt", implementation="", output="out", case=case, status=status,
        numbers=numbers if ran else None,
    )  # fmt: skip
    return report.model_copy(
        update={
            "runtimes": (*report.runtimes, runtime),
            "comparisons": (*report.comparisons, compared),
        }
    )


@pytest.mark.parametrize(
    ("status", "ran", "not_run", "expected"),
    [
        ("PASS", True, "REFUSED", "PASS"),
        ("FAIL", True, "REFUSED", "FAIL"),  # wrong numbers fail on any GPU
        ("FAIL", False, "REFUSED", "REFUSED"),
        ("FAIL", False, "FAIL", "FAIL"),
        ("PASS", False, "FAIL", "FAIL"),  # no numbers are no proof
        ("SKIPPED", False, "FAIL", "SKIPPED"),
        ("NOT_SUPPORTED", False, "FAIL", "SKIPPED"),
    ],
)
def test_a_report_is_read(report, status, ran, not_run, expected) -> None:
    found = check_of_report(answered(report, status, ran=ran), engine(not_run))
    assert (found.verdict, found.reason, found.cases) == (expected, "why", int(ran))


class NoPlugin:
    """A compiler on a machine without CMake."""

    def plugin(self):
        raise MissingError("no cmake")


@pytest.mark.trt
@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_without_a_gpu_engines_are_built_and_nothing_is_proven() -> None:
    if not available_flavours():
        pytest.skip("needs TensorRT-RTX: pip install 'ropeexport[cpu]'")
    plugin, *others = engines(NoPlugin(), "9.0", ("fp16",))
    assert (plugin.verdict, plugin.reason) == ("SKIPPED", "no cmake")
    assert [check.name for check in others] == [
        "tensorrt-rtx native fp16",
        "tensorrt-rtx decomposed fp16",
    ]
    for found in others:
        assert found.verdict in ("SKIPPED", "REFUSED")
        assert "GPU" in found.reason
