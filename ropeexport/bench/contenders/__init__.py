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
from ropeexport.bench.contenders.with_runtime import bare, needs, optimum, ours, run_file
from ropeexport.bench.contenders.with_torch import compiled, eager, needs_compiler
from ropeexport.runners.registry import Choice, choice, plugged_choices

_ONNXRUNTIME, _OPENVINO, _TENSORRT = map(choice, ("onnxruntime", "openvino", "tensorrt"))


def _file(name: str, label: str, *files: str, floor: bool = False) -> Contender:
    # a floor for ropeexport's file is run as that is
    run = partial(run_file, _ONNXRUNTIME, files[-1], as_written=not floor)
    return Contender(name, label, run, files, partial(needs, _ONNXRUNTIME), floor=floor)


def _ours(name: str, label: str, chosen: Choice = _ONNXRUNTIME) -> Contender:
    return Contender(name, label, partial(ours, chosen), needs=partial(needs, chosen))


def _optimum(name: str, label: str) -> Contender:
    run = partial(optimum, _ONNXRUNTIME)
    return Contender(name, label, run, (OPTIMUM,), partial(needs, _ONNXRUNTIME))


def _openvino(name: str, label: str, file: str) -> Contender:
    run = partial(run_file, _OPENVINO, file)
    return Contender(name, label, run, (file,), partial(needs, _OPENVINO))


def _engine(made_of: str, label: str, *files: str) -> Contender:
    file = engine_file(made_of)
    run = partial(run_file, _TENSORRT, file)
    name = f"{_TENSORRT.name}-{made_of}"
    return Contender(name, label, run, (*files, file), partial(needs, _TENSORRT))


CONTENDERS: tuple[Contender, ...] = (
    Contender("eager", "eager torch", eager),
    _ours("ropeexport", "ropeexport, onnxruntime"),
    Contender(
        "ropeexport-bare",
        "ropeexport's file, bare onnxruntime",
        partial(bare, _ONNXRUNTIME),
        needs=partial(needs, _ONNXRUNTIME),
    ),
    _file("plain", "plain torch.onnx.export, onnxruntime", PLAIN),
    _file("ort-optimizer", "plain, onnxruntime's transformer optimiser", PLAIN, OPTIMISED),
    _optimum("optimum", "optimum-onnx, onnxruntime"),
    Contender("compile", "torch.compile", compiled, needs=needs_compiler),
    _openvino("openvino", "ropeexport inlined, OpenVINO", INLINED),
    _openvino("openvino-plain", "plain, OpenVINO", PLAIN),
    _engine("plugin", "ropeexport, TensorRT, plugin"),
    _engine("native", "ropeexport, TensorRT, native"),
    _engine("decomposed", "ropeexport, TensorRT, decomposed"),
    _engine("plain", "plain torch.onnx.export, TensorRT", PLAIN),
    _file("without-rope", "without any rope, onnxruntime", WITHOUT_ROPE, floor=True),
)
# our file in a plug-in of a runtime: where it is named.  On a GPU its arrays would be copied in
# the time of a call, so there it has no part
PLUGGED: tuple[Contender, ...] = tuple(
    _ours(each.name, f"ropeexport, {each.name}", each)
    for each in plugged_choices()
    if each.provider is not None and each.provider.device == "cpu"
)
BY_NAME = {contender.name: contender for contender in (*CONTENDERS, *PLUGGED)}
# a name that stands for several
GROUPS = {"tensorrt": tuple(name for name in BY_NAME if name.startswith("tensorrt-"))}
