"""The table of runtimes: names, what each needs, and what reads it."""

from __future__ import annotations

import dataclasses
import sys
from pkgutil import resolve_name
from types import SimpleNamespace

import pytest
from command_line import ropeexport
from made_tensorrt import A_GPU

from ropeexport.artifact import Artifact
from ropeexport.cli.proving import check_command
from ropeexport.doctor import examine
from ropeexport.errors import MissingError, UsageError
from ropeexport.manifest import Implementation
from ropeexport.parity.check import Options, check
from ropeexport.parity.records import describe
from ropeexport.runners import registry, trt
from ropeexport.runners.registry import CPU, CUDA, Opening, Runtime
from ropeexport.runners.runner import ROTATIONS_ONLY, Facts, Runner

NAMES = ("onnxruntime", "openvino", "tensorrt")


class Spoiling(Runner):
    """onnxruntime, a little wrong: a runtime as somebody might add it."""

    facts = Facts("7.0", ("by hand",), provider="abacus", device="cpu", precision=("float16",))

    def __init__(self, opening: Opening) -> None:
        self._right = registry.find("onnxruntime").open(opening)
        self.factor = 1.0

    def __enter__(self):
        self._right.__enter__()
        return self

    def call(self, loaded):
        return {name: x * x.dtype.type(self.factor) for name, x in self._right.run(loaded).items()}


@pytest.fixture
def added(monkeypatch) -> Runtime:
    """A row more, whose file is this one."""
    monkeypatch.setitem(sys.modules, "abacus_runner", SimpleNamespace(opened=Spoiling))
    row = Runtime("abacus", "the abacus", opens="abacus_runner:opened", packages=("numpy",))
    monkeypatch.setattr(registry, "RUNTIMES", (*registry.RUNTIMES, row))
    return row


def test_a_row_is_all_that_check_and_doctor_need(added, export_once, monkeypatch) -> None:
    options = Options(count=4, runtimes=("abacus",))
    report = check(Artifact.read(export_once()), options=options)
    found = next(r for r in report.runtimes if r.name == "abacus")
    assert report.verdict == "PASS"
    assert [r.name for r in report.runtimes] == ["eager", "abacus"]
    assert (found.version, found.provider, found.device) == ("7.0", "abacus", "cpu")
    assert (found.precision, found.implementations) == (("float16",), ("by hand",))
    assert "abacus" in {item.name for item in examine().items}
    assert "abacus" in registry.names()
    monkeypatch.setattr(Spoiling, "call", lambda self, x: {"out": 2 * self._right.run(x)["out"]})
    assert check(Artifact.read(export_once()), options=options).verdict == "FAIL"


def test_a_type_that_a_runtime_does_not_run_is_skipped_by_name(added, export_once, monkeypatch):
    rows = (*registry.RUNTIMES[:-1], dataclasses.replace(added, dtypes=("float32",)))
    monkeypatch.setattr(registry, "RUNTIMES", rows)
    report = check(
        Artifact.read(export_once()), options=Options(count=2, runtimes=("abacus", "onnxruntime"))
    )
    found = next(r for r in report.runtimes if r.name == "abacus")
    assert (found.status, found.reason) == ("SKIPPED", "the abacus does not run float16")


def test_names_of_the_command_line() -> None:
    by_name = {option.name: option for option in check_command.params}
    for option in ("require", "runtimes"):
        assert tuple(by_name[option].type.choices) == registry.names()
    assert {name.partition(":")[0] for name in registry.names()} == set(NAMES)
    assert "onnxruntime:cuda" in registry.names()


def test_choices() -> None:
    def names(*arguments) -> list[str]:
        return [each.name for each in registry.choices(*arguments)]

    assert names() == list(NAMES)
    assert names(["openvino"]) == ["openvino"]
    assert names(["openvino"], ["onnxruntime:cpu", "openvino"]) == ["openvino", "onnxruntime:cpu"]
    assert names([], ["onnxruntime:openvino"]) == [*NAMES, "onnxruntime:openvino"]
    for wrong in ("onxruntime", "EMULATED", "openvino:cuda", ""):
        with pytest.raises(UsageError, match="expected a runtime, one of onnxruntime, "):
            registry.choice(wrong)


def test_what_emulates_a_runtime_takes_its_place_for_its_types_only(export_once) -> None:
    (emulation,) = registry.substitutes(registry.find("onnxruntime"))
    assert not emulation.is_idle_for(["float32", "bfloat16"])
    assert emulation.is_idle_for(["float32", "float16"])
    only = Options(count=2, runtimes=("openvino",))
    report = check(Artifact.read(export_once(dtype="bf16")), options=only)
    assert [r.name for r in report.runtimes] == ["eager", "openvino"]


def test_a_runtime_is_required_on_a_device(monkeypatch) -> None:
    registry.find("onnxruntime").require("cpu")
    with pytest.raises(MissingError, match="OpenVINO runs on a CPU: use --device cpu"):
        registry.find("openvino").require("cuda")
    monkeypatch.setattr(trt, "find_gpu", lambda: None)
    with pytest.raises(MissingError, match="no NVIDIA GPU"):
        registry.find("tensorrt").require("cpu")
    monkeypatch.setattr(trt, "find_gpu", lambda: A_GPU)
    with pytest.raises(MissingError, match="TensorRT runs on a GPU: use --device cuda"):
        registry.find("tensorrt").require("cpu")
    registry.find("tensorrt").require("cuda")


def test_a_provider_that_is_not_here_is_skipped_with_its_reason(export_once) -> None:
    asked = ("onnxruntime:cpu", "onnxruntime:cuda", "onnxruntime:openvino")
    report = check(Artifact.read(export_once()), options=Options(count=2, runtimes=asked))
    found = {r.name: r for r in report.runtimes}
    assert report.verdict == "PASS"
    assert (found["onnxruntime:cpu"].status, found["onnxruntime:cpu"].provider) == (
        "PASS", CPU.executes,
    )  # fmt: skip
    assert found["onnxruntime:cuda"].status in ("PASS", "SKIPPED")
    if found["onnxruntime:cuda"].status == "SKIPPED":
        assert CUDA.executes in found["onnxruntime:cuda"].reason
    assert report.command.endswith("".join(f" --runtime {name}" for name in asked))


def test_a_required_runtime_takes_part_whatever_was_chosen(export_once, tmp_path) -> None:
    import shutil

    folder = shutil.copytree(export_once(), tmp_path / "out")
    asked = ("--runtime", "onnxruntime", "--require", "onnxruntime:tensorrt-rtx", "--cases", "2")
    done = ropeexport("check", folder, *asked)
    assert done.returncode == 3
    assert "onnxruntime:tensorrt-rtx was required: SKIPPED" in done.stderr


def test_implementations_that_are_right_for_rotations_only() -> None:
    from typing import get_args

    assert set(get_args(Implementation)) >= ROTATIONS_ONLY
    assert Facts(implementation=("native", "plugin")).rotations_only
    assert Facts(implementation=("native", "plugin")).made_of == "native+plugin"
    assert not Facts(implementation=("alternative",)).rotations_only
    assert not Facts().rotations_only


def test_a_report_lists_the_versions_of_all_runtimes() -> None:
    assert {"onnxruntime", "tensorrt-rtx", "openvino"} <= set(registry.distributions())
    assert describe().packages.keys() >= {"torch", "onnx", "numpy"}


@pytest.mark.parametrize("runtime", registry.RUNTIMES, ids=lambda r: r.name)
def test_every_row_names_functions_that_are_there(runtime: Runtime) -> None:
    for reference in (runtime.opens, runtime.needs, runtime.looks):
        assert not reference or callable(resolve_name(reference))
    assert set(runtime.devices) <= {"cpu", "cuda"}
