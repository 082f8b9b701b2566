"""The four parts of a run.  Each returns its verdict and leaves its records in the document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.gpu import plugin
from benchmarks.gpu.bench import measure
from benchmarks.gpu.compiler import BUILD, CompileError
from benchmarks.gpu.contenders import Contender, own_contenders
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.engines import Engines, engine_records, find_flavours
from benchmarks.gpu.exactness import kernel_checks
from benchmarks.gpu.flashinfer import NAME as FLASHINFER
from benchmarks.gpu.flashinfer import flashinfer
from benchmarks.gpu.kernel import Kernel
from benchmarks.gpu.large import large_check
from benchmarks.gpu.result import bench_key, engine_key
from benchmarks.gpu.rivals import FLASH_ATTENTION, LIGER, flash_attention, liger
from benchmarks.gpu.sanitizer import find_sanitizer, headline, sanitizer_checks
from benchmarks.gpu.session import Session
from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.standings import ERROR, TIMED, WRONG
from benchmarks.gpu.targets import targets
from benchmarks.gpu.timing import QUICK, Plan
from benchmarks.gpu.torch_op import torch_op_check
from benchmarks.gpu.verdict import FAIL, PASS, SKIPPED, Check, Skipped, part_of

_ENQUEUE_CASES = BUILD / "enqueue"
_LOGS = BUILD / "sanitizer"
_ENGINES = BUILD / "engines"

Part = Callable[[Session], Check]


def exactness(session: Session) -> Check:
    """Hold the kernel, the torch op and the plugin to eager torch and to the seed, bit for bit."""
    checks: list[Check] = []
    for check in _exactness_checks(session):
        checks.append(check)
        session.say(f"  {check.verdict} {check.name} {check.reason}")
        verdicts = {done.verdict for done in checks}
        exact = False if FAIL in verdicts else True if PASS in verdicts else None
        session.update(bit_exact=exact, exactness=[done.record() for done in checks])
    return part_of("exactness", checks)


def _exactness_checks(session: Session) -> Iterator[Check]:
    device, kernel = session.device(), session.kernel()
    yield from kernel_checks(device, kernel, session.options.quick, session.say)
    yield torch_op_check(device)
    if not session.options.quick:
        session.say("exactness: tensors of more than 2^31 elements")
        yield large_check(device, kernel)
    device.release()
    try:
        files = session.plugin()
    except Skipped as reason:
        yield Check(plugin.NAME, SKIPPED, str(reason))
    except CompileError as error:
        yield Check(plugin.NAME, FAIL, str(error))
    else:
        session.say("exactness: the plugin's harness on the GPU")
        yield plugin.enqueue_check(files, _ENQUEUE_CASES)


def sanitizer(session: Session) -> Check:
    """Run compute-sanitizer's tools over the driver and the plugin's harness."""
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
    for check in sanitizer_checks(tool, programs, _LOGS, session.say):
        checks.append(check)
        session.say(f"  {check.verdict} {check.name} {check.reason}")
        session.update(
            sanitizer=headline(checks), sanitizer_checks=[done.record() for done in checks]
        )
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
        session.say(f"  {record['verdict']} {record['stage']} {record['message']}")
        session.join("engines", [record], engine_key)
    return part_of("engines", checks)


def bench(session: Session) -> Check:
    """Time the contenders on each shape and type."""
    device, kernel = session.device(), session.kernel()
    rivals = _rivals(session, device)
    plan = QUICK if session.options.quick else Plan()
    checks = []
    for shape in (shape for shape in SHAPES if shape.name in session.options.shapes):
        for dtype in session.options.dtypes:
            name = f"{shape.name} {dtype}"
            contenders = [*_own(device, kernel, session), *rivals]
            try:
                entry = measure(device, shape, dtype, contenders, plan, session.say)
            except Skipped as reason:
                checks.append(Check(name, SKIPPED, str(reason)))
                continue
            finally:
                device.release()
            checks.append(_bench_check(name, entry["contenders"]))
            session.join("bench", [entry], bench_key)
            session.update(targets=targets(session.document["bench"]))
    return part_of("bench", checks)


def _own(device: CudaDevice, kernel: Kernel, session: Session) -> list[Contender]:
    import torch

    torch.compiler.reset()  # else the shapes before this one count against its recompilations
    return own_contenders(device, kernel, thorough=not session.options.quick)


def _rivals(session: Session, device: CudaDevice) -> list[Contender]:
    """Return other people's kernels; one not at hand stands in the table with its reason."""
    options = session.options
    makers: dict[str, Callable[[], list[Contender]]] = {
        LIGER: lambda: [liger()],
        FLASH_ATTENTION: lambda: flash_attention(options.flash_attention),
        FLASHINFER: lambda: flashinfer(device, session.compiler(), options.flashinfer),
    }
    found: list[Contender] = []
    for name, make in makers.items():
        try:
            found += make()
        except (Skipped, CompileError) as reason:
            session.say(f"bench: {name}: SKIPPED: {reason}")
            found.append(_absent(name, str(reason)))
    return found


def _absent(name: str, reason: str) -> Contender:
    def prepare(_: object) -> None:
        raise Skipped(reason)

    return Contender(name, prepare, lambda *_: "")


def _bench_check(name: str, contenders: Sequence[dict[str, object]]) -> Check:
    """Return whether the kernel itself computed what it must; speed is no verdict."""
    ours = [c for c in contenders if str(c["name"]).startswith("ours")]
    faults = [f"{c['name']}: {c['reason']}" for c in ours if c["status"] in (WRONG, ERROR)]
    timed = sum(c["status"] == TIMED for c in contenders)
    return Check(name, FAIL if faults or not timed else PASS, "; ".join(faults), timed)


PARTS: dict[str, Part] = {
    "exactness": exactness,
    "sanitizer": sanitizer,
    "engines": engines,
    "bench": bench,
}
