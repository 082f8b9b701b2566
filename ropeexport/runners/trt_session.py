"""A loaded TensorRT engine: inputs in, a run enqueued on a stream, outputs out.

Source of the call sequence: TensorRT's Python API reference (Runtime, ICudaEngine,
IExecutionContext) and, for the runtime cache, TensorRT-RTX's (IRuntimeConfig, IRuntimeCache).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropeexport.errors import EngineError, first_line
from ropeexport.manifest import EngineRecord
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.trt_arrays import (
    Addresses,
    Loaded,
    Shapes,
    addresses_of,
    make_tensor,
    place,
)
from ropeexport.trt.flavour import Flavour
from ropeexport.trt.registry import load_library
from ropeexport.trt.reporting import Journal
from ropeexport.trt.runtime_cache import RuntimeCache

if TYPE_CHECKING:
    from torch import Tensor


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
    ) -> None:
        import torch

        self._trt = chosen.module
        self._record = record
        self._journal = Journal(chosen)
        self._runtime = self._make_runtime()
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
        self._context = self._make_context(chosen, specialise)
        self._shapes: Shapes = {}  # that the context has
        # one for all runs: torch keeps freed memory for the stream that it was taken on
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

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
            with torch.cuda.stream(self._stream):
                yield
            self._stream.synchronize()
        except RuntimeError as error:  # torch's, of CUDA
            raise EngineError(
                f"{self._record.file}: the run failed: {first_line(error)}"
            ) from error

    def load(self, inputs: Arrays) -> Loaded:
        """Put inputs into the GPU's memory, their types checked, and take memory for the outputs.

        Everything that the shapes decide is done here, so that a call is little more than its
        launch: in Python it would take longer than a small engine runs.
        """
        tensors = place(self._record.inputs, inputs, self.device)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._set_addresses(addresses_of(tensors))
        self._set_shapes(shapes)
        shape_of = self._context.get_tensor_shape
        outputs = {
            spec.name: make_tensor(spec, tuple(shape_of(spec.name)), self.device)
            for spec in self._record.outputs
        }
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

    def _make_runtime(self) -> Any:
        try:
            return self._trt.Runtime(self._journal.logger)
        except TypeError as error:  # the bindings' word for none
            raise self._error("no runtime to load it") from error

    def _make_context(self, chosen: Flavour, specialise: bool) -> Any:
        if chosen.capabilities.runtime_cache:
            config = self._engine.create_runtime_config()
            if config is None:
                raise self._error("no context")
            self._cache = self._make_cache(config)
            if specialise:
                strategies = self._trt.DynamicShapesKernelSpecializationStrategy
                config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
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
