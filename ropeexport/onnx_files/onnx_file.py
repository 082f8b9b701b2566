"""Reading an ONNX file and asking it questions: its rope nodes, its inputs, its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ropeexport.errors import ModelFileError, first_line
from ropeexport.manifest import Role, TensorSpec
from ropeexport.ops.forms import form_of
from ropeexport.ops.names import ROPE_TABLE

_REPEATS = ("Identity", "Tile", "Expand")
_MOVERS = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_FROM_POSITIONS = (*_MOVERS, "Cast", "Concat", "Expand", "Floor", "Gather", "Slice", "Split")


def load(path: Path, external_data: bool = True) -> onnx.ModelProto:
    """Load an ONNX file; whatever is wrong with it is one clear :class:`ModelFileError`."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        model = onnx.load(path, load_external_data=external_data)
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelFileError(
            f"{path}: not a readable ONNX file ({first_line(error)}); export it again"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelFileError(f"{path}: not an ONNX model: no graph in it; export it again")
    return model


def rope_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of ropeexport's rotary ops in the main graph, in order."""
    return [node for node in model.graph.node if is_rope(node)]


def is_rope(node: onnx.NodeProto) -> bool:
    """Say whether a node is one of ropeexport's rotary ops."""
    return form_of(node.domain, node.op_type) is not None


def opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that the model imports."""
    return next(int(e.version) for e in model.opset_import if e.domain in ("", "ai.onnx"))


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return the inputs that a caller feeds, with the role that the graph gives each."""
    weights = {tensor.name for tensor in model.graph.initializer}
    roles: dict[str, Role] = dict.fromkeys(_position_inputs(model), "positions")
    roles |= dict.fromkeys(_matrix_inputs(model), "matrices")
    rows = _indices(model)
    return tuple(
        _index(value, rows[value.name])
        if value.name in rows
        else spec_of(value, roles.get(value.name) or _role(value))
        for value in model.graph.input
        if value.name not in weights
    )


def output_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return the outputs, with the role that the graph gives each."""
    rotated = _rotated(model)
    return tuple(
        spec_of(value, "rotated" if value.name in rotated else "data")
        for value in model.graph.output
    )


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the size of a model's initializers, those in files of their own included."""
    return sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
    )


def weights(model: onnx.ModelProto, folder: Path) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yield each initializer's name and values; external data lies in ``folder``."""
    for tensor in model.graph.initializer:
        yield tensor.name, onnx.numpy_helper.to_array(tensor, base_dir=str(folder))


def external_lengths(model: onnx.ModelProto) -> list[int]:
    """Return the bytes of each initializer that lies in another file."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return [int(entry.value) for entry in entries if entry.key == "length"]


def check_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Raise :class:`ModelFileError` unless the files that a model refers to hold its tensors."""
    for tensor in model.graph.initializer:
        place = onnx.external_data_helper.ExternalDataInfo(tensor)
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        data, end = path.parent / place.location, (place.offset or 0) + (place.length or 0)
        size = data.stat().st_size if data.is_file() else None
        if size is None or size < end:
            found = "no such file" if size is None else f"{size}"
            raise ModelFileError(
                f"{path}: weight {tensor.name}: expected {data} of at least {end} bytes, got "
                f"{found}; bring it back, or export again"
            )


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return what the file says of itself."""
    return {entry.key: entry.value for entry in model.metadata_props}


def spec_of(value: onnx.ValueInfoProto, role: Role) -> TensorSpec:
    """Return the name, type and shape of a tensor that a graph declares."""
    tensor = value.type.tensor_type
    shape = tuple(
        dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in tensor.shape.dim
    )
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorSpec(name=value.name, dtype=dtype, shape=shape, role=role)


def _role(value: onnx.ValueInfoProto) -> Role:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return "positions" if np.issubdtype(dtype, np.integer) else "data"


def _index(value: onnx.ValueInfoProto, rows: int) -> TensorSpec:
    """Return the spec of an input that indexes a table: token ids, not positions."""
    return spec_of(value, "data").model_copy(update={"below": rows})


def _indices(model: onnx.ModelProto) -> dict[str, int]:
    """Return the inputs that look rows up in a weight, and how many rows it has."""
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer if tensor.dims}
    producers = {output: node for node in model.graph.node for output in node.output}

    def source(name: str, through: tuple[str, ...]) -> str:
        while name in producers and producers[name].op_type in through:
            name = producers[name].input[0]
        return name

    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in ("Gather", "GatherND", "GatherElements"):
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        dims = tables.get(source(node.input[0], _REPEATS), ())
        if -len(dims) <= axis < len(dims):
            name = source(node.input[1], (*_REPEATS, "Cast", "Reshape", "Unsqueeze"))
            found[name] = min(found.get(name, dims[axis]), dims[axis])
    return found


def _matrix_inputs(model: onnx.ModelProto) -> set[str]:
    """Names of the inputs that reach a rope's ``pe`` through nothing but a change of shape."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found = set()
    for node in rope_nodes(model):
        form = form_of(node.domain, node.op_type)
        if form is None or form.tables != "matrices":
            continue
        name = node.input[form.tensors]
        while name in producers and producers[name].op_type in ("Unsqueeze", "Cast", "Reshape"):
            name = producers[name].input[0]
        found.add(name)
    return found


def _position_inputs(model: onnx.ModelProto) -> set[str]:
    """Names of the inputs that a table of angles reads as positions; FLUX's are floats."""
    producers = {output: node for node in model.graph.node for output in node.output}
    pending = [node.input[0] for node in model.graph.node if node.op_type == ROPE_TABLE]
    met: set[str] = set()
    while pending:
        name = pending.pop()
        node = producers.get(name)
        if name in met:
            continue
        met.add(name)
        if node is not None and node.op_type in _FROM_POSITIONS:
            pending += node.input if node.op_type == "Concat" else node.input[:1]
    return met - set(producers)


def _rotated(model: onnx.ModelProto) -> set[str]:
    """Names of the values that a rope rotated, and of those that only have another shape."""
    found: set[str] = set()
    for node in model.graph.node:
        moved = node.op_type in _MOVERS and not node.domain and node.input[0] in found
        if is_rope(node) or moved:
            found.update(node.output)
    return found
