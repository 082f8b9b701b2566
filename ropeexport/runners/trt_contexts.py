"""The contexts of a loaded engine, one for each of its profiles, and what each was told.

A context never changes its profile: that takes its shapes away and may copy, twice for each text
that a decoder writes.  Each takes the memory that its own profile needs, which for one token is
little.

Source of the call sequence: TensorRT's Python API reference (ICudaEngine, IExecutionContext,
ExecutionContextAllocationStrategy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ropeexport.errors import EngineError
from ropeexport.manifest import EngineRecord, Profile

if TYPE_CHECKING:
    from ropeexport.trt.reporting import Journal

Shapes = dict[str, tuple[int, ...]]
Addresses = tuple[tuple[str, int], ...]


class Contexts:
    """The contexts of an engine, each made when it is first asked for.

    Parameters
    ----------
    trt : module
        The flavour.
    engine
        TensorRT's.
    config
        The configuration of contexts; None where the flavour has none.
    record : EngineRecord
        What the engine is.
    journal : Journal
        What TensorRT says.
    """

    def __init__(
        self, trt: Any, engine: Any, config: Any, record: EngineRecord, journal: Journal
    ) -> None:
        self._trt, self._engine, self._config = trt, engine, config
        self._record, self._journal = record, journal
        self._made: dict[int, Context] = {}
        if config is not None and len(record.profiles) > 1:
            config.set_execution_context_allocation_strategy(self._own_memory)

    def anew(self) -> Contexts:
        """Return other contexts of the same engine."""
        return Contexts(self._trt, self._engine, self._config, self._record, self._journal)

    def make(self) -> None:
        """Make them all."""
        for profile in range(len(self._record.profiles)):
            self._of(profile)

    def of_shapes(self, shapes: Shapes) -> Context:
        """Return the context for some shapes of the inputs.

        It is the last profile's that has them, as later ones are narrower; where none has them it
        is the first's, which refuses them.
        """
        profiles = self._record.profiles
        fitting = (i for i in range(len(profiles) - 1, 0, -1) if _has(profiles[i], shapes))
        return self._of(next(fitting, 0))

    def _of(self, profile: int) -> Context:
        if profile not in self._made:
            sizes = self._record.profiles[profile]
            self._made[profile] = Context(self._make(profile), sizes, self._record, self._journal)
        return self._made[profile]

    def _make(self, profile: int) -> Any:
        import torch

        is_one = len(self._record.profiles) == 1
        plain = () if is_one else (self._own_memory,)
        configured = plain if self._config is None else (self._config,)
        context = self._engine.create_execution_context(*configured)
        if context is None:
            raise engine_error(self._record, self._journal, "no context")
        if not is_one:
            stream = torch.cuda.current_stream()
            if not context.set_optimization_profile_async(profile, stream.cuda_stream):
                raise engine_error(self._record, self._journal, f"no context of profile {profile}")
            stream.synchronize()  # its runs may be on another
        return context

    @property
    def _own_memory(self) -> Any:
        """The strategy by which a context takes its profile's memory, not that of the largest."""
        return self._trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE


class Context:
    """TensorRT's context of a profile, and the inputs' shapes that it has.

    Parameters
    ----------
    own
        TensorRT's.
    profile : Profile
        Which shapes it takes.
    record, journal
        See :class:`Contexts`.
    """

    def __init__(self, own: Any, profile: Profile, record: EngineRecord, journal: Journal) -> None:
        self.own = own
        self._profile, self._record, self._journal = profile, record, journal
        self._shapes: Shapes = {}

    def tell(self, shapes: Shapes, addresses: Addresses) -> None:
        """Tell it where inputs and outputs lie, and the inputs' shapes where it has others.

        Raises
        ------
        EngineError
            Where it refuses them.
        """
        for name, address in addresses:
            if not self.own.set_tensor_address(name, address):
                raise self._error(f"{name}: refused at address {address:#x}")
        if shapes != self._shapes:
            self._shapes = {}  # what is known of it where one is refused
            self._set_shapes(shapes)
            self._shapes = shapes

    def _set_shapes(self, shapes: Shapes) -> None:
        for name, shape in shapes.items():
            if not self.own.set_input_shape(name, shape):
                self._journal.taken()  # forgotten: the profile says more
                raise EngineError(
                    f"{name}: expected a shape within the profile, {self._profile.min[name]} to "
                    f"{self._profile.max[name]}, got {shape}",
                    code="RX602",
                )
        try:
            missing = self.own.infer_shapes()
        except RuntimeError as error:  # for any reason but a shape that is missing
            raise self._error(f"no outputs' shapes from {shapes}") from error
        if missing:
            raise self._error(f"no shapes for {', '.join(missing)}")

    def run(self, stream: int) -> None:
        """Enqueue a run on a stream, by its handle."""
        if not self.own.execute_async_v3(stream):
            raise self._error("the run failed")

    def _error(self, text: str) -> EngineError:
        return engine_error(self._record, self._journal, text)


def _has(profile: Profile, shapes: Shapes) -> bool:
    """Say whether a profile has some shapes within its range."""
    return all(
        low <= size <= high
        for name, shape in shapes.items()
        for low, size, high in zip(profile.min[name], shape, profile.max[name], strict=False)
    )


def engine_error(record: EngineRecord, journal: Journal, text: str) -> EngineError:
    """Return an engine's error with what TensorRT said of it, which is then forgotten."""
    return EngineError(f"{record.file}: {text}: {journal.taken()}", code="RX509")
