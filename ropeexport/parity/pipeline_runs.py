"""A pipeline run with a component of its own, its float64 twin, or an export in that place.

Everything else of the pipeline stays as it is, and all of it is put back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ropeexport.dtypes import float_type
from ropeexport.errors import ParityError, RopeExportError, UsageError, first_line
from ropeexport.models import sources
from ropeexport.parity.oracle import WideCopy, Widened, noise_of
from ropeexport.parity.pixels import Pixels, is_picture
from ropeexport.parity.references import TABLE_DRAWS, Truth, moves_of, size_of
from ropeexport.parity.tolerance import MOST_SAMPLES
from ropeexport.runners.runner import Array, same_bits
from ropeexport.runners.torch_arrays import array_from

Calls = Sequence[Mapping[str, Any]]
# a factory's reference, the factory, or what it returns
Pipeline = str | Callable[[], tuple[Any, Calls]] | tuple[Any, Calls]
Forward = Callable[..., Any]

LATENTS, PIXELS = "latents", "pixels"
_USUAL = "transformer"  # where no component is of the export's class
_AT_EACH_STEP = "callback_on_step_end"
_OURS = ("generator", "output_type", _AT_EACH_STEP, f"{_AT_EACH_STEP}_tensor_inputs")
_EXPECTED = "expected a factory that returns (pipeline, calls), calls a list of dicts, "


@dataclass(frozen=True)
class Shot:
    """What one call gave: the last latents, and the pictures as values of 0 to 1."""

    latents: Array
    pixels: Pixels

    @property
    def exact(self) -> dict[str, NDArray[np.float64]]:
        """Both, widened."""
        return {LATENTS: self.latents.astype(np.float64), PIXELS: self.pixels.astype(np.float64)}


@dataclass
class Seen:
    """What passes through a component in a call: the longest axis, the coarsest type, and so on."""

    longest: int = 1
    roundoff: float = 0.0
    data_rms: float = 0.0
    results: list[torch.dtype] = field(default_factory=list)

    def hear(self, given: Any, result: Any) -> None:
        """Take one call of the component down."""
        inputs, outputs = (_tensors_in(tree) for tree in (given, result))
        self.results = [x.dtype for x in outputs]
        self.longest = max([self.longest, *(size for x in (*inputs, *outputs) for size in x.shape)])
        for x in inputs:
            if x.is_floating_point():
                self.data_rms = max(self.data_rms, size_of(x.double().cpu().numpy()).rms)
        kinds = (x.dtype for x in (*inputs, *outputs) if x.is_floating_point())
        roundoffs = (float_type(str(kind).removeprefix("torch.")).unit_roundoff for kind in kinds)
        self.roundoff = max([self.roundoff, *roundoffs])


def _tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


class Studio:
    """A pipeline, and the component of it that an export takes the place of.

    Parameters
    ----------
    pipe : Any
        A pipeline of diffusers, or what is called as one.
    component : str
        The component's name.
    seed : int
        Of the generator that every call is given.
    """

    def __init__(self, pipe: Any, component: str, seed: int) -> None:
        self.pipe = pipe
        self.component = component
        self._seed = seed

    @property
    def name(self) -> str:
        """The pipeline's class."""
        return type(self.pipe).__name__

    @property
    def eager(self) -> nn.Module:
        """What is in the component's place now."""
        module: nn.Module = getattr(self.pipe, self.component)
        return module

    def shoot(self, call: Mapping[str, Any]) -> Shot:
        """Run the pipeline as it is now; the same seed, whatever ran before."""
        latents: list[Tensor] = []

        def keep(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            latents[:] = [values[LATENTS].detach().clone()]
            return values

        generator = torch.Generator("cpu").manual_seed(self._seed)
        ours = (generator, "np", keep, [LATENTS])
        with torch.no_grad(), _quiet(self.pipe):
            made = self.pipe(**call, **dict(zip(_OURS, ours, strict=True)))
        pixels = np.asarray(made[0])
        if not latents:
            raise ParityError(f"{self.name}: no step ended with {_AT_EACH_STEP} and its latents")
        if not is_picture(pixels) or pixels.dtype.kind != "f":
            raise ParityError(
                f"{self.name}: expected a picture (batch, height, width, channels) or a video "
                f"(batch, frames, height, width, channels) of floats, got {pixels.dtype} of "
                f"{pixels.shape}"
            )
        return Shot(array_from(latents[0]), pixels)

    def shoot_eager(self, call: Mapping[str, Any], what: str) -> tuple[Shot, Seen, str]:
        """Run the pipeline twice as it came, and say what changed; empty: nothing.

        Raises
        ------
        ParityError
            Where it fails.
        """
        seen, eager = Seen(), self.eager
        forward = eager.forward

        def spy(*args: Any, **kwargs: Any) -> Any:
            result = forward(*args, **kwargs)
            seen.hear((args, kwargs), result)
            return result

        try:
            first = self.shoot(call)
            with speaking(eager, spy):
                second = self.shoot(call)
        except RopeExportError:
            raise
        except Exception as error:  # the user's arguments, or the pipeline's own code
            raise ParityError(
                f"{what}: {self.name} itself failed: {type(error).__name__}: {first_line(error)}"
            ) from error
        if not seen.results:
            raise ParityError(f"{what}: {self.name} never called its {self.component}")
        return first, seen, self._change(first, second)

    def _change(self, one: Shot, other: Shot) -> str:
        """Say what two runs with the same seed differ in, and who may be the reason."""
        for name, x in one.exact.items():
            y = other.exact[name]
            if not same_bits(x, y):
                by = f" by up to {np.abs(x - y).max():.3g}" if x.shape == y.shape else ""
                return f"{name} change{by} between two runs with the same seed: {self._cause()}"
        return ""

    def _cause(self) -> str:
        parts = {n: c for n, c in self.pipe.components.items() if isinstance(c, nn.Module)}
        training = [f"{n} ({type(c).__name__})" for n, c in parts.items() if _is_training(c)]
        if not training:
            return "something draws random numbers of its own, or keeps what a run leaves behind"
        several = len(training) > 1
        return (
            f"{', '.join(training)} {'are' if several else 'is'} in training mode; call .eval() on "
            f"{'each' if several else 'it'}"
        )

    @contextmanager
    def exchanged(self, module: nn.Module) -> Iterator[None]:
        """Have another module in the component's place."""
        own = self.eager
        setattr(self.pipe, self.component, module)
        try:
            yield
        finally:
            setattr(self.pipe, self.component, own)


def _is_training(module: nn.Module) -> bool:
    return any(part.training for part in module.modules())


@contextmanager
def speaking(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Have a module answer with another function; all else of it is as it was."""
    own = module.__dict__.get("forward")  # of an instance alone, as hooks leave it
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def _quiet(pipe: Any) -> Iterator[None]:
    """Have no progress bars of diffusers'."""
    name = "_progress_bar_config"
    if not hasattr(pipe, "set_progress_bar_config"):
        yield
        return
    own = getattr(pipe, name, None)
    pipe.set_progress_bar_config(**{**(own or {}), "disable": True})
    try:
        yield
    finally:
        if own is None:
            delattr(pipe, name)
        else:
            setattr(pipe, name, own)


class PipelineOracle:
    """A pipeline whose component computes in float64, each result rounded to the pipeline's type.

    Parameters
    ----------
    studio : Studio
        The pipeline; its component is copied.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._copy = WideCopy(studio.eager)
        self.widest = self._copy.widest

    def truth(self, call: Mapping[str, Any], seen: Seen, seed: int) -> Truth:
        """Return what a call gives, and how it moves where every input is rounded anew.

        At each call of the component, so that what one leaves is what the next one is given.
        """
        exact = Widened(single=True)

        def run(within: AbstractContextManager[object], noise: int | None = None) -> Any:
            with speaking(self._studio.eager, self._forward(seen, within, noise)):
                return self._studio.shoot(call).exact

        outputs = run(exact)
        conversions = {}
        if exact.met_single or self._copy.tables:

            def coarse(number: int) -> Any:
                with self._copy.coarse_tables(seed + number):
                    return run(Widened(single=False))

            conversions = moves_of(outputs, coarse, TABLE_DRAWS)
        return Truth(
            outputs=outputs,
            sizes={name: size_of(x) for name, x in outputs.items()},
            sensitivity=moves_of(outputs, lambda n: run(exact, seed + n), MOST_SAMPLES),
            data_rms=seen.data_rms,
            conversions=conversions,
        )

    def _forward(
        self, seen: Seen, within: AbstractContextManager[object], noise: int | None
    ) -> Forward:
        generator = None if noise is None else torch.Generator().manual_seed(noise)

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = pytree.tree_map_only(Tensor, lambda x: _wide(x, generator), (args, kwargs))
            device = next((x.device for x in _tensors_in((args, kwargs))), "cpu")
            with torch.no_grad(), within:
                result = self._copy.module.forward(*given[0], **given[1])
            dtypes = iter(seen.results)
            return pytree.tree_map_only(Tensor, lambda x: x.to(device, next(dtypes)), result)

        return forward


def _wide(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return a tensor in float64, perturbed; whole numbers are exact in every type."""
    host = x.detach().cpu()
    if not host.is_floating_point():
        return host
    wide = host.double()
    if generator is None or bool((wide == wide.round()).all()):
        return wide
    roundoff = float_type(str(x.dtype).removeprefix("torch.")).unit_roundoff
    return wide * noise_of(wide, roundoff, generator)


def studio_of(pipeline: Pipeline, source: str, seed: int) -> tuple[Studio, list[dict[str, Any]]]:
    """Return a pipeline, ready to be run, and its calls.

    Parameters
    ----------
    pipeline : str, callable or tuple
        A factory's reference, the factory, or the pair of the pipeline and its calls.
    source : str
        What the export was made from: the component is the one of that class.
    seed : int
        Of every call.

    Raises
    ------
    UsageError
        Where it is something else, or has no such component.
    """
    made = pipeline if isinstance(pipeline, tuple) else sources.called(pipeline)
    if not isinstance(made, tuple) or len(made) != 2:
        raise UsageError(f"pipeline: {_EXPECTED}got {type(made).__name__}")
    pipe, calls = made
    parts = getattr(pipe, "components", None)
    if not callable(pipe) or not isinstance(parts, Mapping):
        raise UsageError(f"pipeline: expected a pipeline of diffusers, got {type(pipe).__name__}")
    _check_steps(pipe)
    if not isinstance(calls, list | tuple) or not calls:
        raise UsageError(f"pipeline: {_EXPECTED}at least one of them, got {calls!r}")
    for call in calls:
        if not isinstance(call, Mapping) or any(name in call for name in _OURS):
            raise UsageError(
                f"pipeline: expected each call's arguments by name, without {', '.join(_OURS)}, "
                f"which are set here; got {call!r}"
            )
    return Studio(pipe, _component_of(pipe, parts, source), seed), [dict(call) for call in calls]


def _check_steps(pipe: Any) -> None:
    takes = inspect.signature(type(pipe).__call__).parameters
    known = getattr(pipe, "_callback_tensor_inputs", [LATENTS])
    if _AT_EACH_STEP not in takes or LATENTS not in known:
        raise UsageError(
            f"pipeline: {type(pipe).__name__} hands out no latents ({_AT_EACH_STEP}), by which it "
            "would be compared"
        )


def _component_of(pipe: Any, parts: Mapping[str, Any], source: str) -> str:
    """Return the component of the class that was exported, else the usual one."""
    wanted = source.rpartition(":")[2].rpartition(".")[2]
    modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    found = [name for name, part in modules.items() if type(part).__name__ == wanted]
    if _USUAL in modules and (not found or _USUAL in found):
        return _USUAL
    if not found:
        raise UsageError(
            f"pipeline: expected a component of the class {wanted}, or one that is called "
            f"{_USUAL}, to put the export in its place; {type(pipe).__name__} has "
            f"{', '.join(modules) or 'none'}"
        )
    return found[0]
