"""Who takes part: each is set up in a process of its own, from the folder and what was prepared.

A contender's function returns its run, named arrays to named arrays, with everything that a user
pays once already paid.  What is missing here raises :class:`MissingError` and is SKIPPED.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropeexport import manifest
from ropeexport.errors import MissingError
from ropeexport.packages import require

Arrays = dict[str, NDArray[np.generic]]
Run = Callable[[Arrays], Arrays]

PLAIN, WITHOUT_ROPE, OPTIMISED, INLINED, OPTIMUM = (
    "plain.onnx", "without_rope.onnx", "optimised.onnx", "inlined.onnx", "optimum.onnx",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What a contender is made of.

    Parameters
    ----------
    folder : Path
        The output folder.
    prepared : Path
        The folder of the files that were made for the run.
    module : str or None
        The factory to import where the model is the user's own code.
    threads : int
        For the runtime's own pool.
    """

    folder: Path
    prepared: Path
    module: str | None
    threads: int

    @property
    def outputs(self) -> list[str]:
        """Names of the model's outputs, in order."""
        return [spec.name for spec in manifest.read(self.folder).model.outputs]


@dataclass(frozen=True)
class Contender:
    """A name, its line in the table, its function, and the prepared file that it needs.

    ``floor`` computes less on purpose: it is timed without a parity check.
    """

    name: str
    label: str
    set_up: Callable[[Setting], Run]
    file: str = ""
    package: str = ""
    floor: bool = False


def eager(setting: Setting) -> Run:
    """Run the module itself."""
    import torch

    from ropeexport.models import sources

    torch.set_num_threads(setting.threads)
    module = sources.rebuild(manifest.read(setting.folder), setting.folder, setting.module)
    return _torch_run(module, setting.outputs)


def compiled(setting: Setting) -> Run:
    """Run the module in plain operations through ``torch.compile``."""
    import shutil

    import torch

    from ropeexport.bench.plain import plain_program
    from ropeexport.models import sources
    from ropeexport.models.example import bound

    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise MissingError("torch.compile needs a C++ compiler; install g++")
    torch.set_num_threads(setting.threads)
    example = sources.rebuild_example(manifest.read(setting.folder), setting.folder, setting.module)
    program: Any = plain_program(example).module(check_guards=False)
    example = dataclasses.replace(example, module=program)
    return _torch_run(torch.compile(bound(example), dynamic=False), setting.outputs)


def _torch_run(module: Any, names: list[str]) -> Run:
    import torch

    from ropeexport.runners.torch_arrays import array_from, call, tensor_from

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            found = call(module, {name: tensor_from(x) for name, x in inputs.items()}, names)
        return {name: array_from(x) for name, x in found.items()}

    return run


def ours(setting: Setting) -> Run:
    """Run ropeexport's file in onnxruntime."""
    record = manifest.read(setting.folder)
    return _onnxruntime(setting.folder / record.model.file, setting)


def plain(setting: Setting) -> Run:
    """Run the file of a plain ``torch.onnx.export`` in onnxruntime."""
    return _onnxruntime(setting.prepared / PLAIN, setting)


def optimised(setting: Setting) -> Run:
    """Run the plain file after onnxruntime's own transformer optimiser."""
    return _onnxruntime(setting.prepared / OPTIMISED, setting)


def optimum(setting: Setting) -> Run:
    """Run optimum-onnx's file, which wants inputs of its own.

    Of a language model that is a mask, which keeps every token; of FLUX, positions as integers.
    """
    run = _onnxruntime(setting.prepared / OPTIMUM, setting)

    def adapted(inputs: Arrays) -> Arrays:
        given = {n: x.astype(np.int64) if n.endswith("_ids") else x for n, x in inputs.items()}
        tokens = given.get("input_ids")
        mask = {} if tokens is None else {"attention_mask": np.ones_like(tokens)}
        return run(mask | given)

    return adapted


def without_rope(setting: Setting) -> Run:
    """Run the module without its rotations in onnxruntime."""
    return _onnxruntime(setting.prepared / WITHOUT_ROPE, setting)


def _onnxruntime(path: Path, setting: Setting) -> Run:
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    wanted = [value.name for value in session.get_inputs()]
    names = setting.outputs

    def run(inputs: Arrays) -> Arrays:
        found = session.run(None, {name: inputs[name] for name in wanted})
        return dict(zip(names, found, strict=False))

    return run


def openvino(setting: Setting) -> Run:
    """Run ropeexport's file, its function bodies inlined, in OpenVINO."""
    return _openvino(setting.prepared / INLINED, setting)


def openvino_plain(setting: Setting) -> Run:
    """Run the plain file in OpenVINO."""
    return _openvino(setting.prepared / PLAIN, setting)


def _openvino(path: Path, setting: Setting) -> Run:
    require("openvino")
    import openvino as ov

    options = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled_model = ov.Core().compile_model(str(path), "CPU", options)
    request = compiled_model.create_infer_request()
    wanted = {name for value in compiled_model.inputs for name in value.names}
    names = setting.outputs

    def run(inputs: Arrays) -> Arrays:
        found = request.infer({name: x for name, x in inputs.items() if name in wanted})
        return dict(zip(names, (np.asarray(x) for x in found.values()), strict=False))

    return run


def tensorrt(setting: Setting) -> Run:
    """Run the folder's engine; it has the implementation that it was built with."""
    record = manifest.read(setting.folder)
    if record.engine is None:
        raise MissingError(f"no engine; run 'ropeexport build {setting.folder}'")
    from ropeexport.runners.trt import TensorrtRunner

    return TensorrtRunner(setting.folder).__enter__().run


CONTENDERS: tuple[Contender, ...] = (
    Contender("eager", "eager torch", eager),
    Contender("ropeexport", "ropeexport, onnxruntime", ours),
    Contender("plain", "plain torch.onnx.export, onnxruntime", plain, PLAIN),
    Contender("ort-optimizer", "plain, onnxruntime's transformer optimiser", optimised, OPTIMISED),
    Contender("optimum", "optimum-onnx, onnxruntime", optimum, OPTIMUM),
    Contender("compile", "torch.compile", compiled),
    Contender("openvino", "ropeexport inlined, OpenVINO", openvino, INLINED, "openvino"),
    Contender("openvino-plain", "plain, OpenVINO", openvino_plain, PLAIN, "openvino"),
    Contender("tensorrt", "ropeexport, TensorRT engine", tensorrt),
    Contender("without-rope", "without any rope, onnxruntime", without_rope, WITHOUT_ROPE,
              floor=True),
)  # fmt: skip
BY_NAME = {contender.name: contender for contender in CONTENDERS}
