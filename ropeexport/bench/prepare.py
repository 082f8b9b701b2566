"""Make one file of a run, in a process of its own: the seconds are the work's, not of imports.

Engines too are made for the run, beside the user's folder, which is only read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import onnx_ir as ir

from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.axes import with_ranges
from ropeexport.bench import contenders
from ropeexport.bench.contenders import PLAIN, Setting, engine_file, refusable
from ropeexport.bench.processes import Made, MakeFile
from ropeexport.child_process import Channel, serve
from ropeexport.manifest import ENGINE_NAME, Axis, Implementation, Manifest, TensorSpec
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.variants import inlined, with_body
from ropeexport.parity.cases import Sizes
from ropeexport.trt.build import TIMING_CACHE_NAME, BuildOptions, make_engine
from ropeexport.trt.flavour import pick_flavour

_T = TypeVar("_T")
Work = Callable[[], Any]


def make_file(order: MakeFile, _: Channel) -> Made:
    """Write the file of an order; return how long that took, and what made it where that counts."""
    kind, setting = order.kind, order.setting
    if kind.endswith(ENGINE_NAME):
        return build_engine(setting.artifact, setting.prepared, kind, order.sizes)
    works = {contenders.INLINED: _inlined, contenders.OPTIMISED: _optimised}
    work = works.get(kind, partial(_exported, kind))(setting, setting.prepared / kind)
    return Made(seconds=_timed(work)[0])


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def _inlined(setting: Setting, target: Path) -> Work:
    loaded, beside = setting.artifact.file.whole, f"{target.name}.data"
    return lambda: ir.save(inlined(with_body(loaded, "general")), target, external_data=beside)


def _optimised(_: Setting, target: Path) -> Work:
    from onnxruntime.transformers.optimizer import optimize_model

    def work() -> None:
        optimised = optimize_model(str(target.with_name(PLAIN)), model_type="bert", opt_level=0)
        optimised.save_model_to_file(str(target), use_external_data_format=True)

    return work


def _exported(kind: str, setting: Setting, target: Path) -> Work:
    from ropeexport.bench import peers
    from ropeexport.models import sources

    example = sources.rebuild_example(setting.artifact, setting.module)
    if kind == contenders.OPTIMUM:
        return partial(peers.export_with_optimum, example.module, target)
    make = {PLAIN: peers.export_plain, contenders.WITHOUT_ROPE: peers.export_without_rope}[kind]
    return partial(make, example, target)


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
    if kind == engine_file("plain"):
        ours = Artifact(prepared, _plain_manifest(ours.manifest, prepared / PLAIN))
    target = (prepared / kind).parent
    target.mkdir()
    implementations = {engine_file(name): name for name in get_args(Implementation)}
    flavour = pick_flavour()
    options = BuildOptions(impl=implementations.get(kind, "decomposed"), flavour=flavour)
    make = partial(refusable(flavour, make_engine), ours, target, options)
    again_seconds: float | None = None
    seconds, engine = _timed(make)
    if (target / TIMING_CACHE_NAME).is_file():
        again_seconds, engine = _timed(make)
    Artifact(target, ours.manifest).updated(engine=engine).write()
    version = f"{engine.flavour} {engine.version}"
    return Made(seconds=seconds, version=version, again_seconds=again_seconds)


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
    """Return an input as :func:`ropeexport.bench.peers.export_plain` leaves it."""
    targets: dict[str | int, str | int | None] = {n: axis.broadcasts_to for n, axis in axes.items()}
    tied = ((dim, targets.get(dim)) for dim in spec.shape)
    return spec.changed(shape=tuple(1 if isinstance(to, int) else to or dim for dim, to in tied))


if __name__ == "__main__":
    serve({MakeFile: make_file})
