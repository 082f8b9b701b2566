"""``diffusers:CLASS`` and ``transformers:CONFIG``: a module and its example from a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropeexport.errors import UsageError
from ropeexport.example import Example
from ropeexport.hub.diffusers_samples import SAMPLES
from ropeexport.hub.samples import SIZES, Samples
from ropeexport.hub.transformers_samples import samples_of
from ropeexport.packages import require

LIBRARIES = ("diffusers", "transformers")


def is_library_model(model: str) -> bool:
    """Say whether a MODEL names a class or a config of a library."""
    return model.partition(":")[0] in LIBRARIES and ":" in model


def load_example(model: str, config: Path | None, dtype: torch.dtype) -> Example:
    """Return the example of ``diffusers:CLASS`` or ``transformers:CONFIG``.

    Parameters
    ----------
    model : str
        ``diffusers:CLASS``, or ``transformers:`` and a config file or its folder.
    config : Path or None
        The config of a diffusers class: a file or its folder.
    dtype : torch.dtype
        Type of the weights.
    """
    library, _, name = model.partition(":")
    require(library)
    if library == "diffusers":
        return diffusers_example(name, _read(config, model), dtype)
    if config is not None:
        raise UsageError("--config: only for diffusers:CLASS; name the config after transformers:")
    return transformers_example(Path(name), dtype)


def diffusers_example(name: str, config: dict[str, Any], dtype: torch.dtype) -> Example:
    """Return the example of a class of diffusers and its config."""
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "from_config"):
        raise UsageError(f"diffusers:{name}: diffusers {diffusers.__version__} has no such model")
    if name not in SAMPLES:
        raise UsageError(
            f"diffusers:{name}: no sample inputs are known for it (known: {', '.join(SAMPLES)}); "
            "write a factory that returns (module, example inputs, dynamic axes)"
        )
    module = _made(lambda: kind.from_config(config), dtype)
    return _example(module, SAMPLES[name](vars(module)["_internal_dict"]), dtype)


def transformers_example(path: Path, dtype: torch.dtype) -> Example:
    """Return the example of a config of transformers."""
    from transformers import AutoConfig, AutoModel

    if not path.exists():
        raise UsageError(f"transformers:{path}: no such file or folder")
    config = AutoConfig.from_pretrained(path)
    module = _made(lambda: AutoModel.from_config(config), dtype)  # type: ignore[no-untyped-call]
    return _example(module, samples_of(module, config), dtype)


def _made(make: Any, dtype: torch.dtype) -> nn.Module:
    """Build a module in its final type: under fake tensors a later cast fails."""
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        module: nn.Module = make()
    finally:
        torch.set_default_dtype(former)
    return module.eval()


def _example(module: nn.Module, samples: Samples, dtype: torch.dtype) -> Example:
    inputs = {name: sample.make(dtype, SIZES) for name, sample in samples.inputs.items()}
    axes = {name: sample.axes for name, sample in samples.inputs.items() if sample.axes}
    return Example(module, inputs, axes, constants=dict(samples.constants))


def _read(config: Path | None, model: str) -> dict[str, Any]:
    if config is None:
        raise UsageError(f"{model}: add --config with its config.json, or the folder that holds it")
    path = config / "config.json" if config.is_dir() else config
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable config: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values
