"""Sample inputs of the libraries' models with RoPE, from their configs and their ``forward``."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ropeexport.axes import sum_of
from ropeexport.manifest import InputRole
from ropeexport.models.hub import diffusers_inputs, packed, transformers_inputs
from ropeexport.models.hub.diffusers_inputs import Input, Inputs

Config = Mapping[str, Any]

# Sizes to trace with: unequal, so that no two axes are taken for one
SIZES = {
    "batch": 2, "length": 12, "text_length": 7, "frames": 3, "height": 8, "width": 12,
    "audio_length": 10, "image_length": 5, "images": 2,
    "patches": 10, "merged_patches": 10, "pictures": 6, "queries": 4,
    "mel_frames": 48, "samples": 5760, "steps": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """An input of a model: its shape by the config, its type, its dynamic axes.

    Parameters
    ----------
    shape : tuple of int
        Sizes to trace with.
    axes : dict
        The dynamic axes by their number.
    kind : str
        See :class:`ropeexport.models.hub.diffusers_inputs.Input`, and
        :mod:`ropeexport.models.hub.transformers_inputs` for three more.
    high : int
        Integers are below it.
    fixed : tuple of str
        Axes that stay as they are traced though another call may have others.
    """

    shape: tuple[int, ...]
    axes: Mapping[int, str]
    kind: str = "float"
    high: int = 2
    fixed: tuple[str, ...] = ()

    def make(self, dtype: torch.dtype) -> Tensor:
        """Make a tensor, the same every time."""
        shape, generator = self.shape, torch.Generator()
        generator.manual_seed(len(shape) + sum(shape))
        makers: dict[str, Callable[[], Tensor]] = {
            "float": lambda: torch.randn(shape, generator=generator).to(dtype),
            "float32": lambda: torch.randn(shape, generator=generator),
            "complex": lambda: torch.polar(
                torch.ones(shape), torch.randn(shape, generator=generator)
            ),
            "int": lambda: torch.randint(0, self.high, shape, generator=generator),
            "positions": lambda: torch.arange(shape[-1]).expand(shape).contiguous(),
            # positions on several axes, as FLUX has them
            "whole ids": lambda: torch.arange(shape[-2])[:, None].expand(shape).contiguous(),
            "ids": lambda: makers["whole ids"]().to(torch.float32),
            # of patches in rows of six
            "places": lambda: (
                torch.stack([torch.arange(shape[1]) % 6, torch.arange(shape[1]) // 6], dim=-1)
                .expand(shape)
                .contiguous()
            ),
            "ones": lambda: torch.ones(shape, dtype=torch.bool),
            "zeros": lambda: torch.zeros(shape, dtype=torch.bool),
            "lengths": lambda: torch.full(shape, SIZES["text_length"]),
            "sound lengths": lambda: torch.full(shape, SIZES["samples"]),
            # as many patches as SIZES has
            "grid": lambda: (
                torch.tensor([[1, 2, 2], [1, 2, 3]]) * torch.tensor([1, *[self.high] * 2])
            ),
        }
        return makers[self.kind]()


@dataclass(frozen=True)
class Samples:
    """All inputs of a model, trees of samples, and the arguments that are no tensors."""

    inputs: dict[str, Any]
    constants: dict[str, Any]
    roles: Mapping[str, InputRole] = field(default_factory=dict)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Axes that stay as they are traced, each once."""
        each = (sample for _, sample in _leaves(self.inputs))
        return tuple(dict.fromkeys(name for sample in each for name in sample.fixed))

    def made(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return the tensors, in the places of their samples."""
        found: dict[str, Any] = pytree.tree_map(lambda sample: sample.make(dtype), self.inputs)
        return found

    def axes(self) -> dict[str, Mapping[int, str]]:
        """Return the dynamic axes of each tensor that has any, by its path."""
        return {name: sample.axes for name, sample in _leaves(self.inputs) if sample.axes}


def _leaves(inputs: dict[str, Any]) -> Iterator[tuple[str, Sample]]:
    for path, sample in pytree.tree_flatten_with_path(inputs)[0]:
        yield ".".join(str(getattr(key, "key", getattr(key, "idx", None))) for key in path), sample


# those whose sample inputs stand for every size that a pipeline gives them
EVERY_SIZE = (
    "BriaTransformer2DModel",
    "CogView4Transformer2DModel",
    "Flux2Transformer2DModel",
    "FluxTransformer2DModel",
    "SanaVideoTransformer3DModel",
    "WanTransformer3DModel",
)
DIFFUSERS = tuple(diffusers_inputs.INPUTS)


def of_diffusers(module: nn.Module) -> Samples:
    """Return the inputs of a module of diffusers, of a class in :data:`DIFFUSERS`."""
    name, config = type(module).__name__, vars(module)["_internal_dict"]
    inputs = _of_row(diffusers_inputs.INPUTS[name], config)
    takes = inspect.signature(module.forward).parameters
    constants = {"return_dict": False} if "return_dict" in takes else {}
    return Samples(inputs, constants | diffusers_inputs.ARGUMENTS.get(name, {}))


_FACTOR = re.compile(r"[a-z]\w*(?=\*)")


def _of_row(row: Inputs, config: Config) -> dict[str, Any]:
    """Return the inputs of a row of a table, those that the config has."""
    given = {argument: _of(argument, value, config) for argument, value in row.items()}
    return {argument: value for argument, value in given.items() if value is not None}


def _of(argument: str, value: Any, config: Config) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_of(argument, each, config) for each in value)
    return _sample(argument, value, config)


def _sample(argument: str, given: str | Input, config: Config) -> Sample | None:
    """Return an input as a config has it; None where it has none."""
    one = given if isinstance(given, Input) else Input(given)
    if one.only and not config.get(one.only):
        return None
    sizes, axes, fixed = list[int](), dict[int, str](), list[str]()
    for number, text in enumerate(one.axes.split()):
        name, _, size = text.partition("=")
        name = _FACTOR.sub(partial(_number_of, config), name).replace("+", " + ")
        total = sum_of(name)
        is_dynamic = not size and bool(total.names) and {*total.names} <= SIZES.keys()
        found = total.at(SIZES) if is_dynamic else int(size) if size else _size(name, config)
        if found is None:
            return None
        sizes.append(found)
        axes |= {number: name} if is_dynamic else {}
        fixed += [name] if size else []
    high = config[one.below] if one.below else 2
    return Sample(tuple(sizes), axes, one.kind or _kind_of(argument), high, tuple(fixed))


def _number_of(config: Config, factor: re.Match[str]) -> str:
    """Return a factor of an axis as a number, where it is a field of a config."""
    return str(config[factor[0]]) if type(config.get(factor[0])) is int else factor[0]


def _size(text: str, values: Mapping[str, Any]) -> int | None:
    """Return a sum of products of numbers and fields; None where a field is missing."""
    total = 0
    for part in text.split(" + "):
        product = 1
        for factor in part.split("*"):
            name, _, by = factor.partition("/")
            value: Any = int(name) if name.isdigit() else values.get(name.removeprefix("#"))
            divisor: Any = values.get(by) if by and not by.isdigit() else by or 1
            if value is None or divisor is None:
                return None
            product *= len(value) if name.startswith("#") else int(value) // int(divisor)
        total += product
    return total


def _kind_of(argument: str) -> str:
    """Return what an argument is by its name."""
    if argument.endswith("_ids"):
        return "ids"
    return "ones" if "mask" in argument else "float"


def of_transformers(module: nn.Module, config: Any) -> Samples | None:
    """Return the inputs of a model by its class or by what its ``forward`` takes, if known."""
    name, takes = type(module).__name__, inspect.signature(module.forward).parameters
    if packed.is_tower(module):
        return _packed(module)
    if name in transformers_inputs.INPUTS:
        inputs = _of_row(transformers_inputs.INPUTS[name], _fields(config))
        return Samples(inputs, _constants(takes) | transformers_inputs.ARGUMENTS.get(name, {}))
    if "inputs_embeds" in takes and takes["inputs_embeds"].default is inspect.Parameter.empty:
        return _embedded(takes, config)
    if "input_ids" in takes:
        return _text(takes, config)
    if "pixel_values" in takes and isinstance(getattr(config, "image_size", None), int):
        size = config.image_size
        one = f"batch {config.num_channels} {size} {size}"
        return Samples({"pixel_values": _sample("pixel_values", one, {})}, {})
    return None


def _fields(config: Any) -> dict[str, Any]:
    """Return the fields of a config, those of its parts by names with a dot."""
    found = dict(vars(config))
    for name, part in vars(config).items():
        if hasattr(part, "to_dict"):
            found |= {f"{name}.{field}": value for field, value in _fields(part).items()}
    return found


def _constants(takes: Any) -> dict[str, Any]:
    return {"use_cache": False} if "use_cache" in takes else {}


def _packed(tower: nn.Module) -> Samples:
    """Return patches of images, and the images' grids; patches come in blocks that are merged."""
    side, shape = packed.blocks_of(tower), packed.numbers_of_patch(tower)
    name = packed.patches_name(tower)
    lead, numbers = ("1 ", shape) if packed.has_batch(tower) else ("", (math.prod(shape),))
    axis = f"{side * side}*merged_patches" if side > 1 else "patches"
    patches = Input(f"{lead}{axis} {' '.join(map(str, numbers))}")
    role: InputRole = "still_grid" if packed.is_of_stills(tower) else "grid"
    grid = Sample((SIZES["images"], 3), {0: "images"}, "grid", side)
    given = {name: _sample(name, patches, {}), packed.GRID: grid}
    return Samples(given, {}, {packed.GRID: role})


def _embedded(takes: Any, config: Any) -> Samples:
    """Return what comes from other models' embeddings."""
    row: dict[str, str | Input] = {"inputs_embeds": "batch length hidden_size"}
    if "position_ids" in takes:
        row["position_ids"] = Input("batch length", "positions")
    return Samples(_of_row(row, _fields(config)), _constants(takes))


def _text(takes: Any, config: Any) -> Samples:
    words = getattr(config, "text_config", config)
    row: dict[str, str | Input] = {"input_ids": Input("batch length", "int", below="vocab_size")}
    if "position_ids" in takes:
        sections = getattr(words, "rope_parameters", None) or {}
        lead = "3 " if "mrope_section" in sections else ""
        row["position_ids"] = Input(f"{lead}batch length", "positions")
    if "decoder_input_ids" in takes:
        row["decoder_input_ids"] = Input("batch text_length", "int", below="vocab_size")
    return Samples(_of_row(row, {"vocab_size": words.vocab_size}), _constants(takes))
