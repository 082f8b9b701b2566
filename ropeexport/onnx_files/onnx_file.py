"""An ONNX file, read once, and questions about its graph: its rotary ops, its weights.

Graphs are onnx_ir's; weights stay in the file, or in the file that it refers to, until they are
asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from ropeexport.errors import ModelFileError, first_line
from ropeexport.onnx_files.soundness import faults
from ropeexport.operators import STANDARD
from ropeexport.ops.forms import form_of


class OnnxFile:
    """An ONNX file whose graph is read once, when it is first asked for.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"OnnxFile({str(self.path)!r})"

    @cached_property
    def graph(self) -> ir.Model:
        """The model; whoever changes it changes a clone.  Its weights' files may be absent.

        Raises
        ------
        ModelFileError
            Where it cannot be read.
        """
        return load(self.path)

    @cached_property
    def whole(self) -> ir.Model:
        """The model, whose weights are known to be there."""
        check_weights(self.path, self.graph)
        _read_inner(self.graph)
        return self.graph


def load(path: Path) -> ir.Model:
    """Read an ONNX file; whatever is wrong with it is one clear :class:`ModelFileError`."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        model = ir.load(path)
    except Exception as error:  # of damaged bytes a parser may say anything
        raise ModelFileError(
            f"{path}: not a readable ONNX file ({first_line(error)}); export it again"
        ) from error
    if not len(model.graph) or not model.opset_imports:
        raise ModelFileError(f"{path}: not an ONNX model: no graph in it; export it again")
    fault = next(faults(model), None)
    if fault is not None:
        raise ModelFileError(f"{path}: not a valid ONNX model: {fault}; export it again")
    _forget_negative(model.graph)
    return model


def _forget_negative(graph: ir.Graph) -> None:
    """Let a size below zero, which some exporters write of a dynamic axis, be an unknown one."""
    made = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.outputs, *made):
        dims = tuple(value.shape or ())
        if any(isinstance(dim, int) and dim < 0 for dim in dims):
            value.shape = ir.Shape(
                [None if isinstance(dim, int) and dim < 0 else dim for dim in dims]
            )


def rope_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the nodes of ropeexport's rotary ops in the main graph, in order."""
    return [node for node in model.graph if is_rope(node)]


def is_rope(node: ir.Node) -> bool:
    """Say whether a node is one of ropeexport's rotary ops."""
    return form_of(node.domain, node.op_type) is not None


def opset(model: ir.Model) -> int:
    """Return the version of ONNX's own operators that the model imports."""
    imports = model.opset_imports
    return int(next(imports[domain] for domain in STANDARD if domain in imports))


def with_shapes(model: ir.Model) -> ir.Model:
    """Return a copy with the types and shapes that onnx infers, where the file does not say."""
    copy = model.clone()
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(copy)
    return copy


def producers(model: ir.Model) -> dict[str, ir.Node]:
    """Return the node that makes each tensor of the main graph, by the tensor's name."""
    return {str(value.name): node for node in model.graph for value in node.outputs}


def weight_bytes(model: ir.Model) -> int:
    """Return the size of a model's initializers, those in files of their own included."""
    return sum(int(tensor.nbytes) for _, tensor in _weights(model))


def weights(model: ir.Model) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yield each initializer's name and values."""
    return ((name, tensor.numpy()) for name, tensor in _weights(model))


def external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    """Return the initializers that lie in other files, those of subgraphs included."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    tensors = (value.const_value for value in values)
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]


def _weights(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value


def _inner(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Attr, list[ir.TensorProtocol]]]:
    """Yield the attributes that are tensors, of every graph and function."""
    for part in (model.graph, *model.functions.values()):
        for node in part.all_nodes():
            for attribute in list(node.attributes.values()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield node, attribute, [attribute.as_tensor()]
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield node, attribute, list(attribute.as_tensors())


def _read_inner(model: ir.Model) -> None:
    """Read what attributes refer to: whoever writes a file elsewhere moves initializers alone."""
    for node, attribute, tensors in _inner(model):
        if not any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
            continue
        read = [
            ir.tensor(tensor.numpy().copy(), tensor.dtype, name=tensor.name) for tensor in tensors
        ]
        single = attribute.type == ir.AttributeType.TENSOR
        value = read[0] if single else read
        node.attributes[attribute.name] = ir.Attr(attribute.name, attribute.type, value)


def check_weights(path: Path, model: ir.Model) -> None:
    """Raise :class:`ModelFileError` unless a model and the files it refers to hold its tensors."""
    initializers = (value for graph in model.graphs() for value in graph.initializers.values())
    inner = (tensor for _, _, tensors in _inner(model) for tensor in tensors)
    for tensor in (*(value.const_value for value in initializers), *inner):
        if isinstance(tensor, ir.ExternalTensor):
            _check_file(path, tensor)
        elif isinstance(tensor, ir.serde.TensorProtoTensor):
            _check_bytes(path, tensor)


def _check_file(path: Path, tensor: ir.ExternalTensor) -> None:
    """Raise unless a file in the model's folder holds a tensor."""
    data = path.parent / tensor.location
    if not Path(os.path.abspath(data)).is_relative_to(os.path.abspath(path.parent)):
        raise ModelFileError(
            f"{path}: weight {tensor.name}: expected a file in the model's folder, got "
            f"{tensor.location}, which onnx refuses; move it there, or export again"
        )
    end = (tensor.offset or 0) + max(tensor.length or 0, tensor.nbytes)
    size = data.stat().st_size if data.is_file() else None
    if size is None or size < end:
        found = "no such file" if size is None else f"{size}"
        raise ModelFileError(
            f"{path}: weight {tensor.name}: expected {data} of at least {end} bytes, got "
            f"{found}; bring it back, or export again"
        )


def _check_bytes(path: Path, tensor: ir.serde.TensorProtoTensor) -> None:
    """Raise unless the file's own bytes of a tensor are as many as its shape says."""
    if not tensor.raw.HasField("raw_data"):
        return
    found = len(tensor.raw.raw_data)
    if found != tensor.nbytes:
        raise ModelFileError(
            f"{path}: weight {tensor.name}: expected {tensor.nbytes} bytes, got {found}; export it "
            "again"
        )
