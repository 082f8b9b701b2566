"""An engine that is deserialized: its context, the memory of its runs, its recorded graphs.

Source of the call sequence: TensorRT's Python API reference (Runtime, ICudaEngine,
IExecutionContext) and, for the runtime cache, TensorRT-RTX's (IRuntimeConfig, IRuntimeCache).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropeexport.errors import EngineError, first_line
from ropeexport.manifest import EngineRecord, TensorSpec
from ropeexport.runners.runner import Array, Arrays
from ropeexport.runners.trt_weights import EngineWeights, no_weight
from ropeexport.trt.cache import RuntimeCache
from ropeexport.trt.flavour import Flavour
from ropeexport.trt.reporting import Journal, load_library

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
Addresses = tuple[tuple[str, int], ...]


class Session:
    """A deserialized engine with its context, from bytes that were verified before.

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
        self._config = self._make_config(chosen, specialise)
        self._context = self._make_context()
        self._shapes: Shapes = {}  # that the context has
        # one for all runs: torch keeps freed memory for the stream that it was taken on
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._done: torch.cuda.Event | None = None  # of the last run in somebody's stream

    def with_own_context(self) -> Session:
        """Return this session with another context, whose shapes and addresses stay what they are.

        A context that was recorded must not be changed (TensorRT's developer guide, "CUDA Graphs").
        """
        other = copy.copy(self)
        other._context, other._shapes = self._make_context(), {}
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
                f"{self._record.file}: the run failed: {first_line(error)}"
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

    def load(self, inputs: Arrays) -> Loaded:
        """Put inputs into the GPU's memory, their types checked, and take memory for the outputs.

        Everything that the shapes decide is done here, so that a call is little more than its
        launch: in Python it would take longer than a small engine runs.
        """
        return self.placed(place(self._record.inputs, inputs, self.device))

    def placed(
        self, given: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None
    ) -> Loaded:
        """Return a run of tensors on the GPU, with memory for the outputs, or the caller's."""
        tensors = {
            spec.name: held(spec, given[spec.name], self.device) for spec in self._record.inputs
        }
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._set_addresses(addresses_of(tensors))
        self._set_shapes(shapes)
        shape_of = self._context.get_tensor_shape
        outputs = dict(out) if out is not None else {
            spec.name: make_tensor(spec, tuple(shape_of(spec.name)), self.device)
            for spec in self._record.outputs
        }  # fmt: skip
        return Loaded(shapes, addresses_of(tensors | outputs), tensors, outputs)

    def enqueue(self, loaded: Loaded) -> dict[str, Tensor]:
        """Enqueue a run on torch's current stream, which fills the outputs that are returned.

        They are those of ``loaded``, whose next run fills them again.  Whoever changes the stream
        between two runs, or between :meth:`load` and a run, must let the new one wait.
        """
        import torch

        self._set_addresses(loaded.addresses)
        self._set_shapes(loaded.shapes)
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise self._error("the run failed")
        return loaded.outputs

    def save_runtime_cache(self) -> None:
        """Keep what the flavour compiled for this GPU, for the next load."""
        if self._cache is None:
            return
        content = self._cache.serialize()
        if content is None:
            self._kept.not_kept(self._cause())
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

    def _make_context(self) -> Any:
        configured = () if self._config is None else (self._config,)
        context = self._engine.create_execution_context(*configured)
        if context is None:
            raise self._error("no context")
        return context

    def _make_cache(self, config: Any) -> Any:
        """Return the cache that the context fills, with what was kept of it; None without one."""
        cache = config.create_runtime_cache()
        kept = self._kept.read() if cache is not None else None
        # TensorRT itself compares more of the machine, and leaves the cache empty where it differs
        if kept is not None and not cache.deserialize(kept):
            self._kept.refused(self._cause())
        if cache is None or not config.set_runtime_cache(cache):
            self._kept.not_kept(self._cause())
            return None
        return cache

    def _set_addresses(self, addresses: Addresses) -> None:
        for name, address in addresses:
            if not self._context.set_tensor_address(name, address):
                raise self._error(f"{name}: refused at address {address:#x}")

    def _set_shapes(self, shapes: Shapes) -> None:
        """Tell the context the inputs' shapes, where it has others."""
        if shapes == self._shapes:
            return
        self._shapes = {}  # what is known of the context where one is refused
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                profile = self._record.profile
                self._cause()  # forgotten: the profile says more
                raise EngineError(
                    f"{name}: expected a shape within the profile, {profile.min[name]} to "
                    f"{profile.max[name]}, got {shape}"
                )
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:  # for any reason but a shape that is missing
            raise self._error(f"no outputs' shapes from {shapes}") from error
        if missing:
            raise self._error(f"no shapes for {', '.join(missing)}")
        self._shapes = shapes

    def _error(self, text: str) -> EngineError:
        return EngineError(f"{self._record.file}: {text}: {self._cause()}")

    def _cause(self) -> str:
        """Return what TensorRT said of a failure, and forget it: the next has its own cause."""
        cause = self._journal.cause()
        self._journal.errors.clear()
        return cause


@dataclass(frozen=True)
class Loaded:
    """A run's inputs and outputs, with all that a call needs to know of them.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Of the inputs.
    addresses : tuple of (str, int)
        Of the inputs and of the outputs.
    inputs, outputs : dict of str to Tensor
        By the engine's names; a call fills the outputs.
    """

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


def held(spec: TensorSpec, tensor: Tensor, device: str) -> Tensor:
    """Return a tensor as an engine reads it: contiguous, at an address that is not null."""
    return tensor.contiguous() if tensor.numel() else make_tensor(spec, tuple(tensor.shape), device)


def place(specs: Iterable[TensorSpec], inputs: Arrays, device: str) -> dict[str, Tensor]:
    """Return inputs in a device's memory.

    Raises
    ------
    EngineError
        Where one is missing, or is of another type than the engine takes.
    """
    from ropeexport.runners.torch_arrays import tensor_from

    placed = {}
    for spec in specs:
        name = spec.name
        if name not in inputs:
            raise EngineError(f"{name}: expected as an input, got {', '.join(inputs) or 'none'}")
        if str(inputs[name].dtype) != spec.dtype:
            raise EngineError(f"{name}: expected {spec.dtype}, got {inputs[name].dtype}")
        placed[name] = held(spec, tensor_from(inputs[name]).to(device), device)
    return placed


def make_tensor(spec: TensorSpec, shape: tuple[int, ...], device: str) -> Tensor:
    """Return a tensor of any values, whose memory is of one element at least.

    TensorRT refuses the null address that a tensor of length zero would have.

    Raises
    ------
    EngineError
        Where a dimension is not known before a run.
    """
    import torch

    if any(dim < 0 for dim in shape):
        raise EngineError(f"{spec.name}: expected a shape that its inputs decide, got {shape}")
    size = math.prod(shape)
    made = torch.empty(max(size, 1), dtype=getattr(torch, spec.dtype), device=device)
    return made[:size].view(shape)


def addresses_of(tensors: dict[str, Tensor]) -> Addresses:
    """Return where the memory of tensors begins, by name; it is never null."""
    # data_ptr is 0 for a tensor of length zero, whatever memory it has
    return tuple(
        (name, tensor.data_ptr() or tensor.untyped_storage().data_ptr())
        for name, tensor in tensors.items()
    )
