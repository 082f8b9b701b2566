"""A loaded TensorRT engine: inputs in, a run enqueued on torch's current stream, outputs out.

Source of the call sequence: TensorRT's Python API reference (Runtime, ICudaEngine,
IExecutionContext) and, for the runtime cache, TensorRT-RTX's (IRuntimeConfig, IRuntimeCache).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropeexport import atomic
from ropeexport.errors import EngineError
from ropeexport.manifest import EngineRecord
from ropeexport.runners import Arrays
from ropeexport.runners.trt_arrays import Addresses, Loaded, Shapes, addresses_of, make_room, place
from ropeexport.trt.flavour import Flavour
from ropeexport.trt.registry import load_library
from ropeexport.trt.reporting import Journal

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
    runtime_cache : Path
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
        runtime_cache: Path,
        *,
        specialise: bool = False,
    ) -> None:
        self._trt = chosen.module
        self._record = record
        self._journal = Journal(chosen)
        self._runtime = chosen.module.Runtime(self._journal.logger)
        self._cache_path = runtime_cache
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
            raise EngineError(f"{record.file}: cannot be loaded: {self._journal.cause()}")
        self._context = self._make_context(chosen, specialise)
        self._shapes: Shapes = {}  # that the context has

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
            spec.name: make_room(spec, tuple(shape_of(spec.name)), self.device)
            for spec in self._record.outputs
        }
        return Loaded(shapes, addresses_of(tensors | outputs), tensors, outputs)

    def enqueue(self, loaded: Loaded) -> dict[str, Tensor]:
        """Enqueue a run on torch's current stream, which fills the outputs that are returned.

        They are those of ``loaded``, whose next run fills them again.
        """
        import torch

        self._set_addresses(loaded.addresses)
        self._set_shapes(loaded.shapes)
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError(f"{self._record.file}: the run failed: {self._journal.cause()}")
        return loaded.outputs

    def save_runtime_cache(self) -> None:
        """Keep what the flavour compiled for this GPU, for the next load."""
        if self._cache is not None:
            atomic.write_bytes(self._cache_path, memoryview(self._cache.serialize()))

    def _make_context(self, chosen: Flavour, specialise: bool) -> Any:
        if chosen.capabilities.runtime_cache:
            config = self._engine.create_runtime_config()
            self._cache = config.create_runtime_cache()
            if self._cache_path.is_file():  # one of another GPU or version is refused, harmlessly
                self._cache.deserialize(self._cache_path.read_bytes())
            config.set_runtime_cache(self._cache)
            if specialise:
                strategies = self._trt.DynamicShapesKernelSpecializationStrategy
                config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(f"{self._record.file}: no context: {self._journal.cause()}")
        return context

    def _set_addresses(self, addresses: Addresses) -> None:
        for name, address in addresses:
            self._context.set_tensor_address(name, address)

    def _set_shapes(self, shapes: Shapes) -> None:
        """Tell the context the inputs' shapes, where it has others."""
        if shapes == self._shapes:
            return
        self._shapes = {}  # what is known of the context where one is refused
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                profile = self._record.profile
                raise EngineError(
                    f"{name}: expected a shape within the profile, {profile.min[name]} to "
                    f"{profile.max[name]}, got {shape}"
                )
        missing = self._context.infer_shapes()
        if missing:
            raise EngineError(f"{self._record.file}: no shapes for {', '.join(missing)}")
        self._shapes = shapes
