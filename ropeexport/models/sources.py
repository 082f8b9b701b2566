"""MODEL on the command line, and what it stands for: a module, example inputs, dynamic axes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from itertools import cycle, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ropeexport.artifact import Artifact
from ropeexport.errors import ManifestError, ParityError, RopeExportError, UsageError
from ropeexport.machine import require
from ropeexport.manifest import Argument, CacheForm, Manifest, Source, first_fault
from ropeexport.models.builtin_models import BUILTINS, DTYPES, BuiltinOptions
from ropeexport.models.example import Example, evaluated
from ropeexport.models.held import Held
from ropeexport.models.hub.configs import CONFIG_NAME, OPTION, code_of
from ropeexport.models.hub.load import is_library_model, load_example
from ropeexport.models.hub.traceable import experts_of_any_type, make_stateless, traceable_ropes
from ropeexport.models.input_tree import recorded, restored
from ropeexport.models.wrappers import argument_names
from ropeexport.onnx_files.onnx_file import OnnxFile, weights
from ropeexport.parity.cases import Case, space_of
from ropeexport.parity.inputs import make_inputs
from ropeexport.runners.runner import same_bits
from ropeexport.runners.torch_arrays import array_from, tensor_from

_LIBRARIES = ("diffusers", "transformers")
# what a caller holds or names: a reference FILE.py:NAME, the factory, the module or an example
Module = str | Callable[[], Any] | nn.Module | Example


def load(
    model: str,
    options: BuiltinOptions,
    config: Path | None,
    dtype: str | None,
    cache: CacheForm | None = None,
    capacity: int | None = None,
    trusts_code: bool = False,
) -> tuple[Example, Source]:
    """Return the example of a MODEL and the record that rebuilds it.

    Options are a built-in's, the config a class's of diffusers, the type a library's model's, the
    cache and its capacity a language model's of transformers, whose code may run where that is
    trusted; the record says where it was needed, which allows nothing.

    Raises
    ------
    UsageError
        For a MODEL that is neither a built-in nor a factory's reference.
    """
    if cache is not None and not is_library_model(model):
        raise UsageError(
            f"cache (--cache): only for transformers:CONFIG, got {model}", code="RX108"
        )
    if trusts_code and model.partition(":")[0] != "transformers":
        raise UsageError(f"{OPTION}: only for transformers:CONFIG, got {model}", code="RX108")
    if model in BUILTINS:
        example = BUILTINS[model](options)
        return example, Source(kind="builtin", name=model, options=asdict(options))
    if is_library_model(model):
        example = load_example(
            model, config, dtype, cache=cache, capacity=capacity, trusts_code=trusts_code
        )
        kept = {"config": str(config)} if config else {}
        if trusts_code and (code := code_of(Path(model.partition(":")[2]), is_decoder=bool(cache))):
            kept["code"] = code
        return example, Source(kind="config", name=model, options=kept)
    if ":" not in model:
        raise UsageError(
            f"MODEL: expected one of {', '.join(BUILTINS)}, diffusers:CLASS, transformers:CLASS, "
            "transformers:CONFIG, path/to/file.py:factory or package.module:factory, got "
            f"{model!r}",
            code="RX101",
        )
    return _call_factory(model), Source(kind="factory", name=model)


@contextmanager
def rebuilt(artifact: Artifact, module: Module | None = None) -> Iterator[Example]:
    """Have what was exported in evaluation mode; a module that the caller holds stays its own.

    It is not copied, its weights are its own, and it is left as it was.
    """
    if not isinstance(module, nn.Module | Example):
        example = rebuild_example(artifact, module)
        with experts_of_any_type(example.module):
            yield example
        return
    example = _example_that_is_held(artifact, module)
    inner = example.module
    with evaluated(inner), traceable_ropes(inner), experts_of_any_type(inner):
        yield _as_exported(example, artifact.manifest)


def rebuild_example(artifact: Artifact, module: Module | Held | None = None) -> Example:
    """Return what was exported, in evaluation mode for good.

    A factory of the user's is imported only when ``module`` names it; it may also be the factory
    itself, or a callable that returns the module alone.  Its weights are taken from the ONNX file;
    those of a module that is given, or of an example, are its own.
    """
    given = module.taken() if isinstance(module, Held) else module
    if isinstance(given, nn.Module | Example):
        example = _example_that_is_held(artifact, given)
    else:
        example = _example_that_is_made(artifact, given)
        _load_weights(example.module, artifact.file)
    example.module.eval()
    make_stateless(example.module)
    return _as_exported(example, artifact.manifest)


def _as_exported(example: Example, manifest: Manifest) -> Example:
    """Return an example with the axes that the export found its module to take."""
    found = {name: axes for name, axes in _axes_in(manifest).items() if name in example.tensors}
    return replace(example, axes=manifest.axes, dynamic_axes={**example.tensor_axes, **found})


def _axes_in(manifest: Manifest) -> dict[str, dict[int, str]]:
    return {
        spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in manifest.model.inputs
    }


def check_same_weights(artifact: Artifact, module: nn.Module | Example) -> None:
    """Raise unless the ONNX file has the weights of a module that the caller holds."""
    own = _example_that_is_held(artifact, module).module
    in_file = _weights_by_name(own, artifact.file)
    for name, tensor in own.state_dict().items():
        if name in in_file and not same_bits(array_from(tensor), in_file[name]):
            raise UsageError(
                f"module: expected the weights that {artifact.file.path} was exported with, got "
                f"another {name}; export the module again",
                code="RX121",
            )


def _example_that_is_held(artifact: Artifact, module: nn.Module | Example) -> Example:
    _refuse_for_builtin(artifact)
    example = module if isinstance(module, Example) else _around(module, artifact)
    if example.weights is not None:
        raise UsageError(
            f"{artifact.folder}: exported without the values of its weights, so there is nothing "
            "to run: pass a callable that makes the module, whose weights are then read from the "
            "file",
            code="RX121",
        )
    return example


def _example_that_is_made(artifact: Artifact, module: str | Callable[[], Any] | None) -> Example:
    source, folder = artifact.manifest.source, artifact.folder
    if module is not None:
        _refuse_for_builtin(artifact)
    _require_known(artifact)
    if source.kind == "builtin":
        return _builtin(artifact)
    if module is None and source.kind == "config":
        model, config = _with_its_config(artifact)
        dtype, cache = artifact.manifest.model.dtype, artifact.manifest.cache
        known = dtype if dtype in DTYPES else None
        form, capacity = (cache.form, cache.capacity) if cache is not None else (None, None)
        return load_example(
            model, config, known, values=True, cache=form, capacity=capacity,
            trusts_code=artifact.trust.code,
        )  # fmt: skip
    if module is None and source.kind != "factory":
        raise ParityError(
            f"{folder}: exported from {source.name}, which the manifest alone cannot rebuild: "
            f"write a factory that returns {_expected_of(artifact)}, and add "
            "--module path/to/file.py:factory; from Python, module= also takes the module itself",
            code="RX122",
        )
    if module is None:
        raise ParityError(
            f"{folder}: exported from {source.name}, which is your code and is imported only when "
            f"you name it: add --module {source.name}",
            code="RX122",
        )
    made, is_cached = called(module), artifact.manifest.cache is not None
    if is_cached:  # of whatever it gives, the decoder: its inputs are the cache's
        made = made.module if isinstance(made, Example) else made
        made = made[0] if isinstance(made, tuple) and made else made
    if isinstance(made, nn.Module) and (is_cached or not isinstance(module, str)):
        return _around(made, artifact)
    return _example_of(str(module), made)


def _with_its_config(artifact: Artifact) -> tuple[str, Path | None]:
    """Return what a library's model was exported from, and its config, by where that lies now.

    The place that the manifest has is the exporter's, perhaps of another machine: a config that
    came along with the model is taken before it.
    """
    record, folder = artifact.manifest, artifact.folder
    library, _, name = record.source.name.partition(":")
    config = record.source.options.get("config")
    place = Path(config or name)
    comes_along = record.cache is not None or record.model.weights is not None
    has_own = (folder / CONFIG_NAME).is_file()
    if has_own and (comes_along or not place.exists()):
        place = folder
    elif not place.exists():
        raise ParityError(
            f"{folder}: exported from the config {place}, which is no longer there: put it into "
            f"the folder, as {CONFIG_NAME}",
            code="RX307",
        )
    return (record.source.name, place) if config else (f"{library}:{place}", None)


def _require_known(artifact: Artifact) -> None:
    """Raise for a source that no export writes: a manifest may come from anywhere."""
    source = artifact.manifest.source
    is_known = source.kind != "config" or (
        is_library_model(source.name) and not source.name.endswith(":")
    )
    if source.kind == "builtin":
        options = {each.name for each in fields(BuiltinOptions)}
        is_known = source.name in BUILTINS and source.options.keys() <= options
    if not is_known:
        raise ManifestError(
            f"{artifact.folder}: its manifest's source: expected a built-in with its options "
            f"({', '.join(BUILTINS)}), diffusers:CLASS or transformers:CONFIG, got {source.name!r} "
            f"with {', '.join(source.options) or 'none'}; export again",
            code="RX310",
        )


def _builtin(artifact: Artifact) -> Example:
    source = artifact.manifest.source
    try:
        options = TypeAdapter(BuiltinOptions).validate_python(source.options)
    except ValidationError as error:
        raise ManifestError(
            f"{artifact.folder}: source.options: {first_fault(error)}; export again", code="RX310"
        ) from error
    return BUILTINS[source.name](options)


def _expected_of(artifact: Artifact) -> str:
    is_cached = artifact.manifest.cache is not None
    return "the decoder" if is_cached else "(module, example inputs, dynamic axes)"


def _refuse_for_builtin(artifact: Artifact) -> None:
    source = artifact.manifest.source
    if source.kind == "builtin":
        raise UsageError(
            f"--module: {artifact.folder} was exported from the built-in {source.name}, which "
            "needs none",
            code="RX108",
        )


# sizes to trace with: no two alike
_SIZES = (2, 6, 4, 10, 3, 7, 5, 9)


def _around(module: nn.Module, artifact: Artifact) -> Example:
    """Return a module with inputs, axes and fixed arguments as the manifest has them."""
    manifest, folder = artifact.manifest, artifact.folder
    if manifest.cache is not None:
        from ropeexport.models.hub.decoders import cached_example

        return cached_example(module, manifest.cache.form, manifest.cache.capacity)
    arguments = manifest.arguments or _former_arguments(manifest)
    unknown = [name for name, argument in arguments.items() if argument.kind == "unknown"]
    if unknown:
        raise UsageError(
            f"{folder}: exported with arguments that the manifest cannot hold "
            f"({', '.join(unknown)}): pass ropeexport.Example(module, inputs, "
            "dynamic_axes, constants={...}) instead of the module alone",
            code="RX121",
        )
    space = space_of(manifest.model_copy(update={"engine": None}))
    sizes = {
        name: min(max(size, space.axes[name].min), space.axes[name].max)
        for name, size in zip((*space.batches, *space.lengths), cycle(_SIZES), strict=False)
    }
    specs, model = manifest.model.inputs, manifest.model
    case = Case("example", space.kinds[0], space.broadcasts(sizes)[-1], seed=0)
    arrays = make_inputs(case, specs, model.max_position)
    tensors = {name: tensor_from(x) for name, x in arrays.items()}
    return Example(
        module,
        {name: restored(argument, tensors) for name, argument in arguments.items()},
        _axes_in(manifest),
        axes=manifest.axes,
        outputs=tuple(spec.name for spec in model.outputs),
    )


def _former_arguments(manifest: Manifest) -> dict[str, Argument]:
    """Return the arguments in a folder of a version that had no trees."""
    options = manifest.source.options
    found = {x.name: Argument(kind="input", value=x.name) for x in manifest.model.inputs}
    found |= recorded(options.get("constants", {}), {})
    return found | {name: Argument(kind="unknown") for name in options.get("unknown", ())}


def _load_weights(module: nn.Module, file: OnnxFile) -> None:
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    if not state:
        return
    values = _weights_by_name(module, file)
    with torch.no_grad():  # a weight that no output needs is not in the file
        for name, tensor in state.items():
            if name in values:
                tensor.copy_(tensor_from(values[name]))


def _weights_by_name(module: nn.Module, file: OnnxFile) -> dict[str, NDArray[np.generic]]:
    """Return the values in the file, which has some of the module's parameters if that has any."""
    values = dict(weights(file.whole))
    known = [name for name, _ in module.named_parameters()]
    if known and not any(name in values for name in known):
        raise ParityError(
            f"{file.path}: expected the module's weights by name, {known[0]} and so on, has none "
            "of them; export the module again",
            code="RX316",
        )
    return values


def _call_factory(reference: str) -> Example:
    return _example_of(reference, called(reference))


def called(factory: str | Callable[[], Any]) -> Any:
    """Return what a factory, or what a reference names, makes.

    Raises
    ------
    UsageError
        With the place where the user's code raised.
    MissingError
        For a library that is not installed, with the command that brings it.
    """
    try:
        return (_find_factory(factory) if isinstance(factory, str) else factory)()
    except RopeExportError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _LIBRARIES:
            require(error.name)
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = factory if isinstance(factory, str) else getattr(factory, "__name__", factory)
        raise UsageError(
            f"{name}: your code failed: {type(error).__name__}: {error} "
            f"({place.filename}:{place.lineno})",
            code="RX106",
        ) from error


def _example_of(reference: str, made: Any) -> Example:
    """Return what a factory has made as an example."""
    if isinstance(made, Example):
        return made
    if not isinstance(made, tuple) or len(made) != 3 or not isinstance(made[0], nn.Module):
        raise UsageError(
            f"{reference}: expected a factory that returns (module, example inputs, dynamic axes) "
            f"or a ropeexport.Example, got {type(made).__name__}",
            code="RX105",
        )
    module, inputs, dynamic_axes = made
    named = _named_inputs(reference, module, inputs)
    try:
        return Example(module=module.eval(), inputs=named, dynamic_axes=dynamic_axes)
    except UsageError as error:
        raise UsageError(f"{reference}: {error}", code="RX105") from error


def _named_inputs(reference: str, module: nn.Module, inputs: Any) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if not isinstance(inputs, list | tuple):
        raise UsageError(
            f"{reference}: example inputs: expected a dict by the names of forward's arguments, "
            f"or a tuple in their order, got {type(inputs).__name__}",
            code="RX105",
        )
    parameters = argument_names(module)
    if len(inputs) > len(parameters):
        raise UsageError(
            f"{reference}: forward takes {len(parameters)} inputs, the example has {len(inputs)}",
            code="RX105",
        )
    return dict(zip(parameters, inputs, strict=False))


def _find_factory(reference: str) -> Callable[[], Any]:
    place, _, name = reference.rpartition(":")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise UsageError(f"{reference}: no callable {name!r} in {place}", code="RX104")
    return factory  # type: ignore[no-any-return]


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path}: no such file", code="RX104")
    path = path.resolve()
    if (path.parent / "__init__.py").is_file():  # a package's own: relative imports need its name
        parents = list(takewhile(lambda p: (p / "__init__.py").is_file(), path.parents))
        _add_to_path(parents[-1].parent)
        return importlib.import_module(".".join([p.name for p in reversed(parents)] + [path.stem]))
    _add_to_path(path.parent)  # as Python itself does for a script
    spec = importlib.util.spec_from_file_location(f"_ropeexport_source_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file", code="RX104")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # behind all others: its files are taken for no installed module
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"{name}: no such module on the import path", code="RX104") from error
        raise


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
