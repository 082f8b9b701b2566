"""What compute-sanitizer prints, read: a run without a summary proves nothing."""

from __future__ import annotations

import pytest

from benchmarks.gpu.sanitizer import TOOLS, read_tool, sanitizer, tool_checks
from ropeexport.errors import MissingError
from ropeexport.trt import plugin_build

CLEAN = {
    "memcheck": "========= LEAK SUMMARY: 0 bytes leaked in 0 allocations\n"
    "========= ERROR SUMMARY: 0 errors\n",
    "initcheck": "========= ERROR SUMMARY: 0 errors\n",
}
FOUND = {
    "memcheck": "========= Invalid __global__ write of size 16 bytes\n"
    "=========     at rotate_kernel+0x310 in column.cuh:160\n"
    "========= ERROR SUMMARY: 1 error\n",
    "initcheck": "========= Uninitialized __global__ memory read of size 4 bytes\n"
    "========= ERROR SUMMARY: 512 errors\n",
}
HEAD = "========= COMPUTE-SANITIZER\n189 launches, 0 wrong\n"


@pytest.mark.parametrize("tool", TOOLS)
def test_clean(tool) -> None:
    check = read_tool("a tool", 0, HEAD + CLEAN[tool])
    assert (check.verdict, check.reason, check.cases) == ("PASS", "", 1)


@pytest.mark.parametrize("tool", TOOLS)
def test_findings_are_told(tool) -> None:
    check = read_tool("a tool", 99, HEAD + FOUND[tool])
    assert check.verdict == "FAIL"
    assert FOUND[tool].splitlines()[0].removeprefix("========= ") in check.reason


@pytest.mark.parametrize("tool", TOOLS)
def test_a_program_that_fails_is_no_success(tool) -> None:
    check = read_tool("a tool", 1, "189 launches, 3 wrong\n" + CLEAN[tool])
    assert check.verdict == "FAIL"
    assert "exit code 1" in check.reason


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("output", ["", HEAD, "Segmentation fault\n"])
def test_no_summary_is_no_success(tool, output) -> None:
    check = read_tool("a tool", 0, output)
    assert check.verdict == "FAIL"
    assert "no summary" in check.reason


def test_a_machine_that_the_tool_refuses() -> None:
    output = "========= COMPUTE-SANITIZER\n========= Error: Device not supported. Please refer\n"
    for more in ("", "========= ERROR SUMMARY: 1 error\n"):  # whatever it counts behind that
        check = read_tool("a tool", 1, output + more)
        assert check.verdict == "SKIPPED"
        assert "Device not supported" in check.reason


@pytest.fixture
def tool(tmp_path):
    """A tool that prints its command line and what a clean run prints."""

    def make(script: str) -> str:
        path = tmp_path / "compute-sanitizer"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_every_tool_runs_over_every_program(tmp_path, tool) -> None:
    log = tmp_path / "out" / "sanitizer.log"
    programs = {"driver": ["./driver"], "plugin": ["./harness", "lib.so", "--enqueue", "cases"]}
    echo = tool('echo "$*"; echo "========= ERROR SUMMARY: 0 errors"')
    checks = list(tool_checks(echo, programs, log))
    assert [(check.name, check.verdict) for check in checks] == [
        (f"{name}, {program}", "PASS") for program in programs for name in TOOLS
    ]
    commands = [line for line in log.read_text().splitlines() if line.startswith("--tool")]
    assert commands == [
        *("--tool memcheck --error-exitcode 99 --leak-check full ./driver",),
        *("--tool initcheck --error-exitcode 99 ./driver",),
        "--tool memcheck --error-exitcode 99 --leak-check full ./harness lib.so --enqueue cases",
        *("--tool initcheck --error-exitcode 99 ./harness lib.so --enqueue cases",),
    ]
    assert log.read_text().count("exit code 0") == 4


def test_a_run_that_does_not_end_finds_nothing_and_proves_nothing(tmp_path, tool) -> None:
    checks = tool_checks(tool("exec sleep 60"), {"driver": ["./driver"]}, tmp_path / "log", 0.2)
    assert [(check.verdict, check.reason) for check in checks] == [
        ("SKIPPED", "no end after 0.2 s")
    ] * len(TOOLS)


def test_a_missing_tool_is_named(tmp_path, monkeypatch) -> None:
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(plugin_build, "_DEFAULT_HOME", str(tmp_path))
    with pytest.raises(MissingError, match="no compute-sanitizer"):
        list(sanitizer(None, tmp_path / "log"))
