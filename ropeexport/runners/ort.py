"""onnxruntime, the stock package: the one place that opens its sessions.

The custom op needs no library: onnxruntime inlines its function body.  Attention is given to it in
the form that it computes best (:mod:`ropeexport.ops.attention`).

Source: onnxruntime's Python API reference (SessionOptions, InferenceSession).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import onnx_ir as ir

from ropeexport import stopping
from ropeexport.artifact import Artifact
from ropeexport.dtypes import FOREIGN
from ropeexport.errors import (
    MissingError,
    ModelFileError,
    ParityError,
    RopeExportError,
    UnknownOperatorError,
    UntrustedError,
    UsageError,
    first_line,
)
from ropeexport.fusion.cached_attention import with_grouped
from ropeexport.machine import require
from ropeexport.manifest import CacheRecord, TensorSpec
from ropeexport.onnx_files.onnx_file import OnnxFile, values_behind_links
from ropeexport.onnx_files.variants import (
    with_attention_in_blocks,
    with_references,
)
from ropeexport.runners.kept_cache import KeptCache
from ropeexport.runners.ort_cache import bound_cache
from ropeexport.runners.ort_memory import (
    BoundMemory,
    Memory,
    array_of,
    in_order,
    run_bound,
    stream_of_its_own,
    without_waiting,
)
from ropeexport.runners.ort_providers import (
    BY_DEVICE,
    add_plugin,
    device_of,
    providers_of,
    require_taken,
)
from ropeexport.runners.registry import CPU, CUDA, Opening, Provider
from ropeexport.runners.runner import Array, Arrays, Facts, Runner, wanted
from ropeexport.weights.updating import changed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

_FOREIGN = {kind.onnx_text for kind in FOREIGN.values()}  # types that NumPy lacks
_COMPILED = "EPContext"  # the op that holds, or names, what a provider has compiled
# products with weights of 4 bits are in float32: unasked, onnxruntime rounds the data to 8 bits
_WEIGHTS_OF_4_BITS = ("session.qdq_matmulnbits_accuracy_level", "1")
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# how it says that an operator, or a version, is of a later standard than it knows
_UNKNOWN = re.compile(
    "is not a registered function/op|No Op registered for|[Uu]nsupported model IR version|"
    "only \\*guarantees\\* support for models stamped|under development and support"
)
_QUIET = 4  # fatal messages only: every error is raised as well


def opened(opening: Opening) -> OrtRunner:
    """Return a runner as a stage wants it, see :mod:`ropeexport.runners.registry`."""
    assert not isinstance(opening.model, Artifact)  # it runs files
    return OrtRunner(
        opening.model,
        threads=opening.threads,
        provider=opening.provider or BY_DEVICE[opening.device],
        timed=opening.timed,
        as_written=opening.as_written,
        memory_budget=opening.memory_budget,
    )


def look() -> dict[str, str | None]:
    """Return the installed onnxruntime with its providers, for ``doctor``."""
    try:
        import onnxruntime
    except (ImportError, OSError):  # not here, or broken: the cure is the same
        return {"onnxruntime": None}
    names = onnxruntime.get_available_providers()
    providers = (name.removesuffix("ExecutionProvider") for name in names)
    return {"onnxruntime": f"{onnxruntime.__version__} ({', '.join(providers)})"}


def _refuse_compiled(file: OnnxFile, provider: Provider) -> None:
    """Raise for a part that somebody has compiled, which a provider would load as it is."""
    graph, functions = file.graph.graph, file.graph.functions.values()
    nodes = (node for each in (graph, *functions) for node in each.all_nodes())
    if any(node.op_type == _COMPILED for node in nodes):
        raise UntrustedError(
            f"{file.path}: has a part that was compiled for a provider ({_COMPILED}), which "
            f"{provider.executes} would load, and an engine can run code of whoever made it: take "
            "the file that it was compiled from",
            code="RX803",
        )


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
        The file itself is run; else, with attention in blocks where sequences are long, and over a
        cache by onnxruntime's own operator, but for a provider that is a package of its own.
    memory_budget : int, optional
        Bytes that the CUDA provider's arena may take.
    """

    facts = Facts(implementation=("function body",))

    def __init__(
        self,
        model: OnnxFile | bytes,
        *,
        threads: int = 0,
        provider: Provider | None = None,
        timed: bool = False,
        as_written: bool = False,
        memory_budget: int | None = None,
    ) -> None:
        self._model = model
        self._threads = threads
        self._provider = provider
        self._timed = timed
        self._as_written = as_written
        self._memory_budget = memory_budget
        self._updated: dict[str, Array] = {}  # weights that are not the file's
        self._updating = Lock()
        self._session: Any = None
        self._stops: Any = None  # options of each run, by which another thread ends it
        self._unwaited: Any = None  # of a run that a GPU is not waited for after
        self._bound: BoundMemory | None = None
        self._stream: torch.cuda.Stream | None = None  # that the session runs on, with torch

    def __enter__(self) -> Self:
        require("onnxruntime")
        try:
            import onnxruntime as ort
        except (ImportError, OSError) as error:
            raise MissingError(
                f"onnxruntime cannot be imported ({error}); install it again", code="RX902"
            ) from error

        self._version = ort.__version__
        self._stops, self._unwaited = ort.RunOptions(), without_waiting()
        stopping.add(self)
        if isinstance(self._model, OnnxFile) and not self._model.path.is_file():
            raise ModelFileError(f"{self._model.path}: no such file", code="RX303")
        self._session = self._open(ort)
        executes = self._session.get_providers()[0]
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._inputs = [value.name for value in inputs]
        self._outputs = [value.name for value in outputs]
        self._has_foreign = any(value.type in _FOREIGN for value in (*inputs, *outputs))
        if self._stream is not None:
            self._bound = self._on_gpu()
        device = device_of(executes)
        self.facts = replace(self.facts, version=self._version, provider=executes, device=device)
        return self

    def close(self) -> None:
        """Let the model go."""
        self._session = self._bound = None
        self._updated = {}

    def stop(self) -> None:
        """End the run under way and any later one, from another thread."""
        self._stops.terminate = self._unwaited.terminate = True

    def _on_gpu(self) -> BoundMemory:
        return BoundMemory(self._session, "cuda", self._unwaited)

    def _entered(self) -> Any:
        if self._session is None:
            raise MissingError(
                "onnxruntime: closed, or not entered: no session to run", code="RX515"
            )
        return self._session

    def update(self, weights: Arrays) -> None:
        """Exchange weights, see :class:`Runner`: another session takes the place of this one.

        The weights that stay the file's stay where they lie, as in the first session.  Both
        sessions are there while the new one is made.
        """
        import onnxruntime

        if self._session is None or not isinstance(self._model, OnnxFile):
            raise MissingError(
                "onnxruntime: weights are exchanged in an ONNX file that is loaded", code="RX507"
            )
        with self._updating:
            updated = changed(self._updated, weights, self._model.graph)
            self._session = self._open(onnxruntime, updated)
            self._updated = updated
            if self._bound is not None:
                self._bound = self._on_gpu()

    def run(self, inputs: Arrays, out: Arrays | None = None) -> dict[str, Array]:
        """Run the session once, which writes into the arrays of a caller by itself."""
        if out is None and self._bound is None:
            return super().run(inputs)
        given = wanted(self._inputs, inputs, "onnxruntime")
        if out is None:  # arrays in the CPU's memory, which the session copies
            results = self._called(self._run, self._taken(given))
            return dict(zip(self._outputs, self._returned(results), strict=True))
        into = {name: Memory.of_array(x) for name, x in out.items()}
        memories = {name: Memory.of_array(x) for name, x in given.items()}
        self._called(run_bound, self._entered(), memories, into, self._stops)
        return dict(out)

    def run_tensors(
        self, inputs: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run the session once; on a GPU in the tensors' memory, where their outputs are given."""
        if self._stream is None or out is None:
            return super().run_tensors(inputs, out)
        memories = {name: Memory.of_tensor(inputs[name]) for name in self._inputs}
        into = {name: Memory.of_tensor(x) for name, x in out.items()}
        with in_order(self._stream):
            self._called(run_bound, self._entered(), memories, into, self._unwaited)
        return dict(out)

    def kept_cache(self, cache: CacheRecord, pasts: Sequence[TensorSpec], batch: int) -> KeptCache:
        """Return an empty cache that the session's binding holds where it computes."""
        session, executes = self._entered(), self.facts.provider
        if executes not in (CPU.executes, CUDA.executes):  # who may read a past after writing it
            return super().kept_cache(cache, pasts, batch)
        index = session.get_provider_options().get(executes, {}).get("device_id", 0)
        place = (device_of(executes), int(index))

        def run(binding: Any) -> None:
            self._called(session.run_with_iobinding, binding, self._stops)

        return bound_cache(session, run, cache, pasts, batch, place)

    def load(self, inputs: Arrays) -> Any:
        """Return what a session takes: arrays as they are, unless NumPy lacks one of the types."""
        given = wanted(self._inputs, inputs, "onnxruntime")
        return self._bound.load(given) if self._bound is not None else self._taken(given)

    def call(self, loaded: Any) -> Any:
        """Run the session once."""
        return self._called(self._bound.call if self._bound is not None else self._run, loaded)

    def _taken(self, given: Arrays) -> Any:
        if not self._has_foreign:
            return given
        return {name: _value_from(x) for name, x in given.items()}

    def _run(self, loaded: Any) -> Any:
        session = self._entered()  # an exchange of weights lets go of it meanwhile
        run = session.run_with_ort_values if self._has_foreign else session.run
        return run(self._outputs, loaded, self._stops)

    def _called(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call what runs the session; its errors become ropeexport's."""
        try:
            return function(*arguments)
        except _ort_errors() as error:
            if type(error).__name__ == "NotImplemented":
                raise self._missing(error) from error
            raise ParityError(
                f"onnxruntime: the run failed: {_cause(error)}", code="RX609"
            ) from error

    def _returned(self, results: Any) -> list[Array]:
        return [array_of(x) for x in results] if self._has_foreign else results

    def read(self, results: Any) -> dict[str, Array]:
        """Return the arrays of what a call gave, by name."""
        arrays = self._bound.read(results) if self._bound else self._returned(results)
        return dict(zip(self._outputs, arrays, strict=True))

    def _open(self, ort: Any, updated: Arrays = MappingProxyType({})) -> Any:
        """Return a session of the model, or of its file with other values of some weights."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = _QUIET
        options.add_session_config_entry(*_WEIGHTS_OF_4_BITS)
        if not self._timed:  # spinning threads would slow the other runtimes of the same process
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model: Any = self._model
        linked = values_behind_links(model.graph) if isinstance(model, OnnxFile) else {}
        given = {**linked, **updated}
        values = {name: _value_from(x) for name, x in given.items()}
        if values:
            options.add_external_initializers(list(values), list(values.values()))
        provider, providers = self._provider, None
        plugged = provider is not None and provider.package
        if isinstance(model, OnnxFile):
            if provider is not None and provider.executes not in (CPU.executes, CUDA.executes):
                _refuse_compiled(model, provider)
            model = self._source(model, options, given, best=not (plugged or self._as_written))
        if provider is not None and provider.package:
            add_plugin(options, provider)
        else:
            providers = providers_of(provider, **self._on_stream(provider), **self._limit())
        try:
            session = ort.InferenceSession(model, options, providers=providers)
        except _ort_errors() as error:
            raise self._load_error(error) from error
        if provider is not None:
            require_taken(session, provider)
        session.reads = values  # where they lie, for as long as a call holds the session
        return session

    def _source(self, file: OnnxFile, options: Any, given: Arrays, *, best: bool) -> str | bytes:
        """Return a file's path; where there is anything to change in memory, the model with that.

        That is attention in another form, where the ``best`` is asked for, and weights whose values
        are handed over.
        """
        made = file.graph
        if best:
            made = self._with_best_attention(made)
        if given:
            made = with_references(made, given)
        if made is file.graph:
            return str(file.path)
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(file.path.parent))
        message: bytes = ir.to_proto(made).SerializeToString()
        return message

    def _with_best_attention(self, model: ir.Model) -> ir.Model:
        """Return a model with attention in the forms that onnxruntime computes best."""
        # the CUDA provider's kernel knows neither float32 nor what is added to scores
        grouped = with_grouped(model) if self._is_on_cpu() else model
        made = with_attention_in_blocks(grouped)
        forms = {
            "grouped attention": grouped is not model,
            "attention in blocks": made is not grouped,
        }
        if any(forms.values()):
            found = " and ".join(form for form, is_there in forms.items() if is_there)
            self.facts = replace(self.facts, attention=found)
        return made

    def _is_on_cpu(self) -> bool:
        import onnxruntime

        if self._provider is not None:
            return self._provider.executes == CPU.executes
        return CUDA.executes not in onnxruntime.get_available_providers()

    def _limit(self) -> dict[str, str]:
        # the arena would else grow by powers of two, beyond what is asked for
        budget = self._memory_budget
        how = {"arena_extend_strategy": "kSameAsRequested"}
        return {} if budget is None else {"gpu_mem_limit": str(budget), **how}

    def _on_stream(self, provider: Provider | None) -> dict[str, str]:
        """Return the options that have a GPU run in the order of torch's stream, with torch."""
        if provider is None or provider.executes != CUDA.executes:
            return {}
        if not self._timed or find_spec("torch") is None:
            return {}
        self._stream = self._stream or stream_of_its_own()
        index = str(self._stream.device.index)  # a stream is of one GPU
        asked = dict(provider.options).get("device_id", index)
        if asked != index:
            raise UsageError(
                f"device_id: expected {index}, torch's current GPU, got {asked}: load it under "
                f"torch.cuda.device({asked})",
                code="RX514",
            )
        return {"device_id": index, "user_compute_stream": str(self._stream.cuda_stream)}

    def _load_error(self, error: Exception) -> RopeExportError:
        if type(error).__name__ == "NotImplemented":
            return self._missing(error)
        where = self._model.path if isinstance(self._model, OnnxFile) else "the model"
        if _UNKNOWN.search(str(error)):
            return UnknownOperatorError(
                f"{where}: onnxruntime {self._version} does not know what is in it: "
                f"{_cause(error)}",
                code="RX510",
            )
        return ModelFileError(
            f"{where}: onnxruntime cannot load it ({_cause(error)}); export it again", code="RX511"
        )

    def _missing(self, error: Exception) -> MissingError:
        return MissingError(
            f"onnxruntime {self._version} has no kernel for an operator or a type of this model "
            f"here: {_cause(error)}",
            code="RX510",
        )


def _ort_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf",
        "NoModel", "NoSuchFile", "NotImplemented", "RuntimeException",
    )  # fmt: skip
    own = (getattr(state, name) for name in names if hasattr(state, name))
    return (*own, RuntimeError)  # the last where memory is bound


def _value_from(array: Array) -> Any:
    import onnxruntime as ort

    whole = np.ascontiguousarray(array).reshape(array.shape)
    kind = FOREIGN.get(str(whole.dtype))
    if kind is not None:
        bits = whole.view(f"u{kind.bits.itemsize}")
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind.onnx_type)
    return ort.OrtValue.ortvalue_from_numpy(whole)


def _cause(error: Exception) -> str:
    """Return what went wrong, without onnxruntime's code and class in front of it."""
    return first_line(error).rpartition(" : ")[2]
