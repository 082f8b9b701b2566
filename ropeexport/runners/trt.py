"""TensorRT engines on a GPU, in torch's memory; one is verified, and trusted, before it is loaded.

Source of the call sequence: TensorRT's Python API reference (Runtime, ICudaEngine,
IExecutionContext) and, for the runtime cache, TensorRT-RTX's (IRuntimeConfig, IRuntimeCache).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Self

from ropeexport.artifact import Artifact
from ropeexport.errors import EngineError, MissingError
from ropeexport.machine import find_gpu, require
from ropeexport.manifest import CacheRecord, TensorSpec
from ropeexport.runners.registry import Device, Opening, Provider
from ropeexport.runners.runner import Array, Arrays, Facts, Runner, filled
from ropeexport.runners.trt_cache import EngineCache
from ropeexport.runners.trt_session import Loaded, Recorded, Session
from ropeexport.trt import flavour, preflight
from ropeexport.trt.cache import RuntimeCache, runtime_cache_folder
from ropeexport.trust.engines import require_trusted
from ropeexport.weights.updating import changed

if TYPE_CHECKING:
    from torch import Tensor


def opened(opening: Opening) -> TensorrtRunner:
    """Return a runner as a stage wants it, see :mod:`ropeexport.runners.registry`."""
    assert isinstance(opening.model, Artifact)
    return TensorrtRunner(
        opening.model,
        specialise=opening.timed,
        kept_in=opening.kept_in,
        plugin=opening.plugin,
        graphs=opening.cuda_graphs,
        memory_budget=opening.memory_budget,
    )


def require_gpu(device: Device | None, provider: Provider | None) -> None:
    """Raise :class:`MissingError` where there is no GPU, or nothing to run an engine with."""
    if find_gpu() is None:
        raise MissingError("no NVIDIA GPU: a TensorRT engine runs on one only", code="RX903")
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
        folder, and never the output folder, which is only read.  With it, nothing is kept in the
        cache folder, that the engine is trusted neither.
    plugin : Path, optional
        The library of an engine that does not carry it, in place of the one that is found.
    graphs : bool, optional
        Record the calls on tensors once for each shape, and replay them.
    memory_budget : int, optional
        Bytes of the GPU's memory for weights; the others are streamed in from the host's.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        specialise: bool = False,
        kept_in: Path | None = None,
        plugin: Path | None = None,
        graphs: bool = False,
        memory_budget: int | None = None,
    ) -> None:
        self._artifact = artifact
        self._plugin = plugin
        self._graphs: dict[tuple[tuple[str, tuple[int, ...]], ...], Recorded] | None = (
            {} if graphs else None
        )
        self._memory_budget = memory_budget
        self._updated: dict[str, Array] = {}  # weights that are not the file's
        self._lock = Lock()  # a run and an exchange of weights never meet
        self._kept_in, self._keeps = kept_in or runtime_cache_folder(), kept_in is None
        self._specialise = specialise
        engine = artifact.manifest.engine
        self.facts = Facts(device="cuda")
        if engine is not None:  # what it was built with, by name; several ropes may differ
            ropes = tuple(sorted(set(engine.ropes.values())))
            self.facts = Facts(f"{engine.flavour} {engine.version}", ropes, device="cuda")
        self._session: Session | None = None

    def __enter__(self) -> Self:
        folder = self._artifact.folder
        record = preflight.engine_record(folder, self._artifact.manifest)
        preflight.check_flavour(record)
        preflight.check_budget(record, self._memory_budget)
        if record.stripped:  # its weights are the file's, which is then a part of it
            preflight.check_weights_of(record, self._artifact)
        data = preflight.read_verified(folder, record)
        gpu = find_gpu()
        if gpu is None:
            raise MissingError("no NVIDIA GPU: a TensorRT engine runs on one only", code="RX903")
        preflight.check_gpu(record, gpu)
        _require_cuda_torch()
        plugin = record.plugin
        library = preflight.plugin_path(folder, plugin, self._plugin) if plugin else None
        # neither the engine nor the library has reached TensorRT by now
        require_trusted(self._artifact, record, library, keeps=self._keeps)
        kept = RuntimeCache(self._kept_in, record, gpu)
        chosen = flavour.load(record.flavour)
        self._session = Session(
            chosen, record, data, library, kept, specialise=self._specialise,
            memory_budget=self._memory_budget, weight=self._weight,
        )  # fmt: skip
        return self

    def close(self) -> None:
        """Let the model go."""
        with self._lock:
            if self._session is not None:
                self.keep()
                self._session.finish()
            self._graphs = None if self._graphs is None else {}
            self._session = None
            self._updated = {}

    def update(self, weights: Arrays) -> None:
        """Exchange weights in the engine, all of them or none, see :class:`Runner`."""
        session = self._entered()
        session.weights.check(weights)
        updated = changed(self._updated, weights, self._artifact.file.graph)
        with self._lock:
            former, self._updated = self._updated, updated
            try:
                session.weights.put(weights)  # which waits for what runs
                self._graphs = None if self._graphs is None else {}  # they read where weights were
            except Exception:
                self._updated = former
                if session.weights.is_mixed:  # what TensorRT has half exchanged runs no more
                    self._session = None
                raise

    def _weight(self, name: str) -> Array:
        """Return the values that a weight has by now."""
        tensor = self._artifact.file.graph.graph.initializers[name].const_value
        assert tensor is not None  # what the engine was built of
        return self._updated[name] if name in self._updated else tensor.numpy()

    def run(self, inputs: Arrays, out: Arrays | None = None) -> dict[str, Array]:
        """Run the engine once, on a stream of its own, and wait for it."""
        session = self._entered()
        with self._lock, session.running():
            outputs = session.enqueue(session.load(inputs))
        return filled(self.read(outputs), out)

    def run_tensors(
        self, inputs: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Enqueue a run on torch's current stream, in the memory of the tensors."""
        session = self._entered()
        with self._lock, session.in_turn():
            if self._graphs is None:
                return session.enqueue(session.placed(inputs, out))
            key = tuple((name, tuple(x.shape)) for name, x in inputs.items())
            if key not in self._graphs:
                self._graphs[key] = Recorded(session.with_own_context(), inputs)
            return self._graphs[key].replay(inputs, out)

    def run_beside(
        self, inputs: Arrays, held: Mapping[str, Tensor], becomes: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """Run the engine once on arrays and on tensors that it holds, and wait for it.

        ``becomes`` are the names of the outputs that held tensors become; what the engine updates
        in place is such an output's own memory.
        """
        session = self._entered()
        with self._lock, session.running():
            return session.enqueue(session.load(inputs, held, becomes))

    def kept_cache(
        self, cache: CacheRecord, pasts: Sequence[TensorSpec], batch: int
    ) -> EngineCache:
        """Return an empty cache for a batch of texts, in the GPU's memory."""
        session = self._entered()
        with self._lock, session.running():
            return EngineCache(self, cache, pasts, batch, session.device)

    def load(self, inputs: Arrays) -> Loaded:
        """Put inputs into the GPU's memory, with memory for the outputs."""
        return self._entered().load(inputs)

    def call(self, loaded: Loaded) -> dict[str, Tensor]:
        """Enqueue a run on torch's current stream, which fills the outputs that are returned."""
        session = self._entered()
        with self._lock:
            return session.enqueue(loaded)

    def read(self, results: dict[str, Tensor]) -> dict[str, Array]:
        """Return the arrays of outputs."""
        from ropeexport.runners.torch_arrays import array_from

        return {name: array_from(tensor) for name, tensor in results.items()}

    def keep(self) -> None:
        """Keep what the flavour compiled for this GPU, for the next load."""
        self._entered().save_runtime_cache()

    def _entered(self) -> Session:
        if self._session is None:
            raise EngineError(
                f"{self._artifact.folder}: enter the runner before running it", code="RX515"
            )
        return self._session


def _require_cuda_torch() -> None:
    require("torch")
    import torch

    if not torch.cuda.is_available():
        raise MissingError(
            f"torch {torch.__version__} sees no NVIDIA GPU: install a CUDA build of torch, "
            "whose memory the engine runs in",
            code="RX904",
        )
    torch.cuda.synchronize()  # makes the CUDA context, which the runtime cache is compared with
