"""Benchmarks that nobody ran, for what is made of them."""

from __future__ import annotations

from ropeexport.bench.contenders import BY_NAME
from ropeexport.bench.records import Bench, ContenderRecord, Group, Timing
from ropeexport.parity.records import Environment


def made_bench(*timings: Timing, device: str = "cpu", **skipped: str) -> Bench:
    """Return a benchmark at one size; ``skipped`` gives reasons by contenders' names."""
    names = [timing.contender for timing in timings]
    records = [ContenderRecord(name=n, label=BY_NAME[n].label, status="TIMED") for n in names]
    records += [
        ContenderRecord(name=n, label=BY_NAME[n].label, status="SKIPPED", reason=reason)
        for n, reason in skipped.items()
    ]
    environment = Environment(ropeexport="0", python="3", platform="-", machine="-", packages={})
    return Bench(
        **dict.fromkeys(("model_sha256", "code_sha256", "date", "command"), "-"),
        **{"model": "model.onnx", "source": "flux-attention", "dtype": "float16", "cores": 2},
        **dict.fromkeys(("seed", "threads", "rounds", "repeats"), 1),
        device=device,
        processor="NVIDIA L4, EPYC",
        environment=environment,
        contenders=tuple(records),
        groups=(Group(sizes={"length": 8}, tokens=8, timings=timings),),
    )


def made_timing(contender: str, *turns_ms: float, **more: float) -> Timing:
    """Return a timing of some turns."""
    return Timing(contender=contender, turns_ms=turns_ms, **{"peak_mb": 500.0} | more)
