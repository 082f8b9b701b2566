"""onnxruntime, the stock package: the one place that opens its sessions.

The custom op needs no library: onnxruntime inlines its function body.  Attention is given to it in
the form that it computes best (:mod:`ropeexport.ops.attention`).
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.artifact import Artifact
from ropeexport.dtypes import FOREIGN, FloatType
from ropeexport.errors import MissingError, ModelFileError, ParityError, RopeExportError, first_line
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.retype import has_foreign
from ropeexport.onnx_files.variants import with_attention_in_blocks
from ropeexport.packages import require
from ropeexport.runners import ort_providers
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.ort_providers import require_provider
from ropeexport.runners.registry import CUDA, Opening, Provider
from ropeexport.runners.runner import Facts, Runner, wanted

if TYPE_CHECKING:
    from ropeexport.runners.ort_binding import BoundMemory

__all__ = ["OrtRunner", "look", "opened", "require_provider"]

BODY = "function body"
# onnxruntime's names of the types that NumPy lacks
_FOREIGN = {kind.onnx_text: kind for kind in FOREIGN.values()}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_QUIET = 4  # fatal messages only: every error is raised as well


def opened(opening: Opening) -> OrtRunner:
    """Return a runner as a stage wants it, see :mod:`ropeexport.runners.registry`."""
    device = opening.device
    by_device = ort_providers.provider_of(device) if device is not None else None
    assert not isinstance(opening.model, Artifact)  # it runs files
    return OrtRunner(
        opening.model,
        threads=opening.threads,
        provider=opening.provider or by_device,
        timed=opening.timed,
        as_written=opening.as_written,
    )


def look() -> dict[str, str | None]:
    """Return the installed onnxruntime with its providers, for ``doctor``."""
    return {"onnxruntime": _installed()}


def _installed() -> str | None:
    if find_spec("onnxruntime") is None:
        return None
    try:
        import onnxruntime
    except (ImportError, OSError):  # there, but broken: the cure is the same
        return None
    names = onnxruntime.get_available_providers()
    providers = (name.removesuffix("ExecutionProvider") for name in names)
    return f"{onnxruntime.__version__} ({', '.join(providers)})"


class OrtRunner(Runner):
    """Runs an ONNX file with onnxruntime.

    Parameters
    ----------
    model : OnnxFile or bytes
        An ONNX file, or a serialized model.
    threads : int
        Threads of a node; 0: onnxruntime's own choice.
    provider : Provider, optional
        What must execute; else CUDA where onnxruntime has it, and the CPU.
    timed : bool
        Threads may spin; on CUDA, inputs and outputs are bound where they lie, and a call is
        enqueued on torch's current stream.
    as_written : bool
        The file itself is run; else, with attention in blocks where sequences are long, but for a
        provider that is a package of its own.
    implementation : tuple of str
        What the file has in the rope's place.
    """

    def __init__(
        self,
        model: OnnxFile | bytes,
        *,
        threads: int = 0,
        provider: Provider | None = None,
        timed: bool = False,
        as_written: bool = False,
        implementation: tuple[str, ...] = (BODY,),
    ) -> None:
        self._model = model
        self._threads = threads
        self._provider = provider
        self._timed = timed
        self._as_written = as_written
        self._session: Any = None
        self._bound: BoundMemory | None = None
        self.facts = Facts(implementation=implementation)

    def __enter__(self) -> Self:
        require("onnxruntime")
        try:
            import onnxruntime as ort
        except (ImportError, OSError) as error:
            raise MissingError(
                f"onnxruntime cannot be imported ({error}); install it again"
            ) from error

        self._version = ort.__version__
        if isinstance(self._model, OnnxFile) and not self._model.path.is_file():
            raise ModelFileError(f"{self._model.path}: no such file")
        self._session = self._open(ort)
        if self._provider is not None:
            ort_providers.require_taken(self._session, self._provider)
        executes = self._session.get_providers()[0]
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        self._has_foreign = any(value.type in _FOREIGN for value in values)
        if self._on_stream:
            from ropeexport.runners.ort_binding import BoundMemory

            self._bound = BoundMemory(self._session, "cuda")
        self.facts = Facts(
            version=self._version,
            implementation=self.facts.implementation,
            provider=executes,
            device=ort_providers.device_of(executes),
            attention=self.facts.attention,
        )
        return self

    def close(self) -> None:
        """Let the model go."""
        self._session = self._bound = None

    def load(self, inputs: Arrays) -> Any:
        """Return what a session takes: arrays as they are, unless NumPy lacks one of the types."""
        given = wanted(self._inputs, inputs, "onnxruntime")
        if self._bound is not None:
            return self._bound.load(given)
        if self._has_foreign:
            return {name: _value_from(x) for name, x in given.items()}
        return given

    def call(self, loaded: Any) -> Any:
        """Run the session once."""
        try:
            if self._bound is not None:
                return self._bound.call(loaded)
            if self._has_foreign:
                return self._session.run_with_ort_values(self._outputs, loaded)
            return self._session.run(self._outputs, loaded)
        except _ort_errors() as error:
            if type(error).__name__ == "NotImplemented":
                raise self._missing(error) from error
            raise ParityError(f"onnxruntime: the run failed: {_cause(error)}") from error

    def read(self, results: Any) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of what a call gave, by name."""
        if self._bound is not None:
            results = self._bound.read(results)
        elif self._has_foreign:
            results = map(_array_from, results)
        return dict(zip(self._outputs, results, strict=True))

    @property
    def _on_stream(self) -> bool:
        return self._timed and self._provider is CUDA

    def _open(self, ort: Any) -> Any:
        options = self._options(ort)
        plugged = self._provider is not None and self._provider.package
        model: Any = self._model
        if isinstance(model, OnnxFile):
            model = str(model.path) if plugged or self._as_written else self._best(model, options)
        if self._provider is not None and plugged:
            ort_providers.add_plugin(options, self._provider)
        providers = (
            None if plugged else ort_providers.providers_of(self._provider, **self._stream())
        )
        try:
            return ort.InferenceSession(model, options, providers=providers)
        except _ort_errors() as error:
            raise self._load_error(error) from error

    def _best(self, file: OnnxFile, options: Any) -> str | bytes:
        """Return a file's path; where there is attention to put in blocks, the model with that."""
        made = with_attention_in_blocks(file.graph)
        if made is file.graph:
            return str(file.path)
        self.facts = replace(self.facts, attention="attention in blocks")
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(file.path.parent))
        message: bytes = ir.to_proto(made).SerializeToString()
        return message

    def _options(self, ort: Any) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = _QUIET
        if not self._timed:  # spinning threads would slow the other runtimes of the same process
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _stream(self) -> dict[str, str]:
        if not self._on_stream:
            return {}
        import torch

        return {"user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}

    def _load_error(self, error: Exception) -> RopeExportError:
        where = self._model.path if isinstance(self._model, OnnxFile) else "the model"
        if type(error).__name__ == "NotImplemented" and self._file_has_foreign():
            return self._missing(error)
        return ModelFileError(
            f"{where}: onnxruntime cannot load it ({_cause(error)}); export it again"
        )

    def _missing(self, error: Exception) -> MissingError:
        return MissingError(
            f"onnxruntime {self._version} has no kernel for a type of this model here: "
            f"{_cause(error)}"
        )

    def _file_has_foreign(self) -> bool:
        """Say whether the file has a type that NumPy lacks; a serialized model has none."""
        return isinstance(self._model, OnnxFile) and has_foreign(self._model.graph)


def _ort_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf",
        "NoModel", "NoSuchFile", "NotImplemented", "RuntimeException",
    )  # fmt: skip
    return tuple(getattr(state, name) for name in names if hasattr(state, name))


def _value_from(array: NDArray[np.generic]) -> Any:
    import onnxruntime as ort

    whole = np.ascontiguousarray(array).reshape(array.shape)
    kind = FOREIGN.get(str(whole.dtype))
    if kind is not None:
        bits = whole.view(_unsigned(kind))
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind.onnx_type)
    return ort.OrtValue.ortvalue_from_numpy(whole)


def _unsigned(kind: FloatType) -> np.dtype[np.generic]:
    return np.dtype(f"u{kind.bits.itemsize}")


def _array_from(value: Any) -> NDArray[np.generic]:
    kind = _FOREIGN.get(value.data_type())
    if kind is None:
        array: NDArray[np.generic] = value.numpy()
        return array
    # onnxruntime knows no NumPy type for it, so the bits are read where they lie
    shape = tuple(value.shape())
    size = math.prod(shape) * kind.bits.itemsize
    bits = (ctypes.c_uint8 * size).from_address(value.data_ptr())
    return np.frombuffer(bits, dtype=kind.numpy).reshape(shape).copy()


def _cause(error: Exception) -> str:
    """Return what went wrong, without onnxruntime's code and class in front of it."""
    return first_line(error).rpartition(" : ")[2]
