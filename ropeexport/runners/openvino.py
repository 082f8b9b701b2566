"""OpenVINO on a CPU: the one place that compiles a model with it.

It knows no function bodies, so they are inlined in memory, the ropes as products and a sum: where a
branch's result is joined with an input of another length (a cache), its ``If`` leaves memory that
nothing wrote in the output (2026.4; a test says when that is mended).  On a processor with bfloat16
it would compute float32 in that, so its precision is pinned.  Its plug-in for CPUs has no float16
arithmetic: it computes such a file in float32, and rounds less often than the file says.

It knows no groups of heads in ``Attention`` (2026.4.1: a size that does not fit what follows), so
keys and values are repeated for them.

Where the first call of all is of one position, its attention gives wrong numbers in every later
call (2026.4, the standard's ``Attention`` alone suffices).  So a model is called once on zeros of
two positions before anything else; who calls OpenVINO must do the same.

Where a thread that has called it ends before the process does, it damages the process's memory
(2026.4.1: on a loaded machine, within 300 rounds of compiling a model, calling it in a thread that
ends and dropping it, glibc's malloc check ended each of six processes; 15,000 rounds with all calls
in one thread ended none).  So whoever calls, one thread that never ends makes the calls.

Source: OpenVINO's documentation of ``INFERENCE_PRECISION_HINT``, of its CPU device ("inference
precision") and of runtime information (``layerType``, ``runtimePrecision``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
import onnx

from ropeexport.axes import names_of, shape_at
from ropeexport.dtypes import FLOATS, FOREIGN, numpy_type
from ropeexport.errors import MissingError, ModelFileError, ParityError
from ropeexport.machine import require
from ropeexport.manifest import TensorSpec
from ropeexport.onnx_files.contract import input_specs
from ropeexport.onnx_files.onnx_file import OnnxFile, has_links, weight_bytes
from ropeexport.onnx_files.variants import (
    inlined,
    whole_message,
    with_body,
    with_every_head,
    with_values,
)
from ropeexport.runners.registry import Opening
from ropeexport.runners.runner import Array, Arrays, Facts, Runner, wanted
from ropeexport.weights.updating import changed

P = ParamSpec("P")
T = TypeVar("T")

DEVICE = "CPU"
# never narrower than the file: "f16" would be bfloat16 here, and so would no hint at all
_OPTIONS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
_LIMIT_BYTES = 1 << 30  # of weights that are read into the model; a serialized one ends at 2 GiB
# OpenVINO's names of the floating types
_WIDEST_FIRST = {kind.openvino: kind.name for kind in FLOATS if kind.openvino}
_FOREIGN = {kind.name: kind.openvino for kind in FOREIGN.values() if kind.openvino}
_MOVES_ONLY = ("Input", "Output", "Const", "Convert", "Reorder")  # kinds of layers
_NO_RULE = "No conversion rule found for operations: "
_PLACES = ("Exception from ", "Check ")  # in OpenVINO's own sources


def opened(opening: Opening) -> OpenvinoRunner:
    """Return a runner as a stage wants it, see :mod:`ropeexport.runners.registry`."""
    assert isinstance(opening.model, OnnxFile)
    return OpenvinoRunner(opening.model, threads=opening.threads)


class _Caller(Thread):
    """Calls what it is given, one after the other; it never ends, not even at exit.

    A pool of one thread would be joined at exit, and so end there.  A process that is forked has no
    such thread: fork before the first call.
    """

    def __init__(self) -> None:
        super().__init__(name="openvino", daemon=True)
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._starting = Lock()

    def run(self) -> None:
        """Call whatever comes."""
        while True:
            self._calls.get()()

    def result(self, function: Callable[[], T]) -> T:
        """Return what a function returns here, or raise what it raises."""
        if current_thread() is self:
            return function()
        with self._starting:
            if not self.is_alive():
                self.start()
        future: Future[T] = Future()
        self._calls.put(partial(_settle, future, function))
        try:
            return future.result()
        finally:
            del future  # an error's traceback has this frame, and would keep the arrays


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
        del future, function  # as above


_CALLER = _Caller()


def _in_one_thread(method: Callable[P, T]) -> Callable[P, T]:
    @wraps(method)
    def moved(*args: P.args, **kwargs: P.kwargs) -> T:
        return _CALLER.result(partial(method, *args, **kwargs))

    return moved


class OpenvinoRunner(Runner):
    """Runs an ONNX file with OpenVINO, compiled once for all its shapes.

    Parameters
    ----------
    file : OnnxFile
        An ONNX file.
    threads : int
        Threads of a call; 0: OpenVINO's own choice.
    """

    facts = Facts(implementation=("inlined function body",), device="cpu")

    def __init__(self, file: OnnxFile, *, threads: int = 0) -> None:
        self._file = file
        self._threads = threads
        self._request: Any = None
        self._updated: dict[str, Array] = {}  # weights that are not the file's
        self._inputs: tuple[str, ...] = ()
        self._outputs: tuple[str, ...] = ()

    @_in_one_thread
    def __enter__(self) -> Self:
        require("openvino")
        try:
            ov = _imported()
        except (ImportError, OSError) as error:
            raise MissingError(
                f"openvino cannot be imported ({error}); install it again", code="RX902"
            ) from error
        self._version = ov.__version__.partition("-")[0]
        model = self._file.graph
        self._inputs = tuple(spec.name for spec in input_specs(model))
        self._outputs = tuple(str(value.name) for value in model.graph.outputs)
        compiled = self._take(self._compiled({}))
        precision = _precision(compiled)
        self.facts = replace(
            self.facts, version=self._version, provider=DEVICE, precision=precision
        )
        return self

    def _compiled(self, updated: Arrays) -> Any:
        import openvino as ov

        options: dict[str, Any] = dict(_OPTIONS)
        if self._threads:
            options["INFERENCE_NUM_THREADS"] = self._threads
        try:
            core = ov.Core()
            return core.compile_model(core.read_model(self._source(updated)), DEVICE, options)
        except RuntimeError as error:
            raise self._load_error(error) from error

    @_in_one_thread
    def close(self) -> None:
        """Let the model go."""
        self._request = None
        self._updated = {}

    @_in_one_thread
    def update(self, weights: Arrays) -> None:
        """Exchange weights, see :class:`Runner`: the model is compiled again with them."""
        if self._request is None:
            raise ParityError(
                f"{self._file.path}: enter the runner before its weights change", code="RX515"
            )
        updated = changed(self._updated, weights, self._file.graph)
        self._take(self._compiled(updated))
        self._updated = updated

    def _take(self, compiled: Any) -> Any:
        self._request = compiled.create_infer_request()
        self._call_on_zeros(input_specs(self._file.graph))
        return compiled

    def _call_on_zeros(self, specs: Sequence[TensorSpec]) -> None:
        """Make the first call, see above; axes of matrices alone broadcast, and have size 1."""
        named = dict.fromkeys(names_of(dim for spec in specs for dim in spec.shape), 1)
        shared = names_of(dim for s in specs if s.role != "matrices" for dim in s.shape)
        sizes = named | dict.fromkeys(shared, 2)
        zeros = {s.name: np.zeros(shape_at(s, sizes), numpy_type(s.dtype)) for s in specs}
        with suppress(ParityError):  # sizes that a module does not take: its own calls come first
            self.run(zeros)

    @_in_one_thread
    def run(self, inputs: Arrays, out: Arrays | None = None) -> dict[str, Array]:
        """Run the model once; calls of several threads do not meet."""
        return super().run(inputs, out)

    @_in_one_thread
    def load(self, inputs: Arrays) -> dict[str, Any]:
        """Return what a request takes: arrays where they lie, bfloat16 as OpenVINO's own type."""
        given = wanted(self._inputs, inputs, "openvino")
        return {name: _tensor_from(x) for name, x in given.items()}

    @_in_one_thread
    def call(self, loaded: dict[str, Any]) -> Any:
        """Run the model once; the request's outputs are the next call's too."""
        if self._request is None:
            raise ParityError(
                f"{self._file.path}: closed, or not entered: nothing to run", code="RX515"
            )
        try:
            self._request.infer(loaded, share_inputs=True, share_outputs=True)
        except (RuntimeError, TypeError) as error:
            raise ParityError(f"openvino: the run failed: {_cause(error)}", code="RX609") from error
        return self._request

    @_in_one_thread
    def read(self, results: Any) -> dict[str, Array]:
        """Return copies of a request's outputs, by the file's names."""
        tensors = (results.get_output_tensor(number) for number in range(len(self._outputs)))
        return {name: _array_from(x) for name, x in zip(self._outputs, tensors, strict=True)}

    def _source(self, updated: Arrays) -> str | bytes:
        """Return the file itself where it has no function bodies, else it without them.

        And where its weights lie in its folder.
        """
        model = self._file.graph
        if not (model.functions or updated or has_links(model)):
            return str(self._file.path)
        size = weight_bytes(model)
        if size > _LIMIT_BYTES:
            body = "inline its function bodies" if model.functions else "take in linked weights"
            why = "exchange weights" if updated else body
            raise MissingError(
                f"{self._file.path}: too large to {why} in memory ({size >> 20} MiB), as openvino "
                "needs it",
                code="RX512",
            )
        whole = with_values(self._file.whole, updated)
        plain = with_every_head(inlined(with_body(whole, "general")))
        message: bytes = whole_message(plain).SerializeToString()
        return message

    def _load_error(self, error: Exception) -> MissingError | ModelFileError:
        """Return what OpenVINO lacks as missing; a file that cannot be read is broken."""
        text = str(error)
        if _NO_RULE in text:
            operators = text.partition(_NO_RULE)[2].splitlines()[0]
            return MissingError(
                f"openvino {self._version} has no rule for {operators}", code="RX510"
            )
        try:
            onnx.checker.check_model(str(self._file.path))
        except onnx.checker.ValidationError:
            return ModelFileError(
                f"{self._file.path}: openvino cannot load it ({_cause(error)}); export it again",
                code="RX511",
            )
        return MissingError(
            f"openvino {self._version} refuses the file, which is valid ONNX: {_cause(error)}",
            code="RX510",
        )


def _precision(compiled: Any) -> tuple[str, ...]:
    """Return the floating types that a compiled model's layers compute in, the widest first."""
    layers = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ops()]
    computing = (told for told in layers if told["layerType"].astype(str) not in _MOVES_ONLY)
    found = {told["runtimePrecision"].astype(str) for told in computing}
    return tuple(name for short, name in _WIDEST_FIRST.items() if short in found)


_TELEMETRY = "openvino_telemetry"


def _imported() -> Any:
    """Import OpenVINO without its telemetry, which it goes without where it is not installed.

    At its import it makes a client's id in the user's home, and tells its maker of the import.
    """
    is_first = "openvino" not in sys.modules and _TELEMETRY not in sys.modules
    if is_first:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if is_first:
            del sys.modules[_TELEMETRY]
    return openvino


def _tensor_from(array: Array) -> Any:
    import openvino as ov

    whole = np.ascontiguousarray(array).reshape(array.shape)
    foreign = _FOREIGN.get(str(whole.dtype))
    if foreign is None:
        return whole
    bits = FOREIGN[str(whole.dtype)].bits
    return ov.Tensor(whole.view(f"u{bits.itemsize}"), whole.shape, getattr(ov.Type, foreign))


def _array_from(tensor: Any) -> Array:
    array: Array = np.array(tensor.data)
    kind = FOREIGN.get(_WIDEST_FIRST.get(tensor.element_type.get_type_name(), ""))
    if kind is not None:
        array = array.view(kind.numpy)
    return array.reshape(tuple(tensor.shape))


def _cause(error: Exception) -> str:
    """Return what went wrong in one line, without the places in OpenVINO's sources."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_PLACES)]
    return "; ".join(said[:3]) or type(error).__name__
