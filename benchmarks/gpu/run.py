"""The parts in their order, each with its verdict, and the exit code of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from benchmarks.gpu import result, table
from benchmarks.gpu.compiler import ROOT, find_compiler
from benchmarks.gpu.machine import describe
from benchmarks.gpu.options import Options
from benchmarks.gpu.origin import find_origin
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.session import Session
from benchmarks.gpu.verdict import FAIL, SKIPPED, Check, Skipped, worst
from ropeexport.errors import EXIT_FAILURE, EXIT_MISSING, EXIT_PASS
from ropeexport.trt.gpu import Gpu

CARRIED = ROOT / ".gpu" / "results"
_UNDER_WAY = "under way: cut short, if this is the end of the run"


def run(options: Options, gpu: Gpu, parts: Mapping[str, Part] = PARTS) -> int:
    """Run the parts that are asked for, print the table and return the exit code."""
    session = _open(options, gpu)
    session.say(f"{session.machine.gpu}, driver {session.machine.driver}; writing {session.path}")
    checks = [_run_part(session, name, parts[name]) for name in options.only]
    print()
    for line in table.lines(session.document):
        print(line)
    print(f"\nwritten: {session.path}")
    return exit_code(checks)


def exit_code(checks: Sequence[Check]) -> int:
    """Return 1 for a failure, 3 where nothing that was asked for could run, else 0."""
    return {FAIL: EXIT_FAILURE, SKIPPED: EXIT_MISSING}.get(worst(checks), EXIT_PASS)


def _open(options: Options, gpu: Gpu) -> Session:
    today = date.today().isoformat()
    try:
        nvcc = find_compiler("").nvcc
    except Skipped:
        nvcc = None
    machine, origin = describe(gpu, nvcc), find_origin()
    path = result.path_of(options.out, machine, origin, today, options.quick)
    # what another machine of the day left, where it was taken along
    former = path if path.is_file() else CARRIED / path.name
    return Session(options, machine, path, result.open_document(former, machine, origin, today))


def _run_part(session: Session, name: str, part: Part) -> Check:
    """Run a part; what it raises is its verdict, and the next part still runs."""
    session.update(**result.with_verdict(session.document, Check(name, SKIPPED, _UNDER_WAY)))
    try:
        check = part(session)
    except Skipped as reason:
        check = Check(name, SKIPPED, str(reason))
    except Exception as error:  # a broken driver or tool may raise anything; the others go on
        check = Check(name, FAIL, f"{type(error).__name__}: {error}")
    session.say(f"{check.verdict} {name} {check.reason}")
    session.update(**result.with_verdict(session.document, check))
    return check
