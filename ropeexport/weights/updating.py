"""New values for the weights of an exported file: what to put where, or by name why not.

A name is a parameter's or buffer's in the module's state dict.  The exporter keeps it as the name
of the file's initializer, so a name stands for one tensor in every runtime.  Files are mapped with
our own reader of the format: safetensors' package copies what it reads, and has no bfloat16 in
NumPy.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ropeexport.dtypes import FLOATS
from ropeexport.errors import UsageError, first_line
from ropeexport.ops.names import DOMAIN
from ropeexport.runners.runner import Array, Arrays, same_bits
from ropeexport.weights.safetensors_files import SUFFIX, Place, find, onnx_type, read_header

if TYPE_CHECKING:
    from ropeexport.artifact import Artifact

Given = Mapping[str, Any] | str | Path
# torch's exporter notes of each initializer what it was in the module
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_OF_A_MODULE = ("PARAMETER", "BUFFER")
_FLOATS = {kind.ir for kind in FLOATS} | {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2}
_UNMERGED = (".base_layer.", "lora_A", "lora_B")  # how peft names what it puts around a layer
_SHOWN = 3


def weights_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Return the initializers that are weights, by name.

    Of a file of torch's exporter, those that are a parameter or a buffer of the module; of another
    exporter's, which does not say, its floating tensors of more than one element, but for the
    tables of ropeexport's own ops.  One that is an input too is given with each call.
    """
    held = {n: v for n, v in model.graph.initializers.items() if not v.is_graph_input()}
    told = {n: v for n, v in held.items() if v.metadata_props.get(_KIND) in _OF_A_MODULE}
    weights = told or {n: v for n, v in held.items() if _looks_like_one(v)}
    return {n: v.const_value for n, v in weights.items() if v.const_value is not None}


def _looks_like_one(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or any(node.domain == DOMAIN for node in value.consumers()):
        return False
    return tensor.dtype in _FLOATS and tensor.size > 1


def new_values(given: Given, artifact: Artifact) -> dict[str, Array]:
    """Return the values that the initializers of a folder's ONNX file are to have, by their names.

    Parameters
    ----------
    given : mapping, or path
        Arrays or torch tensors by the names of the module's state dict, all of them or some; or a
        safetensors file, or a folder of them, whose tensors are mapped; named as those that the
        folder refers to, ``model.`` in front of each where the module is a part of theirs.
    artifact : Artifact
        The output folder.

    Returns
    -------
    dict of str to array
        In the types of the file.  They may be the caller's memory: copy what is kept.

    Raises
    ------
    UsageError
        Naming the first weight that the file does not have, or has in another shape, or in a type
        that cannot hold the values; and one that is given twice, with different values, by two
        names of a tied weight.
    """
    record, weights = artifact.manifest.model, weights_of(artifact.file.graph)
    values: dict[str, Array] = {}
    given_as: dict[str, str] = {}
    prefix = record.weights.prefix if record.weights is not None else ""
    for name, x in _arrays(given, prefix):
        own = record.tied.get(name, name)
        if record.absent.get(name) == "unused":
            continue  # the module computes nothing with it either
        if own not in weights or name in record.absent:
            raise _unknown(name, artifact, weights)
        value = _fitted(name, x, weights[own])
        if own in values and not same_bits(values[own], value):
            raise UsageError(
                f"{name}: expected the values of {given_as[own]}, to which it is tied, got others; "
                "give one of the two",
                code="RX318",
            )
        values[own], given_as[own] = value, name
    if not values:
        raise UsageError(
            "weights: expected those of the module's state dict by name, got none", code="RX318"
        )
    return values


def changed(former: Arrays, values: Arrays, model: ir.Model) -> dict[str, Array]:
    """Return what differs from a file after an update, given what differed before.

    A weight that has the file's own values again is left to the file.  What stays in memory is a
    copy, because the caller may go on to change a module in place; what is mapped stays mapped.
    """
    left = dict(former)
    for name, value in values.items():
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None  # only such are weights
        left.pop(name, None)
        if not same_bits(tensor.numpy(), value):
            left[name] = value if _is_mapped(value) else np.array(value)
    return left


def _arrays(given: Given, prefix: str) -> Iterator[tuple[str, Array]]:
    if isinstance(given, str | Path):
        # what has not the prefix is of another part of the model, as a head is
        named = ((name, x) for name, x in _mapped(Path(given)) if name.startswith(prefix))
        yield from ((name.removeprefix(prefix), x) for name, x in named)
    elif isinstance(given, Mapping):
        yield from ((str(name), _array(str(name), x)) for name, x in given.items())
    else:
        raise UsageError(
            "weights: expected tensors by name, as a state dict has them, or the path of "
            f"safetensors files, got a {type(given).__name__}",
            code="RX319",
        )


def _array(name: str, x: Any) -> Array:
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    if hasattr(x, "detach"):  # torch's, which is imported where there is one
        from ropeexport.runners.torch_arrays import array_from

        try:
            return array_from(x)
        except (RuntimeError, TypeError) as error:  # sparse, or on no device
            raise UsageError(
                f"{name}: expected a dense tensor with values, got one of {x.layout} on "
                f"{x.device}: {first_line(error)}",
                code="RX319",
            ) from error
    raise UsageError(
        f"{name}: expected an array or a tensor, got a {type(x).__name__}", code="RX319"
    )


def _mapped(path: Path) -> Iterator[tuple[str, Array]]:
    here = (path,) if path.suffix == SUFFIX and path.is_file() else ()
    files = find(path) if path.is_dir() else here
    if not files:
        raise UsageError(
            f"{path}: expected a safetensors file, or a folder with some; found none", code="RX305"
        )
    for file in files:
        for name, place in read_header(file).places.items():
            yield name, _map(file, name, place)


def _map(file: Path, name: str, place: Place) -> Array:
    dtype = onnx_type(place)
    if dtype is None:
        raise UsageError(f"{file}: {name}: no ONNX type for {place.dtype}", code="RX319")
    if place.length == 0:
        return np.zeros(place.shape, dtype.numpy())
    return np.memmap(file, dtype.numpy(), "r", place.offset, place.shape)


def _is_mapped(array: Array) -> bool:
    """Say whether an array is a file's, to be read only."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        if owner.flags.writeable:  # a caller's, who may go on to write
            return False
        owner = owner.base
    return isinstance(owner, mmap.mmap)


def _fitted(name: str, x: Array, tensor: ir.TensorProtocol) -> Array:
    """Return values in a weight's type, which must hold them exactly."""
    shape = tuple(tensor.shape.numpy())
    if x.shape != shape:
        raise UsageError(f"{name}: expected shape {shape}, got {x.shape}", code="RX319")
    dtype = tensor.dtype.numpy()
    if x.dtype == dtype:
        return x
    floats = {kind.numpy() for kind in _FLOATS}
    if {x.dtype, dtype} <= floats:
        with np.errstate(over="ignore"):
            narrow = x.astype(dtype)
        if same_bits(narrow.astype(x.dtype), x):
            return narrow
        raise UsageError(
            f"{name}: expected {dtype}, which the file has it in, got {x.dtype} values that "
            f"{dtype} cannot hold: round them to it, or export again in {x.dtype}",
            code="RX319",
        )
    raise UsageError(f"{name}: expected {dtype}, got {x.dtype}", code="RX319")


def _unknown(name: str, artifact: Artifact, weights: Mapping[str, Any]) -> UsageError:
    where = artifact.model_path
    if any(sign in name for sign in _UNMERGED):
        return UsageError(
            f"{name}: of a LoRA that is not merged, which adds layers that {where} lacks: merge it "
            "first (diffusers: fuse_lora() and unload_lora_weights(); peft: merge_and_unload())",
            code="RX318",
        )
    if name in artifact.manifest.model.absent:
        return UsageError(
            f"{name}: {where} holds it no more, or not in every place: the export computed with "
            "its values, so that others need a new export; leave it out where it is as it was",
            code="RX318",
        )
    if name in artifact.file.graph.graph.initializers:
        return UsageError(
            f"{name}: a constant of {where}, and no weight of the module's", code="RX318"
        )
    near = get_close_matches(name, weights, _SHOWN) or list(weights)[:_SHOWN]
    more = f"it has {', '.join(near)}, …" if near else "it has none"
    return UsageError(
        f"{name}: no weight of {os.fspath(where)}: {more} ({len(weights)} in all)", code="RX318"
    )
