"""A model whose weights stay in safetensors files: a module without them, and references."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ropeexport.errors import ExportError, UsageError
from ropeexport.manifest import Weights
from ropeexport.weights.safetensors_files import Place, find, onnx_type, weight_file

_SHOWN = 3


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose parameters have a shape and a type, and no values.

    Buffers keep their values: frequencies and the like are computed when a module is made, and are
    in no file.  A parameter's memory is given back before a page of it is touched.
    """
    with _parameters_on_meta():
        module = make()
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    fakes: dict[nn.Parameter, nn.Parameter] = {}  # tied parameters stay tied
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if parameter not in fakes:
                    with mode:
                        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                        fakes[parameter] = nn.Parameter(empty, requires_grad=False)
                part._parameters[name] = fakes[parameter]
    return module.eval()


def is_fake(tensor: object) -> bool:
    """Say whether a tensor has no values."""
    return isinstance(tensor, FakeTensor)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move each new parameter to the meta device, where initialising it costs nothing."""
    original = nn.Parameter.__new__

    def on_meta(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        moved = data.to("meta") if type(data) is torch.Tensor else data
        return original(cls, moved, requires_grad)

    nn.Parameter.__new__ = staticmethod(on_meta)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Parameter.__new__ = original  # type: ignore[method-assign]


def refer(
    model: ir.Model,
    places: Mapping[str, Place],
    folder: Path,
    prefix: str = "",
    tied: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Weights:
    """Replace every initializer that has no values by a reference into a file.

    Parameters
    ----------
    model : ir.Model
        Traced from a :func:`ropeexport.weights.references.skeleton`.
    places : dict
        Where the tensors lie, see :mod:`ropeexport.weights.safetensors_files`.
    folder : Path
        The folder of those files, in which the ONNX file will lie too.
    prefix : str
        What the files' names have before the module's, such as ``model.``.
    tied : dict
        Of a weight, all names that the module has it by: a file has one of them.

    Returns
    -------
    Weights
        The files and the tensors that could not be referred to.

    Raises
    ------
    ExportError
        Where a weight is in no file, or has another shape there.
    """
    weights = [
        value
        for value in model.graph.initializers.values()
        if is_fake(getattr(value.const_value, "raw", None))
    ]
    missing = []
    own = any(str(value.name) in places for value in weights)
    for value in weights:
        names = (str(value.name), *tied.get(str(value.name), ()))
        own_place = next((places[name] for name in names if name in places), None)
        place = own_place or places.get(f"{prefix}{value.name}")
        if place is None:
            missing.append(str(value.name))
        else:
            _point(value, place, folder)
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ExportError(
            f"{folder}: no tensor for the weights {', '.join(missing[:_SHOWN])}{more}: the files "
            "are of another class or config, or have other names for them than the class: load the "
            "model, by from_pretrained say, and export that (ropeexport.export(model, ...))",
            code="RX316",
        )
    tensors = [v.const_value for v in weights if isinstance(v.const_value, ir.ExternalTensor)]
    files = sorted({str(tensor.location) for tensor in tensors})
    return Weights(
        files=tuple(weight_file(folder / name) for name in files),
        referenced_tensors=len(tensors),
        referenced_bytes=sum(tensor.nbytes for tensor in tensors),
        prefix="" if own else prefix,
    )


def prefix_in(places: Mapping[str, Place], weights: Iterable[Sequence[str]], usual: str) -> str:
    """Return what the files' names have before a module's, which may be a part of their model.

    Parameters
    ----------
    places : dict
        Where the tensors lie.
    weights : iterable of sequence of str
        The names of each weight of the module.
    usual : str
        The prefix that is taken where the files have the weights by it, or by no other.
    """
    weights = list(weights)

    def has_all(prefix: str) -> bool:
        return all(any(prefix + name in places for name in names) for names in weights)

    if not weights or has_all("") or has_all(usual):
        return usual
    ends = [f".{name}" for name in weights[0]]
    found = {p.removesuffix(end) + "." for p in places for end in ends if p.endswith(end)}
    whole = sorted(filter(has_all, found))
    return whole[0] if len(whole) == 1 else usual


def relocate(model: ir.Model, folder: Path) -> None:
    """Let a model's references point into copies of their files in another folder."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value.base_dir = folder


def _point(value: ir.Value, place: Place, folder: Path) -> None:
    """Let an initializer be a stretch of a file; where the file has another type, cast it."""
    dtype = onnx_type(place)
    if dtype is None:
        raise ExportError(
            f"{place.file}: {value.name}: no ONNX type for {place.dtype}", code="RX316"
        )
    expected = tuple(value.shape.numpy()) if value.shape is not None else place.shape
    if place.shape != expected:
        raise ExportError(
            f"{place.file}: {value.name}: expected shape {expected}, got {place.shape}: the file "
            "is of another config",
            code="RX316",
        )
    if place.length * 8 != math.prod(place.shape) * dtype.bitwidth:
        raise ExportError(
            f"{place.file}: {value.name}: its length is not that of its shape", code="RX316"
        )
    wanted = value.dtype
    value.const_value = ir.ExternalTensor(
        place.file, place.offset, place.length, dtype,
        shape=ir.Shape(place.shape), name=str(value.name), base_dir=folder,
    )  # fmt: skip
    value.dtype = dtype
    if wanted is not None and wanted != dtype:
        _cast(value, wanted)


def _cast(value: ir.Value, dtype: ir.DataType) -> None:
    """Cast a weight in the graph, where it is used: the file stays as it is."""
    users = list(value.uses())
    node = ir.node("Cast", [value], {"to": dtype})
    node.outputs[0].dtype, node.outputs[0].shape = dtype, value.shape
    assert value.graph is not None  # an initializer belongs to a graph
    value.graph.insert_before(value.graph[0], node)
    for user, index in users:
        user.replace_input_with(index, node.outputs[0])


def check_reachable(weights: Path, output: Path) -> None:
    """Raise unless an ONNX file in ``output`` may refer to the files in ``weights``.

    onnx and onnxruntime refuse references behind ``..``, absolute paths, symbolic and hard links.
    """
    cure = "add --copy-weights to copy them beside the ONNX file"
    if weights.resolve() != output.resolve():
        raise UsageError(
            f"{output}: an ONNX file can refer only to weights of its own folder, {weights}: "
            f"write there with -o {weights}, or {cure}",
            code="RX317",
        )
    for path in find(weights):
        if path.is_symlink() or (path.exists() and os.stat(path).st_nlink > 1):
            raise UsageError(
                f"{path}: a link, as in hub caches, which onnx and onnxruntime refuse: {cure}",
                code="RX317",
            )
