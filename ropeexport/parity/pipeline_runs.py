"""A pipeline run as it is, or with something else for one component, which is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ropeexport.dtypes import float_type
from ropeexport.errors import ParityError, RopeExportError, first_line
from ropeexport.models.pipelines import AT_EACH_STEP, LATENTS, OURS, Subject
from ropeexport.parity.pixels import Pixels, is_picture
from ropeexport.parity.references import size_of
from ropeexport.runners.runner import Array, same_bits
from ropeexport.runners.torch_arrays import array_from

Forward = Callable[..., Any]

PIXELS = "pixels"


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

    calls: int = 0
    longest: int = 1
    roundoff: float = 0.0
    data_rms: float = 0.0
    has_unsummed: bool = False
    results: list[torch.dtype] = field(default_factory=list)

    def hear(self, given: Any, result: Any) -> None:
        """Take one call of the component down."""
        inputs, outputs = (tensors_in(tree) for tree in (given, result))
        self.calls += 1
        self.results = [x.dtype for x in outputs]
        self.longest = max([self.longest, *(size for x in (*inputs, *outputs) for size in x.shape)])
        for x in inputs:
            if x.is_floating_point():
                self.data_rms = max(self.data_rms, size_of(x.double().cpu().numpy()).rms)
                self.has_unsummed = self.has_unsummed or is_unsummed(x)
        kinds = (x.dtype for x in (*inputs, *outputs) if x.is_floating_point())
        roundoffs = (float_type(str(kind).removeprefix("torch.")).unit_roundoff for kind in kinds)
        self.roundoff = max([self.roundoff, *roundoffs])


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors of arguments, or of a result, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def is_unsummed(x: Tensor) -> bool:
    """Say whether no sum goes over a tensor: a number for each of the batch, as a timestep."""
    return x.dim() <= 1


class Studio:
    """A pipeline, and the component of it that an export takes the place of.

    Parameters
    ----------
    subject : Subject
        The pipeline, its calls and its component.
    seed : int
        Of the generator that every call is given.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.pipe = subject.pipe
        self.component = subject.component
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

    @property
    def device(self) -> str:
        """Where the component lies."""
        return next((x.device.type for x in self.eager.parameters()), "cpu")

    def shoot(self, call: Mapping[str, Any]) -> Shot:
        """Run the pipeline as it is now; the same seed, whatever ran before."""
        latents: list[Tensor] = []

        def keep(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            latents[:] = [values[LATENTS].detach().clone()]
            return values

        generator = torch.Generator("cpu").manual_seed(self._seed)
        ours = (generator, "np", keep, [LATENTS])
        with torch.no_grad(), _quiet(self.pipe):
            made = self.pipe(**call, **dict(zip(OURS, ours, strict=True)))
        pixels = np.asarray(made[0])
        if not latents:
            raise ParityError(
                f"{self.name}: no step ended with {AT_EACH_STEP} and its latents", code="RX703"
            )
        if not is_picture(pixels) or pixels.dtype.kind != "f":
            raise ParityError(
                f"{self.name}: expected a picture (batch, height, width, channels) or a video "
                f"(batch, frames, height, width, channels) of floats, got {pixels.dtype} of "
                f"{pixels.shape}",
                code="RX703",
            )
        return Shot(array_from(latents[0]), pixels)

    def shoot_eager(self, call: Mapping[str, Any], what: str) -> tuple[Shot, Seen, str]:
        """Run the pipeline twice as it came, and say what changed; empty: nothing.

        Raises
        ------
        ParityError
            Where it fails.
        """
        try:
            first = self.shoot(call)
            with listening(self.eager) as seen:
                second = self.shoot(call)
        except RopeExportError:
            raise
        except Exception as error:  # the user's arguments, or the pipeline's own code
            raise ParityError(
                f"{what}: {self.name} itself failed: {type(error).__name__}: {first_line(error)}",
                code="RX703",
            ) from error
        if not seen.calls:
            raise ParityError(
                f"{what}: {self.name} never called its {self.component}", code="RX703"
            )
        low, high = (float(f(first.pixels)) for f in (np.min, np.max))
        if not 0 <= low <= high <= 1:  # nor NaN, as a decoder in float16 may give
            raise ParityError(
                f"{what}: {self.name} itself: expected values of 0 to 1, got {low:.3g} to "
                f"{high:.3g}: nothing can be compared with that",
                code="RX703",
            )
        return first, seen, self._change(first, second)

    def _change(self, one: Shot, other: Shot) -> str:
        """Say what two runs with the same seed differ in, and who may be the reason."""
        for name, x in one.exact.items():
            y = other.exact[name]
            if not same_bits(x, y):
                by = f" by up to {np.abs(x - y).max():.3g}" if x.shape == y.shape else ""
                return (
                    f"seed: {name} change{by} between two runs with the same one: {self._cause()}"
                )
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

    def shoot_with(self, module: nn.Module, call: Mapping[str, Any], calls: int) -> Shot:
        """Run the pipeline with another module in the component's place, called as often.

        Raises
        ------
        ParityError
            Where it is not: a part of the picture would be eager's own, held to itself.
        """
        with self.exchanged(module), listening(module) as seen:
            shot = self.shoot(call)
        if seen.calls != calls:
            raise ParityError(
                f"{self.name} called it {seen.calls} times, and its own {self.component} {calls} "
                "times: it holds that elsewhere too, where nothing was exchanged",
                code="RX703",
            )
        return shot

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
    module.forward = wraps(module.forward)(forward)  # a pipeline may look at its arguments
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def listening(module: nn.Module) -> Iterator[Seen]:
    """Take down what passes through a module."""
    seen, forward = Seen(), module.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        seen.hear((args, kwargs), result)
        return result

    with speaking(module, spy):
        yield seen


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
