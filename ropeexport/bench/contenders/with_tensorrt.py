"""Contenders that run an engine which was built for the run, on a GPU only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport.bench.contenders.contender import Arrays, Run, Setting
from ropeexport.bench.records import Device
from ropeexport.errors import MissingError

if TYPE_CHECKING:
    from torch import Tensor


def needs_tensorrt(device: Device) -> None:
    """Raise where no engine could run, or none could be built."""
    from ropeexport.trt.flavour import pick_flavour
    from ropeexport.trt.gpu import find_gpu

    if find_gpu() is None:
        raise MissingError("no NVIDIA GPU: a TensorRT engine runs on one only")
    if device != "cuda":
        raise MissingError("a TensorRT engine runs on a GPU only: use --device cuda")
    pick_flavour()


def kept_beside(engine: Path) -> Path:
    """Return where what was compiled for an engine is kept: of this run, so the first load is one.

    In the user's cache folder it would come from a former run of the same engine, and fill it.
    """
    return engine.with_name("runtime")


def run_engine(file: str, setting: Setting) -> Run:
    """Run a prepared engine; its manifest lies beside it.

    A GPU that the flavour's documents do not name is tried; what it says there is a refusal.
    """
    from ropeexport.bench.refusal import refusable
    from ropeexport.runners.trt import TensorrtRunner

    path = setting.prepared / file
    runner = TensorrtRunner(path.parent, specialise=True, kept_in=kept_beside(path))
    flavour = runner.version.partition(" ")[0]
    refusable(flavour, runner.__enter__)()
    names = setting.outputs

    def read(outputs: dict[str, Tensor]) -> Arrays:
        return dict(zip(names, runner.read(outputs).values(), strict=True))

    return Run(
        load=refusable(flavour, runner.load),
        call=refusable(flavour, runner.enqueue),
        read=refusable(flavour, read),
        keep=runner.save_runtime_cache,
    )
