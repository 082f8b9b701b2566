"""``diffusers:CLASS``, ``transformers:CLASS``, ``transformers:CONFIG``: a module from a config."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils import _pytree as pytree

from ropeexport.dtypes import EXPORTED
from ropeexport.errors import RopeExportError, UsageError, first_line
from ropeexport.machine import require
from ropeexport.manifest import CacheForm
from ropeexport.models.builtin_models import DTYPES, seeded
from ropeexport.models.example import Example
from ropeexport.models.hub import transformers_inputs
from ropeexport.models.hub.classes import class_of, config_of, is_class_name
from ropeexport.models.hub.configs import code_of, load_config, read_config, require_few_layers
from ropeexport.models.hub.diffusers_inputs import PARTS_OF
from ropeexport.models.hub.samples import (
    DIFFUSERS,
    EVERY_SIZE,
    Samples,
    of_diffusers,
    of_transformers,
)
from ropeexport.reading import check_regular
from ropeexport.weights.references import is_fake, skeleton
from ropeexport.weights.safetensors_files import commonest_type, find, read_places

LIBRARIES = ("diffusers", "transformers")
_STORED = {kind.safetensors: kind.torch for kind in EXPORTED.values()}

_MOST_PARTS = 100_000  # of a module: the largest models have some thousands
_LONGEST_SHOWN = 300  # characters of what a library says

Maker = Callable[[Callable[[], nn.Module]], nn.Module]  # how a module is built: with values or not


def is_library_model(model: str) -> bool:
    """Say whether a MODEL names a class or a config of a library."""
    return model.partition(":")[0] in LIBRARIES and ":" in model


def load_example(
    model: str,
    config: Path | None,
    dtype: str | None,
    *,
    values: bool = False,
    cache: CacheForm | None = None,
    capacity: int | None = None,
    trusts_code: bool = False,
) -> Example:
    """Return the example of ``diffusers:CLASS``, ``transformers:CLASS`` or ``transformers:CONFIG``.

    Parameters
    ----------
    model : str
        ``diffusers:`` or ``transformers:`` and a class, or ``transformers:`` and a config file or
        its folder, of which transformers knows the class.
    config : Path or None
        The config of a class: a file or its folder; of a class of transformers that is a part of a
        model the whole's too.  Safetensors files in the folder are the weights, and none of them is
        read; without such files the weights are random.
    dtype : str or None
        fp32, fp16 or bf16; None: as the weights' files have it, else fp32.
    values : bool
        Whether the module is to hold values, random ones, even where there are weights' files.
    cache, capacity : optional
        Of a language model, with logits: the form of its cache, and how many tokens that may hold.
    trusts_code : bool
        Whether code that a config of transformers brings along may run.

    Raises
    ------
    UntrustedError
        For a config that needs it without that.
    """
    library, _, name = model.partition(":")
    require(library)
    # the output folder may be called as the class is, and is there already
    is_named = is_class_name(name) and (config is not None or not Path(name).exists())
    is_class = library == "diffusers" or is_named
    if config is not None and not is_class:
        raise UsageError(
            f"--config: only for diffusers:CLASS and transformers:CLASS, got {model}", code="RX108"
        )
    if cache is not None and is_class:
        raise UsageError(
            f"cache (--cache): only for transformers:CONFIG, got {model}", code="RX108"
        )
    place = config if is_class else Path(name)
    if place is None:
        raise UsageError(
            f"{model}: add --config with its config.json, or the folder that holds it", code="RX103"
        )
    if not place.exists():
        raise UsageError(f"{place}: no such file or folder", code="RX103")
    check_regular(place / "config.json" if place.is_dir() else place)
    weights = place if place.is_dir() and find(place) and not values else None
    kind = DTYPES[dtype] if dtype else _stored_type(weights)
    make = skeleton if weights else seeded
    with _of_config(place):
        if library == "diffusers":
            example = diffusers_example(name, read_config(place), kind, make)
        elif cache is None:
            of = name if is_class else None
            example = transformers_example(place, kind, make, of, trusts_code=trusts_code)
        else:
            example = decoder_example(place, kind, cache, capacity, make, trusts_code=trusts_code)
        if weights and not is_fake(next(example.module.parameters())):
            weights = None  # they have values, which go into files of their own
    return replace(example, weights=weights)


def diffusers_example(
    name: str, config: dict[str, Any], dtype: torch.dtype, make: Maker = seeded
) -> Example:
    """Return the example of a class of diffusers and its config."""
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "from_config"):
        raise UsageError(
            f"diffusers:{name}: diffusers {diffusers.__version__} has no such model", code="RX101"
        )
    if name not in DIFFUSERS:
        raise UsageError(
            f"diffusers:{name}: no sample inputs are known for it; write a factory that returns "
            "(module, example inputs, dynamic axes) and name it as MODEL",
            code="RX102",
        )
    # the class is diffusers' own; of code that the config names nothing runs
    own = {key: value for key, value in config.items() if key != "auto_map"}
    module = _made(lambda: _of_config_alone(kind, own), dtype, make)
    return _example(module, of_diffusers(module), dtype)


def _of_config_alone(kind: Any, config: dict[str, Any]) -> nn.Module:
    """Build a class of diffusers; one that takes another's modules, with those of the same config.

    That one's fields are in the config beside its own, or have that one's defaults.
    """
    import diffusers

    module = kind.from_config(config)
    if kind.__name__ in PARTS_OF:
        other: Any = getattr(diffusers, PARTS_OF[kind.__name__]).from_config(config)
        module = kind.from_transformer(module, other)
        module.register_to_config(**{**other.config, **module.config})
    built: nn.Module = module
    return built


def decoder_example(
    path: Path,
    dtype: torch.dtype,
    cache: CacheForm,
    capacity: int | None = None,
    make: Maker = seeded,
    *,
    trusts_code: bool = False,
) -> Example:
    """Return the example of a config of a language model of transformers, with its cache.

    Where a checkpoint's files have other names for the weights than the class (one tensor for each
    expert, say), transformers loads them, and they are written anew.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    from ropeexport.models.hub.decoders import cached_example

    code = code_of(path, is_decoder=True)
    config, trusted = load_config(path, code, trusts_code), bool(code)
    try:
        decoder: Any = _made(
            lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=trusted), dtype, make
        )
    except ValueError as error:
        raise UsageError(
            f"transformers:{path}: --cache: expected the config of a language model, got a "
            f"{type(config).__name__}: {first_line(error)}",
            code="RX103",
        ) from error
    if make is skeleton and not _has_weights_of(decoder, path):
        decoder = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            trust_remote_code=trusted,
            use_safetensors=True,
            local_files_only=True,
        ).eval()
    if path.is_dir() and (path / "generation_config.json").is_file():
        decoder.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    return cached_example(decoder, cache, capacity)


def _has_weights_of(module: nn.Module, folder: Path) -> bool:
    """Say whether files have each weight of a module by one of its names."""
    places, names = read_places(folder), dict[int, set[str]]()
    for name, weight in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), set()).add(name)
    return not any(same.isdisjoint(places) for same in names.values())


def transformers_example(
    path: Path,
    dtype: torch.dtype,
    make: Maker = seeded,
    name: str | None = None,
    *,
    trusts_code: bool = False,
) -> Example:
    """Return the example of a config of transformers, or of the class of a name, which it has."""
    from transformers import AutoModel

    if name is None:
        code = code_of(path)
        config, trusted = load_config(path, code, trusts_code), bool(code)
        build = partial(AutoModel.from_config, config, trust_remote_code=trusted)
    else:
        whole = load_config(path, "", trusts_code=False)
        kind = class_of(name, whole)
        config = config_of(kind, whole)
        build = partial(kind._from_config, config)
    module = _made(build, dtype, make)
    _return_no_cache(module)
    if type(module).__name__ in transformers_inputs.CHANGES_INPUTS:
        module.register_forward_pre_hook(_with_copies, with_kwargs=True)
    samples = of_transformers(module, config)
    if samples is None:
        raise UsageError(
            f"{type(module).__name__}: no sample inputs are known for it; write a factory that "
            "returns (module, example inputs, dynamic axes) and name it as MODEL",
            code="RX102",
        )
    return _example(module, samples, dtype)


def example_around(module: Any) -> Example | None:
    """Return the example of a library's model that the caller holds, if its inputs are known.

    Those of one that its library hands numbers beside tensors, or that takes one batch alone, are
    not: of them a file would fit no other call.
    """
    kind = type(module)
    library = kind.__module__.partition(".")[0]
    samples = None
    if library == "diffusers" and kind.__name__ in EVERY_SIZE:
        samples = of_diffusers(module)
    elif library == "transformers" and hasattr(module, "config"):
        samples = of_transformers(module, module.config)
        if samples and (samples.fixed or kind.__name__ in transformers_inputs.ARGUMENTS):
            samples = None
    return _example(module, samples, module.dtype) if samples else None


def _made(make: Callable[[], nn.Module], dtype: torch.dtype, how: Maker) -> nn.Module:
    """Build a module in its final type: under fake tensors a later cast fails."""
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return how(make).eval()
    finally:
        torch.set_default_dtype(former)


def _return_no_cache(module: nn.Module) -> None:
    """Have no part of a model return a cache where its config decides that, nor the whole."""
    for part in module.modules():
        config: Any = getattr(part, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False
    takes = inspect.signature(module.forward).parameters
    if "past_key_values" in takes and "use_cache" not in takes:  # it returns one whatever is said
        module.register_forward_hook(_without_cache)


def _without_cache(_: nn.Module, __: Any, returned: Any) -> Any:
    """Return what a model of transformers returns, but for a cache."""
    from transformers.cache_utils import Cache

    if not isinstance(returned, Mapping):
        return returned
    kept = {name: value for name, value in returned.items() if not isinstance(value, Cache)}
    return returned if len(kept) == len(returned) else type(returned)(**kept)


def _with_copies(_: nn.Module, args: Any, kwargs: Any) -> Any:
    """Return arguments whose tensors are copies: a file does not change what it is given."""
    return pytree.tree_map_only(Tensor, Tensor.clone, (args, kwargs))


def _stored_type(weights: Path | None) -> torch.dtype:
    stored = commonest_type(read_places(weights)) if weights is not None else "F32"
    return _STORED.get(stored, torch.float32)


def _example(module: nn.Module, samples: Samples, dtype: torch.dtype) -> Example:
    return Example(
        module,
        samples.made(dtype),
        samples.axes(),
        constants=dict(samples.constants),
        roles=dict(samples.roles),
    )


@contextmanager
def _of_config(place: Path) -> Iterator[None]:
    """Let whatever a library says of anybody's config be one line, and keep to this machine.

    A config of a few bytes may ask for 10^7 layers.
    """
    require_few_layers(place)
    left = {"parts": _MOST_PARTS, "bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")}

    def count_part(*_: object) -> None:
        left["parts"] -= 1
        if left["parts"] < 0:
            raise UsageError(
                f"{place}: expected a model of at most {_MOST_PARTS:,} parts, got more; mend the "
                "number of its layers",
                code="RX129",
            )

    def count_bytes(part: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        if weight is not None and not weight.numel():  # torch makes it, and traces it for long
            raise UsageError(
                f"{place}: expected sizes of 1 or more, got {name} of {tuple(weight.shape)} in "
                f"{type(part).__name__}; mend the config",
                code="RX103",
            )
        if weight is not None and weight.device.type != "meta":
            left["bytes"] -= weight.nbytes
        if left["bytes"] < 0:
            raise UsageError(
                f"{place}: expected weights that this machine's memory holds, got more at {name}; "
                "mend the sizes, or put its safetensors files beside it, which are not read",
                code="RX129",
            )

    with ExitStack() as stack:
        stack.enter_context(register_module_module_registration_hook(count_part))
        stack.enter_context(register_module_parameter_registration_hook(count_bytes))
        try:
            yield
        except RopeExportError:
            raise
        except Exception as error:  # classes check little of what they are given
            raise UsageError(
                f"{place}: no model can be made of this config: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:_LONGEST_SHOWN]}",
                code="RX103",
            ) from error
