"""Who takes part: each is set up in a process of its own, from the folder and what was prepared."""

from __future__ import annotations

from functools import partial

from ropeexport.bench.contenders.contender import (
    INLINED,
    OPTIMISED,
    OPTIMUM,
    PLAIN,
    WITHOUT_ROPE,
    Recipe,
    engine_file,
)
from ropeexport.bench.contenders.with_runtime import needs, run_file
from ropeexport.bench.contenders.with_torch import compiled, eager, needs_compiler
from ropeexport.runners.registry import Choice, choice, plugged_choices

_ORT, _OPENVINO, _TRT = map(choice, ("onnxruntime", "openvino", "tensorrt"))


def _in(
    chosen: Choice,
    name: str,
    label: str,
    *files: str,
    as_written: bool = True,
    floor: bool = False,
) -> Recipe:
    """Return what runs the last of some prepared files in a runtime, without any our own."""
    run = partial(run_file, chosen, files[-1] if files else None, as_written=as_written)
    return Recipe(name, label, run, files, partial(needs, chosen), floor=floor)


# ropeexport's file as ropeexport runs it, and what is a floor for that
_ours = partial(_in, as_written=False)


CONTENDERS: tuple[Recipe, ...] = (
    Recipe("eager", "eager torch", eager),
    _ours(_ORT, "ropeexport", "ropeexport, onnxruntime"),
    _in(_ORT, "ropeexport-bare", "ropeexport's file, bare onnxruntime"),
    _in(_ORT, "plain", "plain torch.onnx.export, onnxruntime", PLAIN),
    _in(_ORT, "ort-optimizer", "plain, onnxruntime's transformer optimiser", PLAIN, OPTIMISED),
    _in(_ORT, "optimum", "optimum-onnx, onnxruntime", OPTIMUM),
    Recipe("compile", "torch.compile", compiled, needs=needs_compiler),
    _in(_OPENVINO, "openvino", "ropeexport inlined, OpenVINO", INLINED),
    _in(_OPENVINO, "openvino-plain", "plain, OpenVINO", PLAIN),
    _in(_TRT, "tensorrt-plugin", "ropeexport, TensorRT, plugin", engine_file("plugin")),
    _in(_TRT, "tensorrt-native", "ropeexport, TensorRT, native", engine_file("native")),
    _in(_TRT, "tensorrt-decomposed", "ropeexport, TensorRT, decomposed", engine_file("decomposed")),
    _in(_TRT, "tensorrt-plain", "plain torch.onnx.export, TensorRT", PLAIN, engine_file("plain")),
    _ours(_ORT, "without-rope", "without any rope, onnxruntime", WITHOUT_ROPE, floor=True),
)
# our file in a plug-in of a runtime: where it is named.  On a GPU its arrays would be copied in
# the time of a call, so there it has no part
PLUGGED: tuple[Recipe, ...] = tuple(
    _ours(each, each.name, f"ropeexport, {each.name}")
    for each in plugged_choices()
    if each.provider is not None and each.provider.device == "cpu"
)
BY_NAME = {contender.name: contender for contender in (*CONTENDERS, *PLUGGED)}
# a name that stands for several
GROUPS = {"tensorrt": tuple(name for name in BY_NAME if name.startswith("tensorrt-"))}
