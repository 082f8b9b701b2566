"""An engine that is deserialized: its contexts, the memory of its runs, its recorded graphs.

Source of the call sequence: TensorRT's Python API reference (Runtime, ICudaEngine,
IExecutionContext) and, for the runtime cache, TensorRT-RTX's (IRuntimeConfig, IRuntimeCache).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropeexport.errors import EngineError, first_line
from ropeexport.manifest import EngineRecord
from ropeexport.runners.runner import Array, Arrays
from ropeexport.runners.trt_contexts import Addresses, Context, Contexts, Shapes, engine_error
from ropeexport.runners.trt_memory import addresses_of, held, make_tensor, place
from ropeexport.runners.trt_weights import EngineWeights, no_weight
from ropeexport.trt.cache import RuntimeCache
from ropeexport.trt.flavour import Flavour
from ropeexport.trt.reporting import Journal, load_library

if TYPE_CHECKING:
    from torch import Tensor


class Session:
    """A deserialized engine with its contexts, from bytes that were verified before.

    Parameters
    ----------
    chosen : Flavour
        What built it.
    record : EngineRecord
        What it is.
    data : bytes
        The engine.
    library : Path or None
        The plugin library that it does not carry itself.
    kept : RuntimeCache
        Where what is compiled for this GPU is kept, by a flavour that does so.
    specialise : bool
        Whether such a flavour compiles the kernels of a shape before its first run.
    memory_budget : int, optional
        Bytes of the GPU's memory for weights.
    weight : callable
        Returns the values of a weight by its name: of an engine without weights, and of those that
        are exchanged.
    """

    device = "cuda"

    def __init__(
        self,
        chosen: Flavour,
        record: EngineRecord,
        data: bytes,
        library: Path | None,
        kept: RuntimeCache,
        *,
        specialise: bool = False,
        memory_budget: int | None = None,
        weight: Callable[[str], Array] = no_weight,
    ) -> None:
        import torch

        self._trt = chosen.module
        self._record = record
        self._journal = Journal(chosen)
        try:
            self._runtime = self._trt.Runtime(self._journal.logger)
        except TypeError as error:  # the bindings' word for none
            raise self._error("no runtime to load it") from error
        self._kept = kept
        self._cache: Any = None
        if record.plugin is not None and record.plugin.embedded:
            # the engine carries a library that runs as host code when the engine is loaded: only
            # now, when its hash is known to be the manifest's, is that allowed
            if chosen.capabilities.engine_host_code:
                self._runtime.engine_host_code_allowed = True
        elif library is not None:
            load_library(self._runtime.get_plugin_registry(), library, self._journal)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self._error("cannot be loaded")
        self.weights = EngineWeights(
            self._trt, self._engine, self._journal.logger, record, weight, self._error
        )
        if memory_budget is not None:  # before there is a context, and before there are weights
            self.weights.bound(memory_budget)
        if record.stripped:
            self.weights.put(record.refits)
        self._aliases = self._find_aliases()
        self._config = self._make_config(chosen, specialise)
        self._contexts = Contexts(self._trt, self._engine, self._config, record, self._journal)
        # one for all runs: torch keeps freed memory for the stream that it was taken on
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._done: torch.cuda.Event | None = None  # of the last run in somebody's stream
        self._contexts.make()

    def with_own_context(self) -> Session:
        """Return this session with contexts whose shapes and addresses stay what they are.

        A context that was recorded must not be changed (TensorRT's developer guide, "CUDA Graphs").
        """
        other = copy.copy(self)
        other._contexts = self._contexts.anew()
        return other

    def finish(self) -> None:
        """Wait for all runs: what they use is about to go."""
        import torch

        torch.cuda.synchronize()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make the session's own stream torch's current one; all is done there at the end.

        What the caller enqueued before on its stream is waited for: a run of this engine, whose
        context has one working memory, may be among it.  Inputs are no reason to wait: they are
        NumPy's, and are copied on the stream that runs.

        Raises
        ------
        EngineError
            Also where a launch that was taken fails on the GPU, or its memory is full.
        """
        import torch

        try:
            self._stream.wait_stream(torch.cuda.current_stream())
            if self._done is not None:
                self._stream.wait_event(self._done)
            with torch.cuda.stream(self._stream):
                yield
            self._stream.synchronize()
        except RuntimeError as error:  # torch's, of CUDA
            raise EngineError(
                f"{self._record.file}: the run failed: {first_line(error)}", code="RX609"
            ) from error

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let torch's current stream wait for the run before: the context has one memory."""
        import torch

        stream = torch.cuda.current_stream()
        if self._done is not None:
            stream.wait_event(self._done)
        yield
        self._done = stream.record_event()

    def load(
        self,
        inputs: Arrays,
        there: Mapping[str, Tensor] | None = None,
        becomes: Mapping[str, str] | None = None,
    ) -> Loaded:
        """Put inputs into the GPU's memory, their types checked, and take memory for the outputs.

        ``there`` are inputs that lie there, ``becomes`` the outputs whose memory they may be, where
        the engine updates them in place.

        Everything that the shapes decide is done here, so that a call is little more than its
        launch: in Python it would take longer than a small engine runs.
        """
        there = there or {}
        specs = [spec for spec in self._record.inputs if spec.name not in there]
        own = {
            output: there[name]
            for name, output in (becomes or {}).items()
            if self._aliases.get(output) == name
        }
        return self.placed({**place(specs, inputs, self.device), **there}, own)

    def placed(
        self, given: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None
    ) -> Loaded:
        """Return a run of tensors on the GPU, with memory for the outputs, or the caller's.

        An input that the engine updates in place is copied into the output's memory, and stays as
        it is, unless the caller's output is that input.
        """
        tensors = {
            spec.name: held(spec, given[spec.name], self.device) for spec in self._record.inputs
        }
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        context = self._contexts.of_shapes(shapes)
        context.tell(shapes, addresses_of(tensors))
        outputs = dict(out or {})
        for spec in self._record.outputs:
            if spec.name not in outputs:
                shape = tuple(context.own.get_tensor_shape(spec.name))
                outputs[spec.name] = make_tensor(spec, shape, self.device)
        for name, source in self._aliases.items():
            if outputs[name].data_ptr() != tensors[source].data_ptr():
                tensors[source] = outputs[name].copy_(tensors[source])
        return Loaded(context, shapes, addresses_of(tensors | outputs), tensors, outputs)

    def enqueue(self, loaded: Loaded) -> dict[str, Tensor]:
        """Enqueue a run on torch's current stream, which fills the outputs that are returned.

        They are those of ``loaded``, whose next run fills them again.  Whoever changes the stream
        between two runs, or between :meth:`load` and a run, must let the new one wait.
        """
        import torch

        loaded.context.tell(loaded.shapes, loaded.addresses)
        loaded.context.run(torch.cuda.current_stream().cuda_stream)
        return loaded.outputs

    def save_runtime_cache(self) -> None:
        """Keep what the flavour compiled for this GPU, for the next load."""
        if self._cache is None:
            return
        content = self._cache.serialize()
        if content is None:
            self._kept.not_kept(self._journal.taken())
        else:
            self._kept.write(memoryview(content))

    def _make_config(self, chosen: Flavour, specialise: bool) -> Any:
        """Return the configuration of contexts; None where the flavour has none."""
        if not chosen.capabilities.runtime_cache:
            return None
        config = self._engine.create_runtime_config()
        if config is None:
            raise self._error("no context")
        self._cache = self._make_cache(config)
        if specialise:
            strategies = self._trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return config

    def _find_aliases(self) -> dict[str, str]:
        """Return the outputs that are updated in place, each with the input whose memory it has."""
        of = getattr(self._engine, "get_aliased_input_tensor", None)  # TensorRT has it from 10.15
        found = {spec.name: of(spec.name) for spec in self._record.outputs} if of else {}
        return {name: source for name, source in found.items() if source}

    def _make_cache(self, config: Any) -> Any:
        """Return the cache that the context fills, with what was kept of it; None without one."""
        cache = config.create_runtime_cache()
        kept = self._kept.read() if cache is not None else None
        # TensorRT itself compares more of the machine, and leaves the cache empty where it differs
        if kept is not None and not cache.deserialize(kept):
            self._kept.refused(self._journal.taken())
        if cache is None or not config.set_runtime_cache(cache):
            self._kept.not_kept(self._journal.taken())
            return None
        return cache

    def _error(self, text: str) -> EngineError:
        return engine_error(self._record, self._journal, text)


@dataclass(frozen=True)
class Loaded:
    """A run's inputs and outputs, with all that a call needs to know of them.

    Parameters
    ----------
    context : Context
        What runs it.
    shapes : dict of str to tuple of int
        Of the inputs.
    addresses : tuple of (str, int)
        Of the inputs and of the outputs.
    inputs, outputs : dict of str to Tensor
        By the engine's names; a call fills the outputs.
    """

    context: Context
    shapes: Shapes
    addresses: Addresses
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Recorded:
    """A run of one shape as a CUDA graph: it reads and writes memory of its own.

    The session's context is its alone.

    Source: torch's documentation of ``torch.cuda.CUDAGraph`` ("CUDA Graphs", a warm-up on a side
    stream before the capture).
    """

    def __init__(self, session: Session, inputs: Mapping[str, Tensor]) -> None:
        import torch

        self._session = session  # whose context the graph uses
        self._loaded = session.placed({name: x.clone() for name, x in inputs.items()})
        with session.running():  # what TensorRT does at a first run cannot be recorded
            session.enqueue(self._loaded)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # others go on
            session.enqueue(self._loaded)

    def replay(
        self, inputs: Mapping[str, Tensor], out: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Run on other numbers; the results are copies, since the next run writes there again."""
        for name, own in self._loaded.inputs.items():
            own.copy_(inputs[name])
        self._graph.replay()
        if out is None:
            return {name: x.clone() for name, x in self._loaded.outputs.items()}
        for name, x in self._loaded.outputs.items():
            out[name].copy_(x)
        return dict(out)
