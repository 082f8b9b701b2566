"""Engines: the commands that are run, and what their answers are taken for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import engines as module
from benchmarks.gpu.engines import (
    DTYPES,
    IMPLEMENTATIONS,
    Engines,
    engine_records,
    find_flavours,
    message_of,
    read_check,
)
from benchmarks.gpu.verdict import FAIL, PASS, REFUSED, SKIPPED, Skipped

RTX = "tensorrt-rtx"


def report(status: str, reason: str = "", numbers: object = None) -> str:
    case = None if numbers is None else {"name": "a"}
    comparison = {"runtime": "tensorrt", "case": case, "numbers": numbers}
    runtimes = [{"name": "onnxruntime", "status": "PASS", "reason": ""}]
    runtimes.append({"name": "tensorrt", "status": status, "reason": reason})
    return json.dumps({"runtimes": runtimes, "comparisons": [comparison]})


class Commands:
    """Answers each verb as told, and keeps what was asked."""

    def __init__(self, **answers: tuple[int, str, str]) -> None:
        good = {"export": (0, "", ""), "build": (0, "", "")}
        self.answers = good | {"check": (0, report("PASS", numbers={}), "")} | answers
        self.asked: list[list[str]] = []

    def __call__(self, arguments) -> tuple[int, str, str]:
        self.asked.append(list(arguments))
        if arguments[0] == "export":
            Path(arguments[3]).mkdir(parents=True, exist_ok=True)
        return self.answers[arguments[0]]


@pytest.fixture
def engines(tmp_path) -> Engines:
    return Engines(tmp_path / "engines", "8.9", tmp_path / "plugin.so")


def records(engines: Engines, commands: Commands, *flavours: str) -> list[dict]:
    return list(engine_records(flavours or (RTX,), engines, lambda text: None, commands))


def test_every_type_and_implementation_is_built_and_checked(engines) -> None:
    commands = Commands()
    found = records(engines, commands)
    assert [(r["dtype"], r["implementation"]) for r in found] == [
        (dtype, implementation) for dtype in DTYPES for implementation in IMPLEMENTATIONS
    ]
    assert {(r["stage"], r["verdict"], r["message"]) for r in found} == {("check", PASS, "")}
    builds = [asked for asked in commands.asked if asked[0] == "build"]
    assert builds[0][2:] == ["--impl", "plugin", "--flavour", RTX, "--force", "--plugins",
                             str(engines.plugin)]  # fmt: skip
    assert "--plugins" not in builds[1]
    checks = [asked for asked in commands.asked if asked[0] == "check"]
    assert all(asked[2:] == ["--require", "tensorrt", "--json"] for asked in checks)
    assert len({asked[1] for asked in checks}) == 9


def test_models_that_were_exported_beforehand_are_not_exported(engines, tmp_path) -> None:
    (tmp_path / "given" / "fp16").mkdir(parents=True)
    commands = Commands()
    given = replace(engines, exported=tmp_path / "given")
    found = records(given, commands)
    assert all(asked[0] != "export" for asked in commands.asked)
    by_type = {dtype: {r["verdict"] for r in found if r["dtype"] == dtype} for dtype in DTYPES}
    assert by_type == {"fp32": {FAIL}, "fp16": {PASS}, "bf16": {FAIL}}
    assert found[0]["message"].endswith("fp32: no such folder")


def test_without_a_plugin_the_others_still_run(engines) -> None:
    without = replace(engines, plugin=None, plugin_reason="MISSING: cmake", quick=True)
    found = records(without, Commands())
    assert [(r["verdict"], r["message"]) for r in found] == [
        (SKIPPED, "MISSING: cmake"), (PASS, ""), (PASS, "")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("capability", "flavour", "expected"),
    [("8.9", RTX, FAIL), ("9.0", RTX, REFUSED), ("9.0", "tensorrt", FAIL)],
)
@pytest.mark.parametrize(
    "answers",
    [
        {"build": (1, "", "  note\nerror: model.onnx: built no engine: unsupported SM\n")},
        {"check": (1, report("FAIL", "model.engine: cannot be loaded: unsupported SM"), "")},
        {"check": (-6, "", "terminate called\nunsupported SM\n")},
    ],
)
def test_a_gpu_that_is_not_named_refuses(engines, capability, flavour, expected, answers) -> None:
    here = replace(engines, compute_capability=capability, quick=True)
    for record in records(here, Commands(**answers), flavour):
        assert record["verdict"] == expected
        assert "unsupported SM" in record["message"]


def test_wrong_numbers_fail_on_any_gpu(engines) -> None:
    answer = (1, report("FAIL", "out: too far", numbers={"max_abs": 1.0}), "")
    here = replace(engines, compute_capability="9.0", quick=True)
    found = records(here, Commands(check=answer))
    assert {(r["verdict"], r["message"]) for r in found} == {(FAIL, "out: too far")}


def test_a_runtime_that_did_not_run_is_skipped() -> None:
    checked = read_check(3, report("SKIPPED", "no NVIDIA GPU"), "")
    assert (checked.verdict, checked.message) == (SKIPPED, "no NVIDIA GPU")


@pytest.mark.parametrize("output", ["", "{", json.dumps({"runtimes": [], "comparisons": []})])
def test_no_report_is_no_success(output) -> None:
    assert read_check(0, output, "").verdict == FAIL


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("", "it said nothing"),
        ("a\n\nb\nc\nd\n", "b / c / d"),
        ("note\nerror: first\nerror: last\nmore\n", "last"),
    ],
)
def test_the_message_of_a_command(errors, expected) -> None:
    assert message_of(errors) == expected


@pytest.mark.parametrize(
    ("absent", "said"),
    [({"pydantic"}, "MISSING: pydantic"), ({"tensorrt_rtx", "tensorrt"}, "MISSING: tensorrt-rtx")],
)
def test_what_is_missing_is_named(monkeypatch, absent, said) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in absent else object())
    with pytest.raises(Skipped, match=said):
        find_flavours()


def test_installed_flavours(monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "tensorrt" else object())
    assert find_flavours() == [RTX]
