"""The four parts of a run.  Each returns its verdict and leaves its records in the document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.gpu import large, plugin
from benchmarks.gpu.bench_part import bench
from benchmarks.gpu.compiler import BUILD, CompileError
from benchmarks.gpu.engines import Engines, engine_records, find_flavours
from benchmarks.gpu.exactness import kernel_checks
from benchmarks.gpu.result import engine_key
from benchmarks.gpu.sanitizer import find_sanitizer, sanitizer_checks
from benchmarks.gpu.session import Session
from benchmarks.gpu.torch_op import torch_op_check
from benchmarks.gpu.verdict import FAIL, PASS, SKIPPED, Check, Skipped, guarded, part_of

_ENQUEUE_CASES = BUILD / "enqueue"
_ENGINES = BUILD / "engines"

Part = Callable[[Session], Check]


def exactness(session: Session) -> Check:
    """Hold the kernel, the torch op and the plugin to eager torch and to the seed, bit for bit."""
    checks: list[Check] = []
    session.update(bit_exact=None, exactness=[])
    for check in _exactness_checks(session):
        checks.append(check)
        failed = any(done.verdict == FAIL for done in checks)
        session.update(
            bit_exact=False if failed else None, exactness=[done.record() for done in checks]
        )
        session.say(f"  {check.verdict} {check.name} {check.reason}")
    if all(check.verdict == PASS for check in checks):  # to the end, and nothing left out
        session.update(bit_exact=True)
    return part_of("exactness", checks)


def _exactness_checks(session: Session) -> Iterator[Check]:
    device, kernel = session.device(), session.kernel()
    yield from kernel_checks(device, kernel, session.options.quick, session.say)
    yield guarded("the torch op on the GPU", lambda: torch_op_check(device))
    if not session.options.quick:
        session.say(f"exactness: {large.NAME}")
        yield guarded(large.NAME, lambda: large.large_check(device, kernel))
    device.release()
    yield guarded(plugin.NAME, lambda: _plugin_check(session))  # a process of its own


def _plugin_check(session: Session) -> Check:
    files = session.plugin()
    session.say("exactness: the plugin's harness on the GPU")
    return plugin.enqueue_check(files, _ENQUEUE_CASES)


def sanitizer(session: Session) -> Check:
    """Run compute-sanitizer's tools over the driver and the plugin's harness."""
    session.update(sanitizer=None, sanitizer_checks=[])
    tool = find_sanitizer()
    session.say("compiling the sanitizer's driver")
    programs: dict[str, Sequence[str]] = {"driver": [str(session.compiler().driver())]}
    checks: list[Check] = []
    try:
        files = session.plugin()
        plugin.write_cases(_ENQUEUE_CASES, plugin.harness_cases())
        programs["plugin"] = plugin.enqueue_command(files, _ENQUEUE_CASES)
    except (Skipped, CompileError) as reason:
        checks.append(Check("all tools, plugin", SKIPPED, str(reason)))
    log = session.path.with_name("sanitizer.log")
    for check in sanitizer_checks(tool, programs, log, session.say):
        checks.append(check)
        failed = any(done.verdict == FAIL for done in checks)
        session.update(
            sanitizer="findings" if failed else None,
            sanitizer_checks=[done.record() for done in checks],
        )
        session.say(f"  {check.verdict} {check.name} {check.reason}")
    if all(check.verdict == PASS for check in checks):  # every tool over every program
        session.update(sanitizer="clean")
    return part_of("sanitizer", checks)


def engines(session: Session) -> Check:
    """Build, load, run and check engines of each flavour, implementation and type."""
    flavours = find_flavours()
    library, reason = None, ""
    try:
        library = session.plugin().library
    except (Skipped, CompileError) as error:
        reason = str(error)
    options = session.options
    wanted = Engines(
        _ENGINES,
        session.machine.compute_capability,
        library,
        reason,
        options.exported and options.exported.absolute(),
        options.quick,
    )
    checks = []
    for record in engine_records(flavours, wanted, session.say):
        name = " ".join((record["flavour"], record["implementation"], record["dtype"]))
        checks.append(Check(name, record["verdict"], record["message"], 1))
        session.join("engines", [record], engine_key)
        session.say(f"  {record['verdict']} {record['stage']} {record['message']}")
    return part_of("engines", checks)


PARTS: dict[str, Part] = {
    "exactness": exactness,
    "sanitizer": sanitizer,
    "engines": engines,
    "bench": bench,
}
