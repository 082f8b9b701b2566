"""onnxruntime, the stock package: the one importer of it.

The custom op needs no library: onnxruntime inlines its function body.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import MissingError, ModelFileError, ParityError, RopeExportError, first_line
from ropeexport.packages import require
from ropeexport.runners import Arrays
from ropeexport.runners.ort_cuda import CUDA, cuda_provider

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_QUIET = 4  # fatal messages only: every error is raised as well


class OrtRunner:
    """Runs an ONNX file with onnxruntime, on its CUDA provider where it has one.

    Parameters
    ----------
    model : Path or bytes
        An ONNX file, or a serialized model.
    threads : int
        Threads of a node; 0: onnxruntime's own choice.
    providers : tuple of str, optional
        Execution providers in order, in place of CUDA where present and CPU.
    """

    name = "onnxruntime"
    implementation = "function body"
    reentrant = True  # a session may be run from several threads at once

    def __init__(
        self, model: Path | bytes, *, threads: int = 0, providers: tuple[str, ...] | None = None
    ) -> None:
        self._model = model
        self._threads = threads
        self._providers = providers
        self._session: Any = None
        self.device = ""  # the execution provider
        self.version = ""

    def __enter__(self) -> Self:
        require("onnxruntime")
        try:
            import onnxruntime as ort
        except (ImportError, OSError) as error:
            raise MissingError(
                f"onnxruntime cannot be imported ({error}); install it again"
            ) from error

        self.version = ort.__version__
        if isinstance(self._model, Path) and not self._model.is_file():
            raise ModelFileError(f"{self._model}: no such file")
        model = str(self._model) if isinstance(self._model, Path) else self._model
        try:
            self._session = ort.InferenceSession(
                model, self._options(ort), providers=self._chosen_providers(ort)
            )
        except _ort_errors() as error:
            raise self._load_error(error) from error
        self.device = self._session.get_providers()[0]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run the model once, see :class:`ropeexport.runners.Runner`."""
        names = [output.name for output in self._session.get_outputs()]
        values = {name: _value_from(x) for name, x in inputs.items()}
        try:
            outputs = self._session.run_with_ort_values(names, values)
        except _ort_errors() as error:
            if type(error).__name__ == "NotImplemented":
                raise self._missing(error) from error
            raise ParityError(f"onnxruntime: the run failed: {_cause(error)}") from error
        return {name: _array_from(x) for name, x in zip(names, outputs, strict=True)}

    def _options(self, ort: Any) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = _QUIET
        # spinning threads would slow the other runtimes of the same process
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _chosen_providers(self, ort: Any) -> list[Any]:
        if self._providers is not None:
            return list(self._providers)
        present = ort.get_available_providers()
        return [*([cuda_provider()] if CUDA in present else []), "CPUExecutionProvider"]

    def _load_error(self, error: Exception) -> RopeExportError:
        where = self._model if isinstance(self._model, Path) else "the model"
        if type(error).__name__ == "NotImplemented" and self._has_bfloat16():
            return self._missing(error)
        return ModelFileError(
            f"{where}: onnxruntime cannot load it ({_cause(error)}); export it again"
        )

    def _missing(self, error: Exception) -> MissingError:
        return MissingError(
            f"onnxruntime {self.version} has no kernel for a type of this model here: "
            f"{_cause(error)}"
        )

    def _has_bfloat16(self) -> bool:
        import onnx

        model = (
            onnx.load(self._model, load_external_data=False)
            if isinstance(self._model, Path)
            else onnx.load_from_string(self._model)
        )
        values = [*model.graph.input, *model.graph.output]
        return any(value.type.tensor_type.elem_type == _BFLOAT16 for value in values)


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
    if whole.dtype == ml_dtypes.bfloat16:
        bits = whole.view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(whole)


def _array_from(value: Any) -> NDArray[np.generic]:
    if value.data_type() != "tensor(bfloat16)":
        array: NDArray[np.generic] = value.numpy()
        return array
    # onnxruntime knows no NumPy type for it, so the bits are read where they lie
    shape = tuple(value.shape())
    bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.frombuffer(bits, dtype=ml_dtypes.bfloat16).reshape(shape).copy()


def _cause(error: Exception) -> str:
    """Return what went wrong, without onnxruntime's code and class in front of it."""
    return first_line(error).rpartition(" : ")[2]
