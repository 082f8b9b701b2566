"""Engines on this GPU: plugin, native and decomposed in each type, built, run, checked, timed.

Everything goes through the product's own functions, each engine in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.gpu.compiler import BUILD, Compiler
from benchmarks.gpu.records import Check, Timing
from ropeexport import errors
from ropeexport.child_process import Channel, Child, CrashError, serve
from ropeexport.manifest import Record
from ropeexport.parity.records import Report
from ropeexport.trt.flavour import available_flavours, names_gpu
from ropeexport.trt.plugin_library import VARIABLE


class Engine(Record):
    """An engine to build and to check; ``not_run`` is the verdict where nothing ran."""

    dtype: str
    flavour: str
    implementation: str
    not_run: str

    @property
    def name(self) -> str:
        """Its name in the result."""
        return f"{self.flavour} {self.implementation} {self.dtype}"


def engines(
    compiler: Compiler, compute_capability: str, dtypes: tuple[str, ...]
) -> Iterator[Check]:
    """Export, build, run and check engines of each type, flavour and implementation."""
    flavours = available_flavours()
    if not flavours:
        raise errors.MissingError("no TensorRT is installed; run: pip install tensorrt-rtx")
    environment, implementations = dict(os.environ), ["native", "decomposed"]
    try:
        environment[VARIABLE] = str(compiler.plugin()[0])
        implementations.insert(0, "plugin")
    except (errors.MissingError, errors.PluginError) as error:
        yield Check(name="all with the plugin", verdict="SKIPPED", reason=str(error))
    for dtype in dtypes:
        for flavour in flavours:
            # on a GPU that the flavour does not name, a refusal
            not_run = "FAIL" if names_gpu(flavour, compute_capability) else "REFUSED"
            for implementation in implementations:
                made = {"dtype": dtype, "flavour": flavour, "implementation": implementation}
                yield _proven(Engine(**made, not_run=not_run), environment)


def _proven(engine: Engine, environment: dict[str, str]) -> Check:
    try:
        with Child(__name__, environment) as child:
            return child.ask(engine, Check)
    except errors.MissingError as error:
        return Check(name=engine.name, verdict="SKIPPED", reason=str(error))
    except (errors.BuildError, errors.EngineError, CrashError) as error:
        return Check(name=engine.name, verdict=engine.not_run, reason=str(error))
    except errors.RopeExportError as error:
        return Check(name=engine.name, verdict="FAIL", reason=str(error))


def prove(engine: Engine, _: Channel) -> Check:
    """Export FLUX's attention, build an engine and check it; time the last beside its peers."""
    import ropeexport

    folder = BUILD / "engines" / engine.name.replace(" ", "-")
    sizes = {"heads": 8, "head_dim": 128, "length": 512, "dtype": engine.dtype}
    ropeexport.export("flux-attention", out=folder, force=True, **sizes)
    ropeexport.build(folder, impl=engine.implementation, flavour=engine.flavour, force=True)
    check = check_of_report(ropeexport.check(folder, runtimes="tensorrt"), engine)
    if check.verdict != "PASS" or engine.implementation != "decomposed":
        return check
    bench = ropeexport.bench(folder, device="cuda", against=["eager", "compile", "tensorrt"])
    times = {t.contender: 1e3 * t.median for group in bench.groups for t in group.timings}
    timings = tuple(
        Timing(name=c.name, status=c.status, reason=c.reason, time_us=times.get(c.name))
        for c in bench.contenders
    )
    return check.model_copy(update={"timings": timings})


def check_of_report(report: Report, engine: Engine) -> Check:
    """Return what a parity report says of the runtime ``tensorrt``; no numbers are no proof."""
    runtime = next(runtime for runtime in report.runtimes if runtime.name == "tensorrt")
    ran = [c for c in report.comparisons if c.runtime == "tensorrt" and c.numbers is not None]
    verdict = runtime.status if runtime.status in ("PASS", "FAIL") else "SKIPPED"
    verdict = verdict if ran or verdict == "SKIPPED" else engine.not_run
    return Check(name=engine.name, verdict=verdict, reason=runtime.reason, cases=len(ran))


if __name__ == "__main__":
    serve({Engine: prove})
