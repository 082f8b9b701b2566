"""What compute-sanitizer prints, read: a run without a summary proves nothing."""

from __future__ import annotations

import pytest

from benchmarks.gpu.sanitizer import TOOLS, find_sanitizer, read_tool, sanitizer_checks
from benchmarks.gpu.verdict import FAIL, PASS, SKIPPED, Check, Skipped

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
    check = read_tool(tool, "driver", 0, HEAD + CLEAN[tool])
    assert check == Check(f"{tool}, driver", PASS, "", 1)


@pytest.mark.parametrize("tool", TOOLS)
def test_findings_are_told(tool) -> None:
    check = read_tool(tool, "driver", 99, HEAD + FOUND[tool])
    assert check.verdict == FAIL
    assert FOUND[tool].splitlines()[0].removeprefix("========= ") in check.reason


@pytest.mark.parametrize("tool", TOOLS)
def test_a_program_that_fails_is_no_success(tool) -> None:
    check = read_tool(tool, "driver", 1, "189 launches, 3 wrong\n" + CLEAN[tool])
    assert check.verdict == FAIL
    assert "exit code 1" in check.reason


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("output", ["", HEAD, "Segmentation fault\n"])
def test_no_summary_is_no_success(tool, output) -> None:
    check = read_tool(tool, "driver", 0, output)
    assert check.verdict == FAIL
    assert "no summary" in check.reason


def test_a_machine_that_the_tool_refuses() -> None:
    output = "========= COMPUTE-SANITIZER\n========= Error: Device not supported. Please refer\n"
    for more in ("", "========= ERROR SUMMARY: 1 error\n"):  # whatever it counts behind that
        check = read_tool("memcheck", "driver", 1, output + more)
        assert check.verdict == SKIPPED
        assert "Device not supported" in check.reason


def test_every_tool_runs_over_every_program(tmp_path) -> None:
    commands = []

    def run(command):
        commands.append(list(command))
        return 0, CLEAN[command[2]]

    programs = {"driver": ["./driver"], "plugin": ["./harness", "lib.so", "--enqueue", "cases"]}
    said = []
    log = tmp_path / "out" / "sanitizer.log"
    checks = list(sanitizer_checks(tmp_path / "cs", programs, log, said.append, run))
    assert [check.verdict for check in checks] == [PASS] * 4
    assert len(said) == 4
    assert [command[2] for command in commands] == [*TOOLS, *TOOLS]
    memcheck = commands[2]
    assert memcheck[:3] == [str(tmp_path / "cs"), "--tool", "memcheck"]
    assert memcheck[-4:] == programs["plugin"]
    assert "--leak-check" in memcheck
    assert log.read_text().count("exit code 0") == 4
    assert f"initcheck over plugin: exit code 0\n{CLEAN['initcheck']}" in log.read_text()


def test_a_run_that_does_not_end_finds_nothing_and_proves_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.sanitizer._TIMEOUT_S", 0.2)
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    programs = {"driver": ["./driver"]}
    log = tmp_path / "sanitizer.log"
    checks = list(sanitizer_checks(tool, programs, log, lambda text: None))
    assert [(check.verdict, check.reason) for check in checks] == [
        (SKIPPED, "no end after 0.2 s")
    ] * len(TOOLS)


def test_a_missing_tool_is_named(tmp_path, monkeypatch) -> None:
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("benchmarks.gpu.sanitizer._DEFAULT_HOME", str(tmp_path))
    with pytest.raises(Skipped, match="MISSING: compute-sanitizer"):
        find_sanitizer()
    tool = tmp_path / "compute-sanitizer" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.touch()
    assert find_sanitizer() == tool
