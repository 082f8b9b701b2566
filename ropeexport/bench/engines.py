"""Engines that a benchmark builds for itself: beside the user's folder, which is only read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.bench.contenders.contender import PLAIN, engine_file
from ropeexport.bench.messages import Made
from ropeexport.bench.refusal import refusable
from ropeexport.manifest import Axis, EngineRecord, Implementation, Manifest, TensorSpec
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.parity.space import Sizes
from ropeexport.profiles import with_ranges
from ropeexport.trt.build import TIMING_CACHE_NAME, BuildOptions, make_engine
from ropeexport.trt.flavour import pick_flavour

IMPLEMENTATIONS: dict[str, Implementation] = {
    engine_file(name): name for name in get_args(Implementation)
}
ENGINE_OF_PLAIN = engine_file("plain")


def build_engine(artifact: Artifact, prepared: Path, kind: str, sizes: Sequence[Sizes]) -> Made:
    """Build an engine and write a manifest beside it.

    Parameters
    ----------
    artifact : Artifact
        The output folder.
    prepared : Path
        Of the files of a run; a plain export is there already.
    kind : str
        The prepared file.
    sizes : sequence of dict
        What it must be able to run, and nothing else: a wider profile may cost speed.  It is tuned
        for the last.
    """
    ours = artifact.updated(axes=_axes_of(artifact.manifest.axes, sizes), engine=None)
    implementation = IMPLEMENTATIONS.get(kind, "decomposed")
    if kind == ENGINE_OF_PLAIN:
        ours = Artifact(prepared, _plain_manifest(ours.manifest, prepared / PLAIN))
    target = (prepared / kind).parent
    target.mkdir()
    options = BuildOptions(impl=implementation, flavour=pick_flavour())
    make = partial(_timed, ours, target, options)
    again_seconds: float | None = None
    seconds, engine = make()
    if (target / TIMING_CACHE_NAME).is_file():
        again_seconds, engine = make()
    Artifact(target, ours.manifest).updated(engine=engine).write()
    version = f"{engine.flavour} {engine.version}"
    return Made(seconds=seconds, version=version, again_seconds=again_seconds)


def _timed(artifact: Artifact, target: Path, options: BuildOptions) -> tuple[float, EngineRecord]:
    assert options.flavour is not None
    start = time.perf_counter()
    engine = refusable(options.flavour, make_engine)(artifact, target, options)
    return time.perf_counter() - start, engine


def _axes_of(axes: dict[str, Axis], sizes: Sequence[Sizes]) -> dict[str, Axis]:
    """Return axes that hold the sizes that will be run; one that none names stays as it is."""
    found = {name: [each[name] for each in sizes if name in each] for name in axes}
    return with_ranges(axes, {n: (min(f), f[-1], max(f)) for n, f in found.items() if f})


def _plain_manifest(record: Manifest, path: Path) -> Manifest:
    """Return what a plain export is: no rotary ops, other names, axes that do not broadcast."""
    graph = OnnxFile(path).graph.graph
    outputs = zip(record.model.outputs, graph.outputs, strict=True)
    model = record.model.changed(
        file=path.name,
        sha256=atomic.sha256_of(path),
        inputs=tuple(_tied(spec, record.axes) for spec in record.model.inputs),
        outputs=tuple(spec.changed(name=out.name) for spec, out in outputs),
        ropes=(),
        weights=None,
    )
    return record.changed(model=model)


def _tied(spec: TensorSpec, axes: dict[str, Axis]) -> TensorSpec:
    """Return an input as :func:`ropeexport.bench.plain.export_plain` leaves it."""
    shape = tuple(_tied_axis(dim, axes) if isinstance(dim, str) else dim for dim in spec.shape)
    return spec.changed(shape=shape)


def _tied_axis(name: str, axes: dict[str, Axis]) -> str | int:
    target = axes[name].broadcasts_to if name in axes else None
    return 1 if isinstance(target, int) else target or name
