"""Who takes part: each is set up in a process of its own, from the folder and what was prepared.

What a flavour of TensorRT says on a GPU that its documents do not name is a refusal, no failure.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ropeexport.artifact import Artifact, Trust
from ropeexport.bench.records import BARE, OURS
from ropeexport.errors import BuildError, EngineError, MissingError, RopeExportError
from ropeexport.machine import find_gpu
from ropeexport.manifest import ENGINE_NAME
from ropeexport.models.held import Held
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.runners.registry import Choice, Device, Opening, choice, plugged_choices
from ropeexport.runners.runner import Arrays, Facts, Runner
from ropeexport.trt.flavour import names_gpu

if TYPE_CHECKING:
    from torch import Tensor

PLAIN, WITHOUT_ROPE, OPTIMISED, INLINED, OPTIMUM = (
    "plain.onnx", "without_rope.onnx", "optimised.onnx", "inlined.onnx", "optimum.onnx",
)  # fmt: skip
_P = ParamSpec("_P")
_T = TypeVar("_T")


def engine_file(made_of: str) -> str:
    """Return the prepared file of an engine: of an implementation, or of the plain export."""
    return f"{made_of}/{ENGINE_NAME}"


@dataclass(frozen=True)
class Setting:
    """What a contender is made of.

    Parameters
    ----------
    folder : Path
        The output folder.
    prepared : Path
        The folder of the files that were made for the run.
    module : str, Held or None
        The factory to import where the model is the user's own code, or what they hold of it.
    threads : int
        For the runtime's own pool.
    device : str
        ``cpu`` or ``cuda``.
    trusts_code : bool
        Whether the code that the folder's config brings along may run.
    """

    folder: Path
    prepared: Path
    module: str | Held | None
    threads: int
    device: Device = "cpu"
    trusts_code: bool = False

    @cached_property
    def artifact(self) -> Artifact:
        """The output folder, read once."""
        return Artifact.read(self.folder, Trust(code=self.trusts_code))

    @property
    def outputs(self) -> list[str]:
        """Names of the model's outputs, in order."""
        return [spec.name for spec in self.artifact.manifest.model.outputs]


@dataclass(frozen=True)
class Recipe:
    """How a contender is made: its name, its line in the table, and its function.

    Parameters
    ----------
    name, label : str
        For the command line and for the table.
    set_up : callable
        Returns its runner, entered, in its own process: what a user pays once is paid.
    files : tuple of str
        The prepared files that it needs, in the order in which they are made; the last is its own.
    needs : callable
        Raises :class:`ropeexport.errors.MissingError` where this machine, or the device, lacks
        something: before any file is made.
    floor : bool
        It computes less on purpose, and is timed without a parity check.
    """

    name: str
    label: str
    set_up: Callable[[Setting], Runner]
    files: tuple[str, ...] = ()
    needs: Callable[[Device], None] = lambda device: None
    floor: bool = False


def refusable(flavour: str, work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return a work that raises MissingError where a flavour refuses this machine's GPU.

    On a GPU that the flavour's documents do not name it is tried all the same, and what is raised
    keeps its text; elsewhere the work itself is returned.
    """
    gpu = find_gpu()
    if gpu is None or names_gpu(flavour, gpu.compute_capability):
        return work
    where = f"{flavour}'s documents do not name compute capability {gpu.compute_capability}"

    def tried(*arguments: _P.args, **options: _P.kwargs) -> _T:
        try:
            return work(*arguments, **options)
        except Exception as error:
            refusals = (BuildError, EngineError)
            if isinstance(error, RopeExportError) and not isinstance(error, refusals):
                raise
            text = str(error) or type(error).__name__
            raise MissingError(f"{text}; {where} ({gpu.name})", code="RX709") from error

    return tried


def kept_beside(engine: Path) -> Path:
    """Return where what was compiled for an engine is kept: of this run, so the first load is one.

    In the user's cache folder it would come from a former run of the same engine, and fill it.
    """
    return engine.with_name("runtime")


def run_file(
    chosen: Choice, file: str | None, setting: Setting, *, as_written: bool = True
) -> Runner:
    """Run ropeexport's file, or a prepared file or engine, whose manifest lies beside it."""
    path = setting.prepared / file if file else setting.artifact.model_path
    is_engine = chosen.runtime.runs == "engine"
    opening = Opening(
        # an engine of this run's own
        model=Artifact.read(path.parent, Trust(engines=True)) if is_engine else OnnxFile(path),
        provider=chosen.provider,
        device=setting.device,
        threads=setting.threads,
        timed=True,
        as_written=as_written,
        kept_in=kept_beside(path) if is_engine else None,
    )
    return _Contending(chosen.runtime.open(opening), setting.outputs, file, is_engine)


class _Contending(Runner):
    """A runner, entered, under the names that the model's outputs have, whatever the file's are.

    Where it runs an engine, all that it does may be refused.
    """

    def __init__(
        self, runner: Runner, outputs: list[str], file: str | None, is_engine: bool
    ) -> None:
        flavour = runner.facts.version.partition(" ")[0]

        def tried(work: Callable[_P, _T]) -> Callable[_P, _T]:
            return refusable(flavour, work) if is_engine else work

        tried(runner.__enter__)()
        self._runner, self._outputs, self._is_optimums = runner, outputs, file == OPTIMUM
        self._load, self._call = tried(runner.load), tried(runner.call)
        self._read = tried(runner.read)
        self.facts = runner.facts

    def load(self, inputs: Arrays) -> Any:
        return self._load(_for_optimum(inputs) if self._is_optimums else inputs)

    def call(self, loaded: Any) -> Any:
        return self._call(loaded)

    def read(self, results: Any) -> dict[str, NDArray[np.generic]]:
        return dict(zip(self._outputs, self._read(results).values(), strict=False))

    def keep(self) -> None:
        self._runner.keep()


def _for_optimum(inputs: Arrays) -> Arrays:
    """Return the inputs that optimum-onnx's file wants in place of a model's own.

    Of a language model that is a mask too, which keeps every token; of FLUX, positions as integers.
    """
    found = {n: x.astype(np.int64) if n.endswith("_ids") else x for n, x in inputs.items()}
    tokens = found.get("input_ids")
    mask = {} if tokens is None else {"attention_mask": np.ones_like(tokens)}
    return {**mask, **found}


def _needs_compiler(device: Device) -> None:
    """Raise where torch.compile cannot compile for a device."""
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise MissingError("torch.compile needs a C++ compiler; install g++", code="RX905")
    if device == "cuda" and find_spec("triton") is None:
        raise MissingError(
            "torch.compile needs triton on a GPU; run: pip install triton", code="RX901"
        )


def _in_torch(setting: Setting, *, compiled: bool = False) -> Runner:
    """Run the module itself, or in plain operations through ``torch.compile``."""
    import torch

    from ropeexport.models import sources
    from ropeexport.models.example import bound

    torch.set_num_threads(setting.threads)
    example = sources.rebuild_example(setting.artifact, setting.module)
    if not compiled:
        return _TorchRunner(bound(example).to(setting.device), setting)
    from torch.export.passes import move_to_device_pass

    from ropeexport.bench.peers import plain_program

    program = move_to_device_pass(plain_program(example), setting.device)
    module: Any = program.module(check_guards=False)
    plain = bound(replace(example, module=module)).to(setting.device)
    return _TorchRunner(torch.compile(plain, dynamic=False), setting)


class _TorchRunner(Runner):
    """Runs a module on tensors of its device, whatever it leaves in itself."""

    def __init__(self, module: Any, setting: Setting) -> None:
        import torch

        from ropeexport.runners import torch_arrays

        self._arrays = torch_arrays  # which torch comes with
        self._call = torch.inference_mode()(torch_arrays.caller(module, setting.outputs))
        self._device = setting.device
        self.facts = Facts(torch.__version__, device=setting.device)

    def load(self, inputs: Arrays) -> dict[str, Tensor]:
        return {name: self._arrays.tensor_from(x).to(self._device) for name, x in inputs.items()}

    def call(self, loaded: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._call(loaded)

    def read(self, results: dict[str, Tensor]) -> dict[str, NDArray[np.generic]]:
        return {name: self._arrays.array_from(x) for name, x in results.items()}


_ORT, _OPENVINO, _TRT = map(choice, ("onnxruntime", "openvino", "tensorrt"))


def _in(chosen: Choice, name: str, label: str, *files: str, as_written: bool = True) -> Recipe:
    """Return what runs the last of some prepared files in a runtime, without any our own."""
    run = partial(run_file, chosen, files[-1] if files else None, as_written=as_written)
    needs = partial(chosen.runtime.require, provider=chosen.provider)
    return Recipe(name, label, run, files, needs)


# ropeexport's file as ropeexport runs it, and what is a floor for that
_ours = partial(_in, as_written=False)
_floor = _ours(_ORT, "without-rope", "without any rope, onnxruntime", WITHOUT_ROPE)

CONTENDERS: tuple[Recipe, ...] = (
    Recipe("eager", "eager torch", _in_torch),
    _ours(_ORT, OURS, "ropeexport, onnxruntime"),
    _in(_ORT, BARE, "ropeexport's file, bare onnxruntime"),
    _in(_ORT, "plain", "plain torch.onnx.export, onnxruntime", PLAIN),
    _in(_ORT, "ort-optimizer", "plain, onnxruntime's transformer optimiser", PLAIN, OPTIMISED),
    _in(_ORT, "optimum", "optimum-onnx, onnxruntime", OPTIMUM),
    Recipe("compile", "torch.compile", partial(_in_torch, compiled=True), needs=_needs_compiler),
    _in(_OPENVINO, "openvino", "ropeexport inlined, OpenVINO", INLINED),
    _in(_OPENVINO, "openvino-plain", "plain, OpenVINO", PLAIN),
    _in(_TRT, "tensorrt-plugin", "ropeexport, TensorRT, plugin", engine_file("plugin")),
    _in(_TRT, "tensorrt-native", "ropeexport, TensorRT, native", engine_file("native")),
    _in(_TRT, "tensorrt-decomposed", "ropeexport, TensorRT, decomposed", engine_file("decomposed")),
    _in(_TRT, "tensorrt-plain", "plain torch.onnx.export, TensorRT", PLAIN, engine_file("plain")),
    replace(_floor, floor=True),
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
