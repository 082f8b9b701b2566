"""Who takes part: each is set up in a process of its own, from the folder and what was prepared."""

from __future__ import annotations

from functools import partial

from ropeexport.bench.contenders.contender import (
    INLINED,
    OPTIMISED,
    OPTIMUM,
    PLAIN,
    WITHOUT_ROPE,
    Contender,
    engine_file,
)
from ropeexport.bench.contenders.with_onnxruntime import needs_onnxruntime, optimum, ours, run_file
from ropeexport.bench.contenders.with_openvino import needs_openvino, run_in_openvino
from ropeexport.bench.contenders.with_tensorrt import needs_tensorrt, run_engine
from ropeexport.bench.contenders.with_torch import compiled, eager, needs_compiler


def _file(name: str, label: str, *files: str, floor: bool = False) -> Contender:
    run = partial(run_file, files[-1])
    return Contender(name, label, run, files, needs_onnxruntime, floor=floor)


def _openvino(name: str, label: str, file: str) -> Contender:
    return Contender(name, label, partial(run_in_openvino, file), (file,), needs_openvino)


def _engine(made_of: str, label: str, *files: str) -> Contender:
    file = engine_file(made_of)
    run = partial(run_engine, file)
    return Contender(f"tensorrt-{made_of}", label, run, (*files, file), needs_tensorrt)


CONTENDERS: tuple[Contender, ...] = (
    Contender("eager", "eager torch", eager),
    Contender("ropeexport", "ropeexport, onnxruntime", ours, needs=needs_onnxruntime),
    _file("plain", "plain torch.onnx.export, onnxruntime", PLAIN),
    _file("ort-optimizer", "plain, onnxruntime's transformer optimiser", PLAIN, OPTIMISED),
    Contender("optimum", "optimum-onnx, onnxruntime", optimum, (OPTIMUM,), needs_onnxruntime),
    Contender("compile", "torch.compile", compiled, needs=needs_compiler),
    _openvino("openvino", "ropeexport inlined, OpenVINO", INLINED),
    _openvino("openvino-plain", "plain, OpenVINO", PLAIN),
    _engine("plugin", "ropeexport, TensorRT, plugin"),
    _engine("native", "ropeexport, TensorRT, native"),
    _engine("decomposed", "ropeexport, TensorRT, decomposed"),
    _engine("plain", "plain torch.onnx.export, TensorRT", PLAIN),
    _file("without-rope", "without any rope, onnxruntime", WITHOUT_ROPE, floor=True),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}
# a name that stands for several
GROUPS = {"tensorrt": tuple(name for name in BY_NAME if name.startswith("tensorrt-"))}
