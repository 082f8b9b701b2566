"""Make one file of a run, in a process of its own: the seconds are the work's, not of imports."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ropeexport.bench.contenders.contender import (
    INLINED,
    OPTIMISED,
    OPTIMUM,
    PLAIN,
    WITHOUT_ROPE,
    Setting,
)
from ropeexport.bench.messages import Made, MakeFile
from ropeexport.child_process import Channel, serve
from ropeexport.manifest import ENGINE_NAME

Work = Callable[[], Any]


def make_file(order: MakeFile, _: Channel) -> Made:
    """Write the file of an order; return how long that took, and what made it where that counts."""
    kind, setting = order.kind, order.setting
    if kind.endswith(ENGINE_NAME):
        from ropeexport.bench.engines import build_engine

        return build_engine(setting.artifact, setting.prepared, kind, order.sizes)
    work = _WORKS.get(kind, partial(_exported, kind))(setting, setting.prepared / kind)
    start = time.perf_counter()
    work()
    return Made(seconds=time.perf_counter() - start)


def _inlined(setting: Setting, target: Path) -> Work:
    import onnx_ir as ir

    from ropeexport.onnx_files.variants import inlined, with_body

    loaded, beside = setting.artifact.file.whole, f"{target.name}.data"
    return lambda: ir.save(inlined(with_body(loaded, "general")), target, external_data=beside)


def _optimised(_: Setting, target: Path) -> Work:
    from onnxruntime.transformers.optimizer import optimize_model

    def work() -> None:
        optimised = optimize_model(str(target.with_name(PLAIN)), model_type="bert", opt_level=0)
        optimised.save_model_to_file(str(target), use_external_data_format=True)

    return work


def _exported(kind: str, setting: Setting, target: Path) -> Work:
    from ropeexport.bench.optimum import export_with_optimum
    from ropeexport.bench.plain import export_plain, export_without_rope
    from ropeexport.models import sources

    makers: dict[str, Callable[[Any, Path], None]] = {
        OPTIMUM: lambda example, path: export_with_optimum(example.module, path),
        PLAIN: export_plain,
        WITHOUT_ROPE: export_without_rope,
    }
    example = sources.rebuild_example(setting.artifact, setting.module)
    return partial(makers[kind], example, target)


_WORKS: dict[str, Callable[[Setting, Path], Work]] = {INLINED: _inlined, OPTIMISED: _optimised}


if __name__ == "__main__":
    serve({MakeFile: make_file})
