"""What ``export`` is given, a module or the name of a MODEL, as an example with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ropeexport.errors import UsageError
from ropeexport.manifest import Source

if TYPE_CHECKING:
    from torch import nn

    from ropeexport.models.example import Example


class ModelOptions(TypedDict, total=False):
    """What a MODEL that is named may be given: sizes and type, or the config of its class."""

    batch: int
    heads: int
    head_dim: int
    length: int
    dtype: str
    config: str | Path


def named(model: str, given: ModelOptions) -> tuple[Example, Source]:
    """Load a MODEL that is named, with the options that are its own."""
    from ropeexport.models import sources
    from ropeexport.models.builtin_models import BUILTINS, BuiltinOptions
    from ropeexport.models.hub.load import is_library_model

    sizes: dict[str, Any] = {name: x for name, x in given.items() if x is not None}
    config = sizes.pop("config", None)
    dtype = sizes.pop("dtype", None) if is_library_model(model) else None
    if sizes and model not in BUILTINS:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sizes)
        raise UsageError(f"{options}: only for the built-in models ({', '.join(BUILTINS)})")
    place = Path(config) if config is not None else None
    return sources.load(model, BuiltinOptions(**sizes), place, dtype)


def example_of(
    module: nn.Module | Callable[[], nn.Module] | Example,
    kwargs: Mapping[str, Any] | None,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None,
    weights: Path | None,
) -> Example:
    """Return a module and its arguments as an example; what is an example already, as it is."""
    from ropeexport.models.example import Example
    from ropeexport.models.input_tree import has_tensor

    if isinstance(module, Example):
        if any(x is not None for x in (kwargs, dynamic_axes, weights)):
            raise UsageError("export: an Example has its own kwargs, dynamic_axes and weights")
        return module
    if not isinstance(kwargs, Mapping):
        given = "none" if kwargs is None else type(kwargs).__name__
        raise UsageError(
            f"kwargs: expected the arguments of forward by name, {{'x': tensor}}, got {given}"
        )
    inputs = {name: value for name, value in kwargs.items() if has_tensor(value)}
    return Example(
        module=_module(module, weights),
        inputs=inputs,
        dynamic_axes=dynamic_axes or {},
        constants={name: value for name, value in kwargs.items() if name not in inputs},
        weights=weights,
    )


def _module(module: nn.Module | Callable[[], nn.Module], weights: Path | None) -> nn.Module:
    from torch import nn

    from ropeexport.weights.safetensors_files import find
    from ropeexport.weights.skeleton import skeleton

    if weights is None:
        if not isinstance(module, nn.Module):
            raise UsageError(f"module: expected an nn.Module, got {type(module).__name__}")
        return module
    if isinstance(module, nn.Module):
        raise UsageError(
            "module: with weights, expected a callable that makes the module, so that no weight "
            f"takes memory; got a {type(module).__name__} that is made already"
        )
    if not find(weights):
        raise UsageError(f"weights: no safetensors file in {weights}")
    return skeleton(module)


def source_of(example: Example) -> Source:
    """Return what a manifest says of a module that is an object: the name of its class."""
    kind = type(example.module)
    return Source(kind="module", name=f"{kind.__module__}.{kind.__qualname__}")


@contextmanager
def left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Have a module in evaluation mode, and then as it was, whatever happens in between."""
    from ropeexport.models.example import evaluated, unchanged

    with unchanged(module), evaluated(module):
        yield
