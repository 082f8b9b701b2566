"""Whether a module is the one that an export was made of, by its weights' names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from ropeexport.errors import UsageError
from ropeexport.models.wrappers import unwrapped
from ropeexport.weights.updating import weights_of

if TYPE_CHECKING:
    from ropeexport.inference.loaded import LoadedModel

Shapes = Mapping[str, tuple[int, ...]]


def check_like(model: LoadedModel, like: nn.Module) -> None:
    """Raise unless a module has the weights that an export has; their values may be others.

    An export through a wrapper has the wrapper's names in front.

    Raises
    ------
    UsageError
        For a module of another class, or of another config.
    """
    source = model.artifact.manifest.source
    if source.kind == "onnx":  # whose exporter gave weights names of its own
        return
    like = unwrapped(like)
    file = weights_of(model.artifact.file.graph)
    held: Shapes = {
        name: tuple(x.shape)
        for each in (like.named_parameters, like.named_buffers)
        for name, x in each(remove_duplicate=False)
    }
    for name, tensor in file.items():
        shape = tuple(int(size) for size in tensor.shape)
        own = _own_name(name, held)
        if own is None:
            raise UsageError(
                f"like: expected what was exported, {source.name}, got a {type(like).__name__}, "
                f"which has no weight {name}; an export through a wrapper needs adapt=",
                code="RX615",
            )
        if held[own] != shape:
            raise UsageError(
                f"like: expected the config of the export, got a {type(like).__name__} whose {own} "
                f"has shape {held[own]}, not {shape}",
                code="RX615",
            )


def _own_name(name: str, held: Shapes) -> str | None:
    """Return a module's name of a weight, which may be that of a part of what was exported."""
    parts = name.split(".")
    names = (".".join(parts[start:]) for start in range(len(parts)))
    return next((each for each in names if each in held), None)
