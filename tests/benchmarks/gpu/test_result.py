"""The result file: its schema, its name, and how a second run joins it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.gpu import result
from benchmarks.gpu.compiler import ROOT
from benchmarks.gpu.machine import Machine, driver_version, slug
from benchmarks.gpu.origin import Origin
from benchmarks.gpu.verdict import FAIL, PASS, Check
from ropeexport.errors import UsageError

MACHINE = Machine("NVIDIA H100 80GB HBM3", "9.0", "580.159.04", {"torch": "2.11.0"})
ORIGIN = Origin("c0ffee", changed=False, sources="0123456789abcdef")
KEYS = {
    *("schema_version", "date", "gpu", "compute_capability", "driver", "versions", "verdicts"),
    *("commit", "changed", "sources"),
    *("bit_exact", "exactness", "sanitizer", "sanitizer_checks", "engines", "bench", "targets"),
}


def test_an_empty_document_has_every_key_and_proves_nothing() -> None:
    document = result.empty(MACHINE, ORIGIN, "2026-11-24")
    assert set(document) == KEYS
    assert document["bit_exact"] is None
    assert document["sanitizer"] is None


def test_the_name_is_of_gpu_day_and_sources(tmp_path) -> None:
    path = result.path_of(tmp_path, MACHINE, ORIGIN, "2026-11-24", quick=False)
    assert path == tmp_path / "nvidia-h100-80gb-hbm3-2026-11-24-01234567.json"
    quick = result.path_of(tmp_path, MACHINE, ORIGIN, "2026-11-24", quick=True)
    assert quick.name == "nvidia-h100-80gb-hbm3-2026-11-24-01234567-quick.json"
    changed = replace(ORIGIN, sources="fedcba9876543210")
    assert result.path_of(tmp_path, MACHINE, changed, "2026-11-24", quick=False) != path


@pytest.mark.parametrize(
    ("name", "expected"), [("NVIDIA H200", "nvidia-h200"), ("  A/B..C ", "a-b-c")]
)
def test_slug(name, expected) -> None:
    assert slug(name) == expected


def test_a_written_document_is_read_again(tmp_path) -> None:
    path = tmp_path / "gpu.json"
    document = result.empty(MACHINE, ORIGIN, "2026-11-24") | {"bit_exact": True}
    result.write(path, document)
    newer = Machine(MACHINE.gpu, "9.0", "590.1", {"torch": "2.12.0"})
    again = result.open_document(path, newer, ORIGIN, "2026-11-24")
    assert again["bit_exact"] is True
    assert again["driver"] == "590.1"
    assert again["versions"] == {"torch": "2.12.0"}


def test_numbers_that_json_has_not_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        result.write(tmp_path / "gpu.json", {"time_us": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_checkout_are_named_from_its_root(tmp_path) -> None:
    path = tmp_path / "gpu.json"
    result.write(path, {"message": f"{ROOT}/build/gpu/model.engine: cannot be loaded"})
    assert json.loads(path.read_text()) == {"message": "build/gpu/model.engine: cannot be loaded"}


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"schema_version": 0})])
def test_another_file_is_not_overwritten(tmp_path, text) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="move it away"):
        result.open_document(path, MACHINE, ORIGIN, "2026-11-24")


def test_new_records_replace_those_of_their_key() -> None:
    def record(shape: str, dtype: str, value: int) -> dict:
        return {"shape": {"name": shape}, "dtype": dtype, "group": "kernels", "value": value}

    there = [record("flux", "fp16", 1), record("flux", "bf16", 2)]
    new = [record("video", "fp16", 3), record("flux", "fp16", 4)]
    new.append(record("flux", "fp16", 5) | {"group": "compilers"})
    found = result.joined(there, new, result.bench_key)
    assert [entry["value"] for entry in found] == [4, 2, 3, 5]


def test_engines_differ_by_flavour_type_and_implementation() -> None:
    record = {"flavour": "tensorrt", "dtype": "fp16", "implementation": "plugin", "verdict": PASS}
    others = [record | {key: "other"} for key in ("flavour", "dtype", "implementation")]
    found = result.joined([record, *others], [record | {"verdict": FAIL}], result.engine_key)
    assert [entry["verdict"] for entry in found] == [FAIL, PASS, PASS, PASS]


def test_a_verdict_of_a_part() -> None:
    document = result.with_verdict(result.empty(MACHINE, ORIGIN, "d"), Check("bench", PASS, "", 3))
    document = result.with_verdict(document, Check("engines", FAIL, "why"))
    assert document["verdicts"] == {
        "bench": {"verdict": PASS, "reason": ""},
        "engines": {"verdict": FAIL, "reason": "why"},
    }


def test_the_driver_is_read_from_its_file_where_there_is_no_tool(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "version"
    assert driver_version(file) == ""
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue\n")
    assert driver_version(file) == "580.159.04"
