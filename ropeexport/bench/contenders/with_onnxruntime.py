"""Contenders that run an ONNX file in onnxruntime, on a CPU or on a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ropeexport import manifest
from ropeexport.bench.contenders.contender import OPTIMUM, Arrays, Run, Setting
from ropeexport.bench.records import Device
from ropeexport.errors import MissingError
from ropeexport.packages import require
from ropeexport.runners.ort_cuda import CUDA, cuda_provider

_QUIET = 4  # fatal messages only: every error is raised as well


def needs_onnxruntime(device: Device) -> None:
    """Raise where onnxruntime is missing, or was built without the device."""
    require("onnxruntime")
    import onnxruntime

    if device == "cuda" and CUDA not in onnxruntime.get_available_providers():
        raise MissingError(
            f"onnxruntime {onnxruntime.__version__} has no {CUDA}; "
            "run: pip uninstall --yes onnxruntime; pip install 'ropeexport[gpu]'"
        )


def ours(setting: Setting) -> Run:
    """Run ropeexport's file."""
    return _run(setting.folder / manifest.read(setting.folder).model.file, setting)


def run_file(file: str, setting: Setting) -> Run:
    """Run a prepared file."""
    return _run(setting.prepared / file, setting)


def optimum(setting: Setting) -> Run:
    """Run optimum-onnx's file, which wants inputs of its own.

    Of a language model that is a mask, which keeps every token; of FLUX, positions as integers.
    """
    run = _run(setting.prepared / OPTIMUM, setting)

    def load(inputs: Arrays) -> Any:
        given = {n: x.astype(np.int64) if n.endswith("_ids") else x for n, x in inputs.items()}
        tokens = given.get("input_ids")
        mask = {} if tokens is None else {"attention_mask": np.ones_like(tokens)}
        return run.load(mask | given)

    return dataclasses.replace(run, load=load)


def _run(path: Path, setting: Setting) -> Run:
    return {"cpu": _on_arrays, "cuda": _on_cuda}[setting.device](path, setting)


def _on_arrays(path: Path, setting: Setting) -> Run:
    session = _session(path, setting, ["CPUExecutionProvider"])
    wanted = [value.name for value in session.get_inputs()]
    names = setting.outputs
    return Run(
        load=lambda inputs: {name: inputs[name] for name in wanted},
        call=lambda loaded: session.run(None, loaded),
        read=lambda found: dict(zip(names, found, strict=False)),
    )


def _on_cuda(path: Path, setting: Setting) -> Run:
    import torch

    from ropeexport.bench.contenders.io_binding import bound_run

    stream = torch.cuda.current_stream().cuda_stream
    provider = cuda_provider(user_compute_stream=str(stream))
    session = _session(path, setting, [provider, "CPUExecutionProvider"])
    if session.get_providers()[0] != CUDA:  # it goes on without, and only warns
        raise MissingError(
            f"onnxruntime cannot load its {CUDA}, which needs its own CUDA and cuDNN; "
            "run: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return bound_run(session, setting.outputs, setting.device)


def _session(path: Path, setting: Setting, providers: list[Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.log_severity_level = _QUIET
    return onnxruntime.InferenceSession(str(path), options, providers)
