"""The runtimes of a model, a row each, as every stage and the command line read them.

A new runtime is a file beside this one, with a function that returns its runner, and a row here.
Nothing here imports a runtime: that is left to the functions that the rows name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

from ropeexport.dtypes import FLOATS, FOREIGN
from ropeexport.errors import MissingError, UsageError

if TYPE_CHECKING:
    from ropeexport.artifact import Artifact
    from ropeexport.onnx_files.onnx_file import OnnxFile
    from ropeexport.runners.runner import Runner

Device = Literal["cpu", "cuda"]

EAGER = "eager"  # what the runtimes of a folder are compared with
EMULATED = "EMULATED"

# who runs a floating type: whoever has a name for it, see ropeexport.dtypes
_IN_ONNX = tuple(kind.name for kind in FLOATS if kind.onnx)
_IN_OPENVINO = tuple(kind.name for kind in FLOATS if kind.openvino)
_IN_TENSORRT = tuple(kind.name for kind in FLOATS if kind.tensorrt)
_DEVICES = {"cpu": "a CPU", "cuda": "a GPU"}


@dataclass(frozen=True)
class Provider:
    """A library that executes a model in a runtime's place: an execution provider of onnxruntime.

    Parameters
    ----------
    name : str
        After the colon of ``onnxruntime:cuda``.
    executes : str
        The runtime's own name of it.
    device : str
        Where it computes.
    package : str
        The Python package of a plug-in, which knows the path of its library; empty for one that is
        part of the runtime.
    distribution : str
        What ``pip install`` calls that package.
    options : tuple of (str, str)
        What it is always told.
    bounded : bool
        Whether the memory that it takes of a GPU can be bounded.
    """

    name: str
    executes: str
    device: Device
    package: str = ""
    distribution: str = ""
    options: tuple[tuple[str, str], ...] = ()
    bounded: bool = False


@dataclass(frozen=True)
class Opening:
    """What is opened in a runtime, and how.

    Parameters
    ----------
    model : OnnxFile, Artifact or bytes
        An ONNX file; of a runtime that runs engines, the output folder of one; or a serialized
        model.
    provider : Provider, optional
        In place of the runtime's own choice.
    device : str, optional
        In place of the runtime's own choice.
    threads : int
        Of the runtime's pool; 0: its own choice.
    timed : bool
        The calls are what counts, in a benchmark or in production: what a shape needs is compiled
        before its first call, threads may spin, and on a GPU inputs and outputs stay there and a
        call is enqueued on torch's stream.
    as_written : bool
        The file's own nodes run, none in a form that the runtime computes better.
    kept_in : Path, optional
        Where what is compiled for this machine is kept, in place of ropeexport's cache folder.
    plugin : Path, optional
        The plugin library of an engine that does not carry it, in place of the one that is found.
    cuda_graphs : bool
        Calls on a GPU are recorded once for each shape, and replayed.
    memory_budget : int, optional
        Bytes of a GPU's memory that it may take: an engine's weights that stay there, the others
        streamed in from the host's; onnxruntime's arena.  :meth:`Runtime.open` refuses it where
        the runtime has no such bound.
    """

    model: OnnxFile | Artifact | bytes
    provider: Provider | None = None
    device: Device | None = None
    threads: int = 0
    timed: bool = False
    as_written: bool = False
    kept_in: Path | None = None
    plugin: Path | None = None
    cuda_graphs: bool = False
    memory_budget: int | None = None


@dataclass(frozen=True)
class Runtime:
    """A runtime: what it needs, what it can do, and how it is opened.

    Parameters
    ----------
    name, label : str
        For programs and the command line, and for people.
    opens : str
        ``module:function``, which takes an :class:`Opening` and returns a runner, not yet entered.
    runs : str
        ``file``: the ONNX file of a folder; ``engine``: what ``ropeexport build`` made of it.
    packages : tuple of str
        Python packages that it imports.
    distributions : tuple of str
        What ``pip`` calls them, for a report's list of versions; any one of them may be there.
    devices : tuple of str
        Where it can compute.
    dtypes : tuple of str
        NumPy's names of the floating types that its inputs and outputs can have; of what emulates
        another runtime, those that it emulates.
    providers : tuple of Provider
        What it can execute with; its own choice among them where none is named.
    reentrant : bool
        Whether a loaded model may be run from several threads at once.
    cuda_graphs : bool
        Whether it can record its calls on a GPU.
    needs : str
        ``module:function``, which takes a device and a provider and raises
        :class:`ropeexport.errors.MissingError` where this machine lacks more than packages.
    looks : str
        ``module:function``, which returns what ``doctor`` shows in place of a package's version: a
        name and a text, or None where it is not here, for each of its lines.
    optional : bool
        Whether ``doctor`` calls a machine complete without it.
    keeps_nan : bool
        Whether NaN always reaches the outputs that it belongs to: positions beyond a file's tables
        of angles are NaN so that nobody takes a wrong number for a right one.
    replaces : str
        The runtime that this one emulates where that has no kernels for the types of a model; it is
        never chosen by name.
    bounded : bool
        Whether the memory that it takes of a GPU can be bounded.
    """

    name: str
    label: str
    opens: str
    runs: Literal["file", "engine"] = "file"
    packages: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ("cpu",)
    dtypes: tuple[str, ...] = _IN_ONNX
    providers: tuple[Provider, ...] = ()
    reentrant: bool = False
    cuda_graphs: bool = False
    needs: str = ""
    looks: str = ""
    optional: bool = False
    keeps_nan: bool = True
    replaces: str = ""
    bounded: bool = False

    def open(self, opening: Opening) -> Runner:
        """Return a runner of a model, not yet entered.

        Raises
        ------
        UsageError
            For a memory budget where the runtime, or what executes in its place, has none.
        ModelFileError
            For an ONNX file that does not end, whatever its inputs are.
        """
        self._check_budget(opening)
        from ropeexport.onnx_files.ending import require_ending
        from ropeexport.onnx_files.onnx_file import OnnxFile

        if isinstance(opening.model, OnnxFile):
            require_ending(opening.model)
        runner: Runner = resolve_name(self.opens)(opening)
        return runner

    def _check_budget(self, opening: Opening) -> None:
        budget = opening.memory_budget
        if budget is None:
            return
        if budget < 0:
            raise UsageError(
                f"memory_budget: expected bytes, 0 or more, got {budget}", code="RX110"
            )
        own = (p for p in self.providers if p.device == opening.device)
        provider = opening.provider or next(own, None)
        if not (provider or self).bounded:
            who = f"{self.label} with {provider.executes}" if provider else self.label
            able = [each.name for each in _choices() if (each.provider or each.runtime).bounded]
            raise UsageError(
                f"memory_budget: {who} takes none; choose {' or '.join(able)}", code="RX508"
            )

    def require(self, device: Device | None = None, provider: Provider | None = None) -> None:
        """Raise :class:`MissingError` where this machine, or a device, lacks what it needs."""
        from ropeexport.machine import require

        devices = self.devices if provider is None else (provider.device,)
        elsewhere = device is not None and device not in devices
        if self.needs or not elsewhere:  # what no device mends is said first
            require(*self.packages)
            if provider is not None and provider.package:
                require(provider.package)
        if self.needs:
            resolve_name(self.needs)(device, provider)
        if elsewhere:
            where = " or ".join(_DEVICES[each] for each in devices)
            name = provider.executes if provider else self.label
            raise MissingError(f"{name} runs on {where}: use --device {devices[0]}", code="RX513")

    def look(self) -> dict[str, str | None] | None:
        """Return what ``doctor`` shows of it; None: the version of its package."""
        found: dict[str, str | None] | None = resolve_name(self.looks)() if self.looks else None
        return found

    def is_idle_for(self, dtypes: Sequence[str]) -> bool:
        """Say whether none of a model's floating types is one that this one emulates."""
        return not set(dtypes) & set(self.dtypes)

    def require_dtypes(self, dtypes: Sequence[str]) -> None:
        """Raise :class:`MissingError` where a model has floating types that it does not run."""
        unknown = [dtype for dtype in dtypes if dtype not in self.dtypes]
        if unknown and not self.replaces:
            raise MissingError(f"{self.label} does not run {', '.join(unknown)}", code="RX513")


CPU = Provider("cpu", "CPUExecutionProvider", "cpu")
CUDA = Provider("cuda", "CUDAExecutionProvider", "cuda", bounded=True)

RUNTIMES: tuple[Runtime, ...] = (
    Runtime(
        "onnxruntime",
        "onnxruntime",
        opens="ropeexport.runners.ort:opened",
        packages=("onnxruntime",),
        distributions=("onnxruntime", "onnxruntime-gpu"),
        devices=("cpu", "cuda"),
        providers=(
            CPU,
            CUDA,
            Provider(
                "openvino",
                "OpenVINOExecutionProvider",
                "cpu",
                package="onnxruntime_ep_openvino",
                distribution="onnxruntime-ep-openvino",
                # on a processor with bfloat16 it would compute float32 in that
                options=(("load_config", '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'),),
            ),
            Provider(
                "tensorrt-rtx",
                "NvTensorRTRTXExecutionProvider",
                "cuda",
                package="onnxruntime_ep_nv_tensorrt_rtx",
                distribution="onnxruntime-ep-nv-tensorrt-rtx",
            ),
        ),
        reentrant=True,
        needs="ropeexport.runners.ort_providers:require_provider",
        looks="ropeexport.runners.ort:look",
    ),
    Runtime(
        "openvino",
        "OpenVINO",
        opens="ropeexport.runners.openvino:opened",
        packages=("openvino",),
        distributions=("openvino",),
        dtypes=_IN_OPENVINO,
        optional=True,
        keeps_nan=False,  # its attention with a mask gives finite numbers for NaN
    ),
    Runtime(
        "tensorrt",
        "TensorRT",
        opens="ropeexport.runners.trt:opened",
        runs="engine",
        cuda_graphs=True,
        distributions=("tensorrt", "tensorrt-rtx"),
        devices=("cuda",),
        dtypes=_IN_TENSORRT,
        needs="ropeexport.runners.trt:require_gpu",
        looks="ropeexport.runners.trt:look",
        bounded=True,
    ),
    Runtime(
        EMULATED,
        "the emulation of bfloat16",
        opens="ropeexport.runners.ort_emulated:opened_emulated",
        packages=("onnxruntime",),
        dtypes=tuple(FOREIGN),
        reentrant=True,
        optional=True,
        replaces="onnxruntime",
    ),
)


@dataclass(frozen=True)
class Choice:
    """A runtime, and the provider where one is named: ``onnxruntime``, ``onnxruntime:cuda``."""

    runtime: Runtime
    provider: Provider | None = None

    @property
    def name(self) -> str:
        """As the command line and the reports write it."""
        return f"{self.runtime.name}:{self.provider.name}" if self.provider else self.runtime.name

    @property
    def device(self) -> Device:
        """Where it computes; a runtime's first where it has several."""
        return self.provider.device if self.provider else self.runtime.devices[0]


def chosen() -> tuple[Runtime, ...]:
    """Return the runtimes that can be named; all of them take part where none is."""
    return tuple(runtime for runtime in RUNTIMES if not runtime.replaces)


def own_choices(runtime: Runtime) -> tuple[Choice, ...]:
    """Return a runtime with each provider that is part of it, or as it is where it has none."""
    own = tuple(Choice(runtime, each) for each in runtime.providers if not each.package)
    return own or (Choice(runtime),)


def substitutes(runtime: Runtime) -> tuple[Runtime, ...]:
    """Return what emulates a runtime."""
    return tuple(each for each in RUNTIMES if each.replaces == runtime.name)


def find(name: str) -> Runtime:
    """Return a runtime by its name, with or without a provider's."""
    return next(each for each in RUNTIMES if each.name == name.partition(":")[0])


def choice(name: str) -> Choice:
    """Return what a name means.

    Raises
    ------
    UsageError
        With the names that there are.
    """
    found = {each.name: each for each in _choices()}
    if name not in found:
        raise UsageError(f"{name!r}: expected a runtime, one of {', '.join(found)}", code="RX110")
    return found[name]


def choice_of(name: str) -> Choice:
    """Return what a name in a report means: a choice, or what emulates a runtime."""
    runtime = find(name)
    return Choice(runtime) if runtime.replaces else choice(name)


def choices(names: Sequence[str] = (), required: Sequence[str] = ()) -> tuple[Choice, ...]:
    """Return the choices of some names, without any those of all runtimes, and what is required."""
    asked = names or [runtime.name for runtime in chosen()]
    return tuple(choice(name) for name in dict.fromkeys((*asked, *required)))


def plugged_choices() -> tuple[Choice, ...]:
    """Return the choices of a provider that is a package of its own."""
    return tuple(each for each in _choices() if each.provider and each.provider.package)


def names() -> tuple[str, ...]:
    """Return every name that the command line takes."""
    return tuple(each.name for each in _choices())


def distributions() -> tuple[str, ...]:
    """Return what ``pip`` calls the runtimes and their plug-ins, as far as they are known."""
    own = [name for runtime in RUNTIMES for name in runtime.distributions]
    plugged = [p.distribution for runtime in RUNTIMES for p in runtime.providers if p.distribution]
    return tuple(dict.fromkeys([*own, *plugged]))


def import_runners() -> None:
    """Import every module that opens a runtime; the runtimes themselves stay where they are."""
    for runtime in RUNTIMES:
        resolve_name(runtime.opens)


def _choices() -> Iterator[Choice]:
    for runtime in chosen():
        yield Choice(runtime)
        yield from (Choice(runtime, provider) for provider in runtime.providers)
