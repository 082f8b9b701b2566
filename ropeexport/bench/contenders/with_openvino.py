"""Contenders that run in OpenVINO, on a CPU only."""

from __future__ import annotations

from typing import Any

import numpy as np

from ropeexport.bench.contenders.contender import Arrays, Run, Setting
from ropeexport.bench.records import Device
from ropeexport.errors import MissingError
from ropeexport.packages import require


def needs_openvino(device: Device) -> None:
    """Raise where OpenVINO is missing, or has no part in a run on a GPU."""
    if device == "cuda":
        raise MissingError("OpenVINO runs on a CPU")
    require("openvino")


def run_in_openvino(file: str, setting: Setting) -> Run:
    """Run a prepared file in OpenVINO."""
    import openvino as ov

    options = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled_model = ov.Core().compile_model(str(setting.prepared / file), "CPU", options)
    request = compiled_model.create_infer_request()
    wanted = {name for value in compiled_model.inputs for name in value.names}
    names = setting.outputs

    def load(inputs: Arrays) -> Arrays:
        return {name: x for name, x in inputs.items() if name in wanted}

    def read(found: Any) -> Arrays:
        return dict(zip(names, (np.asarray(x) for x in found.values()), strict=False))

    return Run(load, request.infer, read)
