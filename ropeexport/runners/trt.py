"""TensorRT engines on a GPU, in torch's memory; an engine is verified before it is loaded.

Source of the call sequence: TensorRT's Python API reference (Runtime, ICudaEngine,
IExecutionContext) and, for the runtime cache, TensorRT-RTX's (IRuntimeConfig, IRuntimeCache).
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ropeexport import atomic, manifest
from ropeexport.errors import EngineError, MissingError
from ropeexport.manifest import EngineRecord
from ropeexport.packages import require
from ropeexport.runners import Arrays
from ropeexport.trt import engine_file, flavour
from ropeexport.trt.flavour import Flavour
from ropeexport.trt.gpu import find_gpu
from ropeexport.trt.registry import load_library
from ropeexport.trt.reporting import Journal

RUNTIME_CACHE_NAME = "runtime.cache"


class TensorrtRunner:
    """Runs the engine of an output folder.

    Parameters
    ----------
    folder : Path
        An output folder with an engine and its manifest.
    plugin_library : Path, optional
        The plugin library of an engine that does not carry its own.
    """

    name = "tensorrt"

    def __init__(self, folder: Path, plugin_library: Path | None = None) -> None:
        self._folder = folder
        self._plugin_library = plugin_library
        self._manifest = manifest.read(folder)
        engine = self._manifest.engine
        # what the engine was built with, by name; several ropes may differ
        self.implementation = "+".join(sorted(set(engine.ropes.values()))) if engine else ""
        self.version = f"{engine.flavour} {engine.version}" if engine else ""
        self._session: _Session | None = None

    def __enter__(self) -> Self:
        record = engine_file.engine_record(self._folder, self._manifest)
        engine_file.check_flavour(record)
        data = engine_file.read_verified(self._folder, record)
        gpu = find_gpu()
        if gpu is None:
            raise MissingError("no NVIDIA GPU: a TensorRT engine runs on one only")
        engine_file.check_gpu(record, gpu)
        _require_cuda_torch()
        library = None
        if record.plugin is not None:
            library = engine_file.plugin_path(self._folder, record.plugin, self._plugin_library)
        cache = self._folder / RUNTIME_CACHE_NAME
        self._session = _Session(flavour.load(record.flavour), record, data, library, cache)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            self._session.save_runtime_cache()
        self._session = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run the engine once, see :class:`ropeexport.runners.Runner`."""
        if self._session is None:
            raise EngineError(f"{self._folder}: enter the runner before running it")
        return self._session.run(inputs)


class _Session:
    """A deserialized engine with its context, from bytes that were verified before."""

    def __init__(
        self,
        chosen: Flavour,
        record: EngineRecord,
        data: bytes,
        library: Path | None,
        runtime_cache: Path,
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
        self._context = self._make_context(chosen)

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        import torch

        from ropeexport.runners.torch_arrays import array_from, tensor_from

        tensors = {
            spec.name: tensor_from(self._checked(spec.name, inputs)).to("cuda").contiguous()
            for spec in self._record.inputs
        }
        self._bind_inputs(tensors)
        outputs = {spec.name: self._bind_output(spec.name) for spec in self._record.outputs}
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())  # the copies of the inputs
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise EngineError(f"{self._record.file}: the run failed: {self._journal.cause()}")
        stream.synchronize()
        return {name: array_from(tensor) for name, tensor in outputs.items()}

    def save_runtime_cache(self) -> None:
        """Keep what the flavour compiled for this GPU, for the next load."""
        if self._cache is not None:
            atomic.write_bytes(self._cache_path, memoryview(self._cache.serialize()))

    def _make_context(self, chosen: Flavour) -> Any:
        if chosen.capabilities.runtime_cache:
            config = self._engine.create_runtime_config()
            self._cache = config.create_runtime_cache()
            if self._cache_path.is_file():  # one of another GPU or version is refused, harmlessly
                self._cache.deserialize(self._cache_path.read_bytes())
            config.set_runtime_cache(self._cache)
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(f"{self._record.file}: no context: {self._journal.cause()}")
        return context

    def _checked(self, name: str, inputs: Arrays) -> NDArray[np.generic]:
        expected = next(spec.dtype for spec in self._record.inputs if spec.name == name)
        if name not in inputs:
            raise EngineError(f"{name}: expected as an input, got {', '.join(inputs) or 'none'}")
        if str(inputs[name].dtype) != expected:
            raise EngineError(f"{name}: expected {expected}, got {inputs[name].dtype}")
        return inputs[name]

    def _bind_inputs(self, tensors: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                profile = self._record.profile
                raise EngineError(
                    f"{name}: expected a shape within the profile, {profile.min[name]} to "
                    f"{profile.max[name]}, got {tuple(tensor.shape)}"
                )
            self._context.set_tensor_address(name, tensor.data_ptr())
        missing = self._context.infer_shapes()
        if missing:
            raise EngineError(f"{self._record.file}: no shapes for {', '.join(missing)}")

    def _bind_output(self, name: str) -> Any:
        import torch

        from ropeexport.runners.torch_arrays import tensor_from

        expected = next(spec.dtype for spec in self._record.outputs if spec.name == name)
        shape = tuple(self._context.get_tensor_shape(name))
        dtype = tensor_from(np.empty(0, np.dtype(expected))).dtype
        tensor = torch.empty(shape, dtype=dtype, device="cuda")
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor


def _require_cuda_torch() -> None:
    require("torch")
    import torch

    if not torch.cuda.is_available():
        raise MissingError(
            f"torch {torch.__version__} sees no NVIDIA GPU: install a CUDA build of torch, "
            "whose memory the engine runs in"
        )
    torch.cuda.synchronize()  # makes the CUDA context, which the runtime cache is compared with
