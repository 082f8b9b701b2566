"""A class of transformers by its name: the whole of a config, or a part, a vision tower say."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from ropeexport.errors import UsageError
from ropeexport.models.hub.configs import with_parts

_CONFIGURATION, _MODELING = "configuration_", "modeling_"


def is_class_name(name: str) -> bool:
    """Say whether a text after ``transformers:`` is a class's name, no path."""
    return name.isidentifier() and name[:1].isupper()


def class_of(name: str, config: Any) -> Any:
    """Return a class from the module of transformers that a config's model is in.

    Parameters
    ----------
    name : str
        ``Qwen2VLTextModel``, say.
    config : PretrainedConfig
        Of the whole model, or of the part.

    Raises
    ------
    UsageError
        Where there is no such class.
    """
    package, _, module = type(config).__module__.rpartition(".")
    found = import_module(f"{package}.{module.replace(_CONFIGURATION, _MODELING)}")
    kind = getattr(found, name, None)
    if not _is_model(kind):
        known = [key for key, value in vars(found).items() if _is_model(value)]
        raise UsageError(
            f"transformers:{name}: expected a model of {found.__name__}, one of "
            f"{', '.join(sorted(known))}, got none",
            code="RX101",
        )
    return kind


def _is_model(kind: Any) -> bool:
    from transformers import PreTrainedModel

    is_model = inspect.isclass(kind) and issubclass(kind, PreTrainedModel)
    return is_model and kind.config_class is not None and "PreTrainedModel" not in kind.__name__


def config_of(kind: Any, config: Any) -> Any:
    """Return the config of a class, which may be a part of a config.

    Raises
    ------
    UsageError
        Where it is none of its parts.
    """
    for part in with_parts(config):
        if type(part) is kind.config_class:
            return part
    raise UsageError(
        f"transformers:{kind.__name__}: expected a config of {kind.config_class.__name__}, or of a "
        f"model that has such a part, got {type(config).__name__}",
        code="RX103",
    )
