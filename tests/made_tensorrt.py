"""TensorRT and CUDA in little: what an engine is told, and what it answers, without a GPU."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from ropeexport.machine import Gpu
from ropeexport.manifest import (
    Axis,
    CacheRecord,
    EngineRecord,
    Manifest,
    ModelRecord,
    Profile,
    Source,
    TensorSpec,
)
from ropeexport.runners.trt_session import Session
from ropeexport.trt.cache import RuntimeCache
from ropeexport.trt.flavour import Capabilities, Flavour

LONGEST = 8
PAST, PRESENT = "past_key_values.0.key", "present.0.key"
A_GPU = Gpu("NVIDIA GeForce RTX 4090", "8.9", "13.0")
KERNELS = b"kernels\nof a GPU"


class Logger:
    INFO, WARNING, ERROR, INTERNAL_ERROR = range(4)


class TensorRT:
    """The module, and the one engine, context, configuration and cache that it makes.

    ``refuses`` names calls that fail; each failure is logged, as TensorRT does.
    """

    ILogger = Logger
    DataType = SimpleNamespace(FLOAT="FLOAT", HALF="HALF", BF16="BF16")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")
    ExecutionContextAllocationStrategy = SimpleNamespace(ON_PROFILE_CHANGE="of its profile")

    def __init__(self, *refuses: str) -> None:
        self.refuses = set(refuses)
        self.told: list[str] = []
        self.addresses: dict[str, int] = {}
        self.runs: list[dict[str, int]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.output_shape: tuple[int, ...] | None = None  # None: the first input's
        self.cached: list[bytes] = []  # that it was given
        self.held: dict[str, bytes] = {}
        self.joined: set[str] = set()
        self.streamable_weights_size, self.budget = 1000, -1
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"

    def answer(self, call: str, good: object, bad: object) -> object:
        if call not in self.refuses:
            return good
        self.fail(call)
        return bad

    def fail(self, call: str) -> bool:
        self.logger.log(Logger.ERROR, f"[api.cpp::{call}::12] Error Code 3:\n {call} is refused")
        return False

    # the module and its runtime
    def Runtime(self, logger):  # noqa: N802 - TensorRT's name
        self.logger = logger
        if self.answer("Runtime", self, None) is None:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return self

    def deserialize_cuda_engine(self, data):
        return self.answer("deserialize_cuda_engine", self, None)

    # the engine and its configuration
    def create_runtime_config(self):
        return self.answer("create_runtime_config", self, None)

    def create_execution_context(self, config=None):
        self.told.append("context")
        self.strategy = config and config.dynamic_shapes_kernel_specialization_strategy
        return self.answer("create_execution_context", self, None)

    def set_execution_context_allocation_strategy(self, strategy):
        self.told.append(f"memory {strategy}")

    def get_aliased_input_tensor(self, name):
        return None

    def create_runtime_cache(self):
        return self.answer("create_runtime_cache", self, None)

    def set_runtime_cache(self, cache):
        return self.answer("set_runtime_cache", True, False)

    # the engine's weights: `held` by name; those that `joined` names go with each other
    def Refitter(self, engine, logger):  # noqa: N802 - TensorRT's name
        if self.answer("Refitter", self, None) is None:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.given: dict[str, bytes] = {}
        return self

    def Weights(self, kind, address, count):  # noqa: N802 - TensorRT's name
        size = count * {"FLOAT": 4, "HALF": 2, "BF16": 2}[kind]
        return kind, count, lambda: ctypes.string_at(address, size)

    def set_named_weights(self, name, weights):
        self.given[name] = weights
        return self.answer(f"set_named_weights {name}", name in self.held, False)

    def get_missing_weights(self):
        asked = self.joined & self.given.keys()
        return sorted(self.joined - self.given.keys()) if asked else []

    def refit_cuda_engine(self):
        self.told.append(f"refit {', '.join(self.given)}")
        self.held |= {name: read() for name, (_, _, read) in self.given.items()}
        return self.answer("refit_cuda_engine", True, False)

    @property
    def weight_streaming_budget_v2(self):
        return self.budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget):
        self.told.append(f"budget {budget}")
        if self.answer("weight_streaming_budget_v2", True, False):
            self.budget = budget

    # the cache
    def deserialize(self, blob):
        self.cached.append(bytes(blob))
        return self.answer("deserialize", True, False)

    def serialize(self):
        return self.answer("serialize", KERNELS, None)

    # the context
    def set_input_shape(self, name, shape):
        self.told.append(f"{name} {shape}")
        self.shapes[name] = shape
        return shape[0] <= LONGEST or self.fail("set_input_shape")

    def infer_shapes(self):
        self.told.append("infer")
        if self.answer("infer_shapes", True, False) is False:
            raise RuntimeError("Shape inference failed")
        return [name for name in self.shapes if name not in self.addresses]

    def get_tensor_shape(self, name):
        self.told.append(f"shape of {name}")
        return self.output_shape or next(iter(self.shapes.values()))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return self.answer(f"set_tensor_address {name}", address != 0, False)

    def execute_async_v3(self, stream):
        self.told.append(f"run on {stream}")
        self.runs.append(dict(self.addresses))
        return self.answer("execute_async_v3", True, False)

    @property
    def flavour(self) -> Flavour:
        capabilities = Capabilities(
            builds_without_gpu=True,
            runtime_cache=True,
            timing_cache=False,
            strongly_typed_flag=False,
            serialises_plugins=True,
            engine_host_code=False,
            attention=True,
            refit=True,
            strip=True,
            weight_streaming=True,
        )
        return Flavour("tensorrt-rtx", self, "1.7.1", capabilities)


class Stream:
    """A stream; what is done with it is told in order with what the context is told."""

    def __init__(self, cuda: Cuda, handle: int) -> None:
        self.cuda, self.cuda_stream = cuda, handle

    def wait_stream(self, other: Stream) -> None:
        self.cuda.told.append(f"{self.cuda_stream} waits for {other.cuda_stream}")

    def record_event(self) -> Stream:
        return self

    def wait_event(self, recorded: Stream) -> None:
        self.cuda.told.append(f"{self.cuda_stream} waits for the run on {recorded.cuda_stream}")

    def synchronize(self) -> None:
        self.cuda.told.append(f"{self.cuda_stream} is done")
        if self.cuda.fault:
            raise RuntimeError(self.cuda.fault)


class Cuda:
    """torch.cuda, its current stream 7; streams that are made are counted from 100."""

    def __init__(self, told: list[str]) -> None:
        self.told, self.fault = told, ""
        self.current = Stream(self, 7)
        self.made: list[Stream] = []

    def make_stream(self) -> Stream:
        self.made.append(Stream(self, 100 + len(self.made)))
        return self.made[-1]

    @contextmanager
    def use(self, stream: Stream):
        former, self.current = self.current, stream
        yield
        self.current = former

    def install(self, monkeypatch) -> None:
        """Take torch.cuda's place; tensors stay in the CPU's memory."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "Stream", self.make_stream)
        monkeypatch.setattr(torch.cuda, "stream", self.use)
        monkeypatch.setattr(Session, "device", "cpu")


def engine_record(**fields: object) -> EngineRecord:
    """An engine whose output ``y`` has the shape of its input ``x``."""
    profile = Profile(min={"x": (0, 2)}, opt={"x": (4, 2)}, max={"x": (LONGEST, 2)})
    x, y = (TensorSpec(name=name, dtype="bfloat16", shape=("n", 2)) for name in "xy")
    made = EngineRecord(
        file="model.engine",
        sha256="e" * 64,
        model_sha256="d" * 64,
        flavour="tensorrt-rtx",
        version="1.7.1",
        inputs=(x,),
        outputs=(y,),
        profile=profile,
        ropes={},
        attention="none",
        compute_capabilities=(),
    )
    return made.model_copy(update=fields)


def make_session(tensorrt: TensorRT, folder, *, specialise: bool = False) -> Session:
    """Return the session of such an engine; what it keeps goes into a folder."""
    record = engine_record()
    kept = RuntimeCache(folder, record, A_GPU)
    return Session(tensorrt.flavour, record, b"engine", None, kept, specialise=specialise)


def decoder_manifest(form: str, capacity: int = 64) -> Manifest:
    """A decoder of one layer that keeps keys alone, one number a token."""
    whole = ("batch", "past + length")
    inputs = [("input_ids", ("batch", "length")), ("attention_mask", whole),
              ("position_ids", ("batch", "length"))]  # fmt: skip
    slots = capacity if form == "fixed" else "past"
    model = ModelRecord(
        file="model.onnx", sha256="0", opset=24, dtype="fp32", outputs=(), ropes=(),
        inputs=(
            *(TensorSpec(name=name, dtype="int64", shape=shape) for name, shape in inputs),
            TensorSpec(name=PAST, dtype="float32", shape=("batch", 1, slots, 1)),
        ),
    )  # fmt: skip
    axes = {
        "batch": Axis(min=1, opt=2, max=8),
        "length": Axis(min=1, opt=min(16, capacity), max=capacity),
        "past": Axis(min=0, opt=min(32, capacity - 1), max=capacity - 1),
    }
    return Manifest(
        ropeexport="0", source=Source(kind="module", name="d"), model=model, axes=axes,
        cache=CacheRecord(form=form, capacity=capacity, pairs=((PAST, PRESENT),)),
    )  # fmt: skip
