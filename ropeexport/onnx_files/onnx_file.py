"""An ONNX file, read once, and questions about its graph: its rotary ops, its weights.

Graphs are onnx_ir's; weights stay in the file, or in the file that it refers to, until they are
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.errors import ModelFileError, first_line
from ropeexport.ops.forms import form_of

STANDARD = ("", "ai.onnx")  # the domain of ONNX's own operators


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
        check_external_data(self.path, self.graph)
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
    return model


def rope_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the nodes of ropeexport's rotary ops in the main graph, in order."""
    return [node for node in model.graph if is_rope(node)]


def is_rope(node: ir.Node) -> bool:
    """Say whether a node is one of ropeexport's rotary ops."""
    return form_of(node.domain, node.op_type) is not None


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Say whether a node is one of ONNX's own operators, of these types where any are given."""
    return node.domain in STANDARD and (not op_types or node.op_type in op_types)


def opset(model: ir.Model) -> int:
    """Return the version of ONNX's own operators that the model imports."""
    imports = model.opset_imports
    return int(next(imports[domain] for domain in STANDARD if domain in imports))


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
    """Return the initializers that lie in other files."""
    return [tensor for _, tensor in _weights(model) if isinstance(tensor, ir.ExternalTensor)]


def _weights(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value


def check_external_data(path: Path, model: ir.Model) -> None:
    """Raise :class:`ModelFileError` unless the files that a model refers to hold its tensors."""
    for tensor in external_tensors(model):
        data = path.parent / tensor.location
        end = (tensor.offset or 0) + (tensor.length or 0)
        size = data.stat().st_size if data.is_file() else None
        if size is None or size < end:
            found = "no such file" if size is None else f"{size}"
            raise ModelFileError(
                f"{path}: weight {tensor.name}: expected {data} of at least {end} bytes, got "
                f"{found}; bring it back, or export again"
            )
