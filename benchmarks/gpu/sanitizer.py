"""compute-sanitizer's memcheck and initcheck over the driver and over the plugin's harness.

The kernel has no shared memory and no barrier: racecheck and synccheck would look at nothing.

Source: Compute Sanitizer's user manual (options of the tools, the summary lines).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.verdict import FAIL, PASS, SKIPPED, Check, Skipped

TOOLS = ("memcheck", "initcheck")

_OPTIONS = {"memcheck": ("--leak-check", "full")}
_EXIT_CODE = 99  # of a run with findings: none of the programs' own
_TIMEOUT_S = 60  # two tools over two programs within four minutes
_LATE = -1  # the exit code of a run that was ended
# every tool ends with a summary; a run without one proves nothing
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) errors?")
_UNABLE = re.compile(r"Device not supported|not supported on this|Unable to find injection", re.I)
_FINDING = re.compile(r"=========\s+(?!COMPUTE-SANITIZER|ERROR SUMMARY)(\S.*)")
_SHOWN = 5
_DEFAULT_HOME = "/usr/local/cuda"

Run = Callable[[Sequence[str]], tuple[int, str]]


def find_sanitizer() -> Path:
    """Return compute-sanitizer; :class:`Skipped` where there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), _DEFAULT_HOME]
    guesses = [shutil.which("compute-sanitizer")]
    for home in homes:
        if home:
            guesses += [
                f"{home}/bin/compute-sanitizer",
                f"{home}/compute-sanitizer/compute-sanitizer",
            ]
    found = next((guess for guess in guesses if guess and Path(guess).is_file()), None)
    if found is None:
        raise Skipped("MISSING: compute-sanitizer; it comes with NVIDIA's CUDA toolkit")
    return Path(found)


def sanitizer_checks(
    sanitizer: Path,
    programs: dict[str, Sequence[str]],
    log: Path,
    say: Callable[[str], None],
    run: Run | None = None,
) -> Iterator[Check]:
    """Yield a check for each tool over each program.

    Parameters
    ----------
    sanitizer : Path
        compute-sanitizer.
    programs : dict
        Command line by name; each must exit with 0.
    log : Path
        File for the whole output of all runs.
    say : callable
        Told what is run.
    run : callable
        Runs a command and returns its exit code and output; a process by default.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    for name, program in programs.items():
        for tool in TOOLS:
            say(f"sanitizer: {tool} over {name}")
            options = ("--error-exitcode", str(_EXIT_CODE), *_OPTIONS.get(tool, ()))
            status, output = (run or _process)([str(sanitizer), "--tool", tool, *options, *program])
            with log.open("a") as file:
                file.write(f"{tool} over {name}: exit code {status}\n{output}\n")
            yield read_tool(tool, name, status, output)


def read_tool(tool: str, program: str, status: int, output: str) -> Check:
    """Return what a tool found: exit code 0 and a summary of nothing are both needed."""
    name = f"{tool}, {program}"
    counts = [int(count) for count in _SUMMARY.findall(output)]
    if not counts and status == _LATE:
        return Check(name, SKIPPED, output)
    if status != 0 and _UNABLE.search(output):  # whatever it counts behind that
        return Check(name, SKIPPED, f"compute-sanitizer cannot run here: {_findings(output)}")
    if not counts:
        return Check(name, FAIL, f"no summary (exit code {status}): {_findings(output)}")
    if status == 0 and not any(counts):
        return Check(name, PASS, cases=1)
    return Check(name, FAIL, f"{sum(counts)} findings, exit code {status}: {_findings(output)}", 1)


def _findings(output: str) -> str:
    found = [match[1] for match in map(_FINDING.match, output.splitlines()) if match]
    lines = found or output.strip().splitlines()[-2:]
    return " / ".join(lines[:_SHOWN]) or "it said nothing"


def _process(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return _LATE, f"no end after {_TIMEOUT_S} s"
    return done.returncode, done.stdout + done.stderr
