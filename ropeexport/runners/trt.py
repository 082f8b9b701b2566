"""TensorRT engines on a GPU, in torch's memory; an engine is verified before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ropeexport.artifact import Artifact
from ropeexport.errors import EngineError, MissingError
from ropeexport.packages import require
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.registry import Device, Opening, Provider
from ropeexport.runners.runner import Facts, Runner
from ropeexport.runners.trt_arrays import Loaded
from ropeexport.runners.trt_session import Session
from ropeexport.trt import engine_file, flavour
from ropeexport.trt.gpu import find_gpu
from ropeexport.trt.runtime_cache import RuntimeCache, runtime_cache_folder

if TYPE_CHECKING:
    from torch import Tensor


def opened(opening: Opening) -> TensorrtRunner:
    """Return a runner as a stage wants it, see :mod:`ropeexport.runners.registry`."""
    assert isinstance(opening.model, Artifact)
    return TensorrtRunner(opening.model, specialise=opening.timed, kept_in=opening.kept_in)


def require_gpu(device: Device | None, provider: Provider | None) -> None:
    """Raise :class:`MissingError` where there is no GPU, or nothing to run an engine with."""
    if find_gpu() is None:
        raise MissingError("no NVIDIA GPU: a TensorRT engine runs on one only")
    flavour.pick_flavour()


def look() -> dict[str, str | None]:
    """Return the installed flavours, for ``doctor``."""
    installed = flavour.available_flavours()
    return {name: installed.get(name) for name in flavour.NAMES}


class TensorrtRunner(Runner):
    """Runs the engine of an output folder.

    Parameters
    ----------
    artifact : Artifact
        An output folder with an engine.
    specialise : bool, optional
        Compile the kernels of a shape before its first run, where the flavour would otherwise
        compile them while others stand in: what is timed is then what runs in the end.
    kept_in : Path, optional
        Where what was compiled for this GPU is kept for the next load; else ropeexport's cache
        folder, and never the output folder, which is only read.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        specialise: bool = False,
        kept_in: Path | None = None,
    ) -> None:
        self._artifact = artifact
        self._kept_in = kept_in or runtime_cache_folder()
        self._specialise = specialise
        engine = artifact.manifest.engine
        # what the engine was built with, by name; several ropes may differ
        self.facts = Facts(
            version=f"{engine.flavour} {engine.version}" if engine else "",
            implementation=tuple(sorted(set(engine.ropes.values()))) if engine else (),
            device="cuda",
        )
        self._session: Session | None = None

    def __enter__(self) -> Self:
        folder = self._artifact.folder
        record = engine_file.engine_record(folder, self._artifact.manifest)
        engine_file.check_flavour(record)
        data = engine_file.read_verified(folder, record)
        gpu = find_gpu()
        if gpu is None:
            raise MissingError("no NVIDIA GPU: a TensorRT engine runs on one only")
        engine_file.check_gpu(record, gpu)
        _require_cuda_torch()
        library = None
        if record.plugin is not None:
            library = engine_file.plugin_path(folder, record.plugin)
        kept = RuntimeCache(self._kept_in, record, gpu)
        chosen = flavour.load(record.flavour)
        self._session = Session(chosen, record, data, library, kept, specialise=self._specialise)
        return self

    def close(self) -> None:
        """Let the model go."""
        if self._session is not None:
            self.keep()
        self._session = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Run the engine once, on a stream of its own, and wait for it."""
        session = self._entered()
        with session.running():
            outputs = session.enqueue(session.load(inputs))
        return self.read(outputs)

    def load(self, inputs: Arrays) -> Loaded:
        """Put inputs into the GPU's memory, with memory for the outputs."""
        return self._entered().load(inputs)

    def call(self, loaded: Loaded) -> dict[str, Tensor]:
        """Enqueue a run on torch's current stream, which fills the outputs that are returned."""
        return self._entered().enqueue(loaded)

    def read(self, results: dict[str, Tensor]) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of outputs."""
        from ropeexport.runners.torch_arrays import array_from

        return {name: array_from(tensor) for name, tensor in results.items()}

    def keep(self) -> None:
        """Keep what the flavour compiled for this GPU, for the next load."""
        self._entered().save_runtime_cache()

    def _entered(self) -> Session:
        if self._session is None:
            raise EngineError(f"{self._artifact.folder}: enter the runner before running it")
        return self._session


def _require_cuda_torch() -> None:
    require("torch")
    import torch

    if not torch.cuda.is_available():
        raise MissingError(
            f"torch {torch.__version__} sees no NVIDIA GPU: install a CUDA build of torch, "
            "whose memory the engine runs in"
        )
    torch.cuda.synchronize()  # makes the CUDA context, which the runtime cache is compared with
