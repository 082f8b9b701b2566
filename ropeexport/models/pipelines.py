"""A pipeline of diffusers as a user hands it over, with the calls that it is compared in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ropeexport.errors import UsageError
from ropeexport.models.sources import called

Calls = Sequence[Mapping[str, Any]]
Adapt = Callable[[dict[str, Any]], Mapping[str, Any]]
Made = tuple[Any, Calls] | tuple[Any, Calls, Adapt]
# a factory's reference, the factory, or what it returns
Pipeline = str | Callable[[], Made] | Made

LATENTS = "latents"
AT_EACH_STEP = "callback_on_step_end"
# the arguments that a comparison sets itself
OURS = ("generator", "output_type", AT_EACH_STEP, f"{AT_EACH_STEP}_tensor_inputs")
_USUAL = "transformer"  # where no component is of the export's class
_EXPECTED = "pipeline: expected a factory that returns (pipeline, calls)"


@dataclass(frozen=True)
class Subject:
    """A pipeline, the name of the component that is exchanged, and the arguments of each call.

    ``adapt`` makes the export's arguments of the component's, where they are others.
    """

    pipe: Any
    component: str
    calls: tuple[dict[str, Any], ...]
    adapt: Adapt | None = None


def subject_of(pipeline: Pipeline, source: str) -> Subject:
    """Return a pipeline, its calls, and which component an export takes the place of.

    Parameters
    ----------
    pipeline : str, callable or tuple
        A factory's reference, the factory, or what it returns: the pipeline and its calls, and
        for an export through a wrapper the function ``adapt`` of
        :class:`ropeexport.inference.module.ExportedModule`.
    source : str
        What the export was made from: the component is the one of that class.

    Raises
    ------
    UsageError
        Where it is something else, or has no such component.
    """
    made = pipeline if isinstance(pipeline, tuple) else called(pipeline)
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise UsageError(
            f"{_EXPECTED}, or (pipeline, calls, adapt), got {type(made).__name__}", code="RX117"
        )
    pipe, calls, adapt = (*made, None)[:3]
    parts = getattr(pipe, "components", None)
    if not callable(pipe) or not isinstance(parts, Mapping):
        raise UsageError(
            f"pipeline: expected a pipeline of diffusers, got {type(pipe).__name__}", code="RX117"
        )
    if adapt is not None and not callable(adapt):
        raise UsageError(f"{_EXPECTED}, or adapt too, a function, got {adapt!r}", code="RX117")
    _check_steps(pipe)
    return Subject(pipe, _component_of(pipe, parts, source), _checked(calls), adapt)


def _checked(calls: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(calls, list | tuple) or not calls:
        raise UsageError(
            f"{_EXPECTED}, calls a list of dicts and not empty, got {calls!r}", code="RX117"
        )
    for call in calls:
        if not isinstance(call, Mapping):
            raise UsageError(
                f"{_EXPECTED}, calls a list of dicts, got {call!r} in it", code="RX117"
            )
        ours = next((name for name in OURS if name in call), None)
        if ours is not None:
            raise UsageError(
                f"pipeline: {ours}: the check sets it itself; leave it out", code="RX117"
            )
    return tuple(dict(call) for call in calls)


def _check_steps(pipe: Any) -> None:
    takes = inspect.signature(type(pipe).__call__).parameters
    known = getattr(pipe, "_callback_tensor_inputs", [LATENTS])
    if AT_EACH_STEP not in takes or LATENTS not in known:
        raise UsageError(
            f"pipeline: {type(pipe).__name__} hands out no latents ({AT_EACH_STEP}), by which it "
            "would be compared",
            code="RX117",
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
            f"{', '.join(modules) or 'none'}",
            code="RX117",
        )
    return found[0]
