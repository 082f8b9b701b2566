"""``diffusers:CLASS`` and ``transformers:CONFIG``: a module and its example from a config."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropeexport.dtypes import EXPORTED
from ropeexport.errors import UsageError, first_line
from ropeexport.models.builtin_models import DTYPES
from ropeexport.models.example import Example
from ropeexport.models.hub.diffusers_samples import SAMPLES
from ropeexport.models.hub.samples import SIZES, Samples
from ropeexport.models.hub.transformers_samples import samples_of
from ropeexport.packages import require
from ropeexport.weights.safetensors_files import commonest_type, find, read_places
from ropeexport.weights.skeleton import skeleton

LIBRARIES = ("diffusers", "transformers")
_STORED = {kind.safetensors: kind.torch for kind in EXPORTED.values()}

Maker = Callable[[Callable[[], nn.Module]], nn.Module]  # how a module is built: with values or not


def is_library_model(model: str) -> bool:
    """Say whether a MODEL names a class or a config of a library."""
    return model.partition(":")[0] in LIBRARIES and ":" in model


def load_example(
    model: str, config: Path | None, dtype: str | None, *, values: bool = False
) -> Example:
    """Return the example of ``diffusers:CLASS`` or ``transformers:CONFIG``.

    Parameters
    ----------
    model : str
        ``diffusers:CLASS``, or ``transformers:`` and a config file or its folder.
    config : Path or None
        The config of a diffusers class: a file or its folder.  Safetensors files in the folder are
        the weights, and none of them is read; without such files the weights are random.
    dtype : str or None
        fp32, fp16 or bf16; None: as the weights' files have it, else fp32.
    values : bool
        Whether the module is to hold values, random ones, even where there are weights' files.
    """
    library, _, name = model.partition(":")
    require(library)
    if library == "transformers" and config is not None:
        raise UsageError("--config: only for diffusers:CLASS; name it after transformers:")
    place = Path(name) if library == "transformers" else config
    if place is None:
        raise UsageError(f"{model}: add --config with its config.json, or the folder that holds it")
    if not place.exists():
        raise UsageError(f"{place}: no such file or folder")
    weights = place if place.is_dir() and find(place) and not values else None
    kind = DTYPES[dtype] if dtype else _stored_type(weights)
    make = skeleton_of if weights else _seeded
    if library == "diffusers":
        example = diffusers_example(name, _read(place), kind, make)
    else:
        example = transformers_example(place, kind, make)
    return replace(example, weights=weights)


def diffusers_example(
    name: str, config: dict[str, Any], dtype: torch.dtype, make: Maker | None = None
) -> Example:
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
    module = _made(lambda: kind.from_config(config), dtype, make)
    return _example(module, SAMPLES[name](vars(module)["_internal_dict"]), dtype)


def transformers_example(path: Path, dtype: torch.dtype, make: Maker | None = None) -> Example:
    """Return the example of a config of transformers."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"transformers:{path}: expected a config.json of a model that transformers knows, or "
            f"its folder: {first_line(error)}"
        ) from error
    module = _made(
        lambda: AutoModel.from_config(config),
        dtype,
        make,
    )
    return _example(module, samples_of(module, config), dtype)


def _made(make: Callable[[], nn.Module], dtype: torch.dtype, how: Maker | None) -> nn.Module:
    """Build a module in its final type: under fake tensors a later cast fails."""
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return (how or _seeded)(make).eval()
    finally:
        torch.set_default_dtype(former)


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a module with the same weights every time, without touching the caller's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def skeleton_of(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a module without values, see :func:`ropeexport.weights.skeleton.skeleton`."""
    return skeleton(make)


def _stored_type(weights: Path | None) -> torch.dtype:
    stored = commonest_type(read_places(weights)) if weights is not None else "F32"
    return _STORED.get(stored, torch.float32)


def _example(module: nn.Module, samples: Samples, dtype: torch.dtype) -> Example:
    inputs = {name: sample.make(dtype, SIZES) for name, sample in samples.inputs.items()}
    axes = {name: sample.axes for name, sample in samples.inputs.items() if sample.axes}
    return Example(module, inputs, axes, constants=dict(samples.constants))


def _read(config: Path) -> dict[str, Any]:
    path = config / "config.json" if config.is_dir() else config
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable config: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values
