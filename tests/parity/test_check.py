"""``check`` from end to end: what is right passes, each fault fails, what did not run says so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from parity import mutants

from ropeexport import manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import ParityError
from ropeexport.models import sources
from ropeexport.parity import check as checks
from ropeexport.parity import report as reports
from ropeexport.parity.cases import select
from ropeexport.parity.check import Options, check
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.records import Report
from ropeexport.runners.eager import EagerRunner
from ropeexport.runners.runner import Arrays, Facts, Runner
from ropeexport.runners.torch_arrays import array_from, tensor_from

FEW = Options(count=12)
DTYPES = ("fp32", "fp16", "bf16")


def runtime(report: Report, name: str):
    return next(r for r in report.runtimes if r.name == name)


@pytest.mark.parametrize(
    "model", ["flux-attention", "flux-self-attention", "flux-self-attention-ids"]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_export_passes(exported, model: str, dtype: str) -> None:
    options = replace(FEW, runtimes=("onnxruntime", "tensorrt"))
    report = check(Artifact.read(exported(model, dtype)), options=options)
    assert runtime(report, "eager").status == "PASS"
    stock = runtime(report, "onnxruntime")
    if dtype == "bf16" and "no kernel" in stock.reason:
        assert (stock.status, report.verdict) == ("SKIPPED", "FAIL")
        assert "nothing was compared" in report.reason
    else:
        assert (stock.status, report.verdict) == ("PASS", "PASS"), stock.reason
    assert (runtime(report, "tensorrt").status, runtime(report, "tensorrt").implementation) == (
        "SKIPPED", "",
    )  # fmt: skip


class Mutant(Runner):
    """A runtime that computes an attention of the catalogue."""

    def __init__(self, attention, implementation: str = "mutant") -> None:
        self._attention = attention
        self.facts = Facts(implementation=(implementation,))

    def call(self, loaded: Arrays) -> dict[str, np.ndarray]:
        tensors = [tensor_from(loaded[name]) for name in ("q", "k", "v", "pe")]
        return {"out": array_from(self._attention(*tensors))}


@pytest.fixture(scope="module", params=DTYPES)
def verdicts(request, export_once) -> dict[str, set[str]]:
    """Judge every attention of the catalogue in the designed cases of up to length 65."""
    folder = export_once(dtype=request.param)
    record = manifest.read(folder)
    module = sources.rebuild_example(Artifact(folder, record)).module
    cases = [case for case in select(record).cases if case.sizes["length"] <= 65]
    contenders = [Contender(a.__name__, Mutant(a)) for a in (*mutants.RIGHT, *mutants.FAULTS)]
    found: dict[str, set[str]] = {}
    with EagerRunner(module, ["out"]) as eager, torch.no_grad():
        judge = Judge(record, Oracle(module, ["out"]), eager)
        for case in cases:
            for comparison in judge.judge(case, contenders):
                found.setdefault(comparison.runtime, set()).add(comparison.status)
    return found


@pytest.mark.parametrize("fault", mutants.FAULTS, ids=lambda f: f.__name__)
def test_each_fault_is_caught(verdicts, fault) -> None:
    assert "FAIL" in verdicts[fault.__name__]


@pytest.mark.parametrize("attention", mutants.RIGHT, ids=lambda f: f.__name__)
def test_what_is_right_is_never_failed(verdicts, attention) -> None:
    assert verdicts[attention.__name__] == {"PASS"}


def test_native_is_held_to_rotations(exported, monkeypatch) -> None:
    contender = Contender("tensorrt", Mutant(mutants.correct, "native"))
    monkeypatch.setattr(checks, "open_contenders", lambda *_: [contender])
    report = check(Artifact.read(exported()), options=FEW)
    statuses = {
        (c.case.kind, c.status)
        for c in report.comparisons
        if c.case is not None and c.runtime == "tensorrt"
    }
    assert statuses == {
        ("random matrices", "NOT_SUPPORTED"),
        ("random rotations", "PASS"),
        ("flux positions", "PASS"),
    }
    assert runtime(report, "tensorrt").status == "PASS"


def test_a_changed_file_is_compared_and_said_to_be_changed(exported) -> None:
    folder = exported("flux-self-attention", "fp32")
    proto = onnx.load(folder / "model.onnx")
    scale = next(i for i in proto.graph.initializer if i.name.endswith("query_norm.scale"))
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 1.5, scale.name))
    onnx.save(proto, folder / "model.onnx")
    report = check(Artifact.read(folder), options=FEW)
    assert report.notes == ("model.onnx is not the file that was exported: its hash differs",)
    # the oracle's weights are the file's own, so only the graph is on trial
    assert report.verdict == "PASS"


def test_weights_come_from_the_file_not_from_a_new_draw(exported) -> None:
    folder = exported("flux-self-attention", "fp32")
    record = manifest.read(folder)
    module = sources.rebuild_example(Artifact(folder, record)).module
    stored = {
        i.name: numpy_helper.to_array(i) for i in onnx.load(folder / "model.onnx").graph.initializer
    }
    for name, parameter in module.named_parameters():
        assert np.array_equal(parameter.detach().numpy(), stored[name])


def test_user_code_is_imported_only_when_named(exported) -> None:
    reference = "tests/user_models.py:grouped_attention"
    folder = exported(reference)
    with pytest.raises(ParityError, match="--module"):
        check(Artifact.read(folder), options=FEW)
    assert check(Artifact.read(folder), reference, FEW).verdict == "PASS"


def test_an_interruption_keeps_what_is_done(exported, monkeypatch) -> None:
    original, calls = Judge.judge, []

    def interrupted(self, case, contenders):
        calls.append(case)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, case, contenders)

    monkeypatch.setattr(Judge, "judge", interrupted)
    report = check(Artifact.read(exported()), options=FEW)
    assert (report.verdict, report.complete) == ("FAIL", False)
    assert len({c.case.name for c in report.comparisons if c.case}) == 3


def test_a_users_own_bound_replaces_ours(exported) -> None:
    strict = check(Artifact.read(exported()), options=Options(count=3, atol=0.0, rtol=0.0))
    assert strict.verdict == "FAIL"
    assert {c.bound.rule for c in strict.comparisons if c.bound} == {"override"}


def test_the_report_is_json_that_reads_back(exported, tmp_path) -> None:
    report = check(Artifact.read(exported()), options=Options(count=3))
    path = reports.write(tmp_path, report)
    assert Report.model_validate_json(path.read_text()) == report
    data = json.loads(path.read_text())
    assert data["schema_version"] == 1
    assert {"runtime", "output", "status", "numbers", "bound", "case"} <= set(
        data["comparisons"][0]
    )
