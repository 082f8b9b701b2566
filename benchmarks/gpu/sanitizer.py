"""compute-sanitizer's memcheck and initcheck over the driver and over the plugin's harness.

The kernel has no shared memory and no barrier: racecheck and synccheck would look at nothing.

Source: Compute Sanitizer's user manual (options of the tools, the summary lines).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.compiler import Compiler, outcome
from benchmarks.gpu.exactness import plugin_command
from benchmarks.gpu.records import Check
from ropeexport.errors import MissingError, PluginError
from ropeexport.trt.plugin_build import find_cuda_tool

TOOLS = {"memcheck": ("--leak-check", "full"), "initcheck": ()}

_EXIT_CODE = "99"  # of a run with findings: none of the programs' own
_UNABLE = re.compile(r"Device not supported|not supported on this|Unable to find injection", re.I)
_FINDING = re.compile(r"=========\s+(?!COMPUTE-SANITIZER|ERROR SUMMARY)(\S.*)")


def sanitizer(compiler: Compiler, log: Path) -> Iterator[Check]:
    """Run compute-sanitizer's tools over the driver and the plugin's harness."""
    tool = find_cuda_tool("compute-sanitizer")
    if tool is None:
        raise MissingError("no compute-sanitizer; it comes with NVIDIA's CUDA toolkit")
    programs: dict[str, Sequence[str]] = {"driver": [str(compiler.driver())]}
    try:
        programs["plugin"] = plugin_command(compiler)
    except (MissingError, PluginError) as error:
        yield Check(name="all tools, plugin", verdict="SKIPPED", reason=str(error))
    yield from tool_checks(tool, programs, log)


def tool_checks(
    sanitizer: str, programs: Mapping[str, Sequence[str]], log: Path, timeout_s: float = 60
) -> Iterator[Check]:
    """Yield a check for each tool over each program; their whole output goes to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    for program, arguments in programs.items():
        for tool, options in TOOLS.items():
            name = f"{tool}, {program}"
            command = [sanitizer, "--tool", tool, "--error-exitcode", _EXIT_CODE, *options]
            try:
                status, output = outcome([*command, *arguments], timeout_s)
            except subprocess.TimeoutExpired:
                yield Check(name=name, verdict="SKIPPED", reason=f"no end after {timeout_s} s")
                continue
            with log.open("a") as file:
                file.write(f"{tool} over {program}: exit code {status}\n{output}\n")
            yield read_tool(name, status, output)


def read_tool(name: str, status: int, output: str) -> Check:
    """Return what a tool found: exit code 0 and a summary of nothing are both needed."""
    counts = [int(count) for count in re.findall(r"ERROR SUMMARY: (\d+) errors?", output)]
    if status == 0 and counts and not any(counts):
        return Check(name=name, verdict="PASS", cases=1)
    found = [match[1] for match in map(_FINDING.match, output.splitlines()) if match]
    told = " / ".join((found or output.strip().splitlines()[-2:])[:5]) or "it said nothing"
    if status != 0 and _UNABLE.search(output):  # whatever it counts behind that
        reason = f"compute-sanitizer cannot run here: {told}"
        return Check(name=name, verdict="SKIPPED", reason=reason)
    what = f"{sum(counts)} findings" if counts else "no summary"
    return Check(name=name, verdict="FAIL", reason=f"{what} (exit code {status}): {told}", cases=1)
