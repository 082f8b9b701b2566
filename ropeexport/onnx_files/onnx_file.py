"""An ONNX file, read once, and questions about its graph: its rotary ops, its weights.

Graphs are onnx_ir's; weights stay in the file, or in the file that it refers to, until they are
asked for.  onnx_ir reads whatever a message holds, so what every stage takes for granted of a graph
is checked here: what is missing would be a fault of the first stage that looks for it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.errors import ModelFileError, first_line
from ropeexport.links import is_for_weights, require_weights
from ropeexport.onnx_files.dimensions import is_bounded
from ropeexport.onnx_files.shapes import infer
from ropeexport.operators import STANDARD
from ropeexport.ops.forms import form_of
from ropeexport.ops.registry import op_of
from ropeexport.reading import check_message

_LINK = "ropeexport.link"  # of a tensor behind a link: where the file says that it lies
_MOST_NODES = 1 << 20  # of a function, with what it calls
_DEEPEST = 500  # functions inside each other: onnx's own code nests its calls
_END_OF_VERSIONS = 1 << 31
_LARGEST_SIZE = 1 << 48  # of an axis; products of several stay within 64 bits, as a rule


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
    check_message(path)
    try:
        with _without_collecting():
            model = ir.load(path)
    except Exception as error:  # of damaged bytes a parser may say anything
        raise ModelFileError(
            f"{path}: not a readable ONNX file ({first_line(_root(error))}); export it again",
            code="RX304",
        ) from error
    if not len(model.graph) or not model.opset_imports:
        raise ModelFileError(
            f"{path}: not an ONNX model: expected a graph with nodes, and the opset that it is of; "
            "export it again",
            code="RX304",
        )
    try:
        _check_sound(model)
    except _UnsoundError as fault:
        raise ModelFileError(
            f"{path}: not a valid ONNX model: {fault}; export it again", code="RX304"
        ) from None
    _forget_odd(model.graph)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _followed(value.const_value)
    return model


def _root(error: BaseException) -> BaseException:
    """Return the first of the errors that were raised from each other."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep Python from looking for garbage among objects that are all kept: half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _is_no_size(dim: int | ir.SymbolicDim) -> bool:
    if isinstance(dim, int):
        return not 0 <= dim <= _LARGEST_SIZE
    if dim.value is None:
        return False
    return dim.value.removeprefix("-").isdecimal() or not is_bounded(dim.value)


def _followed(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor behind a link, as hub caches have them, as one of the file itself.

    onnx and onnx_ir read nothing behind a link; a path that leaves the folder stays as it is.
    """
    if not isinstance(tensor, ir.ExternalTensor) or "\0" in str(tensor.location):
        return tensor
    if not _stays(tensor):
        return tensor
    if not is_for_weights(Path(tensor.path), Path(tensor.base_dir)):
        return tensor
    path, real = os.path.abspath(tensor.path), os.path.realpath(tensor.path)
    if os.path.dirname(real) == os.path.realpath(os.path.dirname(path)):
        return tensor
    made = _lying(tensor, os.path.basename(real), os.path.dirname(real))
    made.meta[_LINK] = (str(tensor.location), str(tensor.base_dir))
    return made


def _lying(tensor: ir.ExternalTensor, location: str, folder: str) -> ir.ExternalTensor:
    """Return a tensor in another file, with a mapping of its own."""
    return ir.ExternalTensor(
        location, tensor.offset, tensor.length, tensor.dtype,
        shape=tensor.shape, name=str(tensor.name), base_dir=folder,
    )  # fmt: skip


def _behind_links(model: ir.Model) -> Iterator[tuple[str, ir.ExternalTensor]]:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and _LINK in tensor.meta:
            yield name, tensor


def has_links(model: ir.Model) -> bool:
    """Say whether links lead to any of a model's weights, out of its folder."""
    return any(True for _ in _behind_links(model))


def values_behind_links(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    """Return the weights that links lead to out of the model's folder, mapped.

    onnxruntime and OpenVINO read nothing there.
    """
    return {
        name: _lying(x, str(x.location), str(x.base_dir)).numpy()
        for name, x in _behind_links(model)
    }


def with_links(model: ir.Model) -> ir.Model:
    """Return a model whose weights lie where its file says, for who follows links; or itself."""
    links = dict(_behind_links(model))
    if not links:
        return model
    made = model.clone()
    for name, tensor in links.items():
        made.graph.initializers[name].const_value = _lying(tensor, *tensor.meta[_LINK])
    return made


def _stays(tensor: ir.ExternalTensor) -> bool:
    """Say whether a tensor's path, as it is written, stays in the folder that it is of."""
    return Path(os.path.abspath(tensor.path)).is_relative_to(os.path.abspath(tensor.base_dir))


def _forget_odd(graph: ir.Graph) -> None:
    """Let what some exporters write of a dynamic axis, -1 or a number as its name, be unknown.

    And what nobody can compute with: sizes beyond any memory, endless expressions.
    """
    made = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.outputs, *made):
        dims = tuple(value.shape or ())
        known = [None if _is_no_size(dim) else dim for dim in dims]
        if any(dim is None for dim in known):
            value.shape = ir.Shape(known)


def rope_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the nodes of ropeexport's rotary ops in the main graph, in order."""
    return [node for node in model.graph if is_rope(node)]


def is_rope(node: ir.Node) -> bool:
    """Say whether a node is one of ropeexport's rotary ops."""
    return form_of(node.domain, node.op_type) is not None


def opset(model: ir.Model) -> int:
    """Return the version of ONNX's own operators that the model imports; 0 if it has none."""
    imports = model.opset_imports
    return int(next((imports[domain] for domain in STANDARD if domain in imports), 0))


def with_shapes(model: ir.Model) -> ir.Model:
    """Return a copy with the types and shapes that onnx infers, where the file does not say."""
    copy = model.clone()
    infer(copy, check_type=False, strict_mode=False, data_prop=False)
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
    return [tensor for tensor in _initializers(model) if isinstance(tensor, ir.ExternalTensor)]


def _initializers(model: ir.Model) -> Iterator[ir.TensorProtocol | None]:
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return (value.const_value for value in values)


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
        read = [ir.tensor(_followed(x).numpy().copy(), x.dtype, name=x.name) for x in tensors]
        value = read[0] if attribute.type == ir.AttributeType.TENSOR else read
        node.attributes[attribute.name] = ir.Attr(attribute.name, attribute.type, value)


def check_weights(path: Path, model: ir.Model) -> None:
    """Raise :class:`ModelFileError` unless a model and the files it refers to hold its tensors."""
    inner = (tensor for _, _, tensors in _inner(model) for tensor in tensors)
    for tensor in (*_initializers(model), *inner):
        if isinstance(tensor, ir.ExternalTensor):
            _check_file(path, tensor)
        elif isinstance(tensor, ir.serde.TensorProtoTensor) and tensor.raw.HasField("raw_data"):
            found = len(tensor.raw.raw_data)
            if found != tensor.nbytes:
                raise ModelFileError(
                    f"{path}: weight {tensor.name}: expected {tensor.nbytes} bytes, got {found}; "
                    "export it again",
                    code="RX305",
                )


def _check_file(path: Path, tensor: ir.ExternalTensor) -> None:
    """Raise unless a file in the model's folder holds a tensor."""
    data = Path(tensor.path)
    begin, length = tensor.offset or 0, tensor.length or 0
    if "\0" in str(tensor.location) or min(begin, length) < 0:
        raise ModelFileError(
            f"{path}: weight {tensor.name}: expected a file's name, and bytes from 0 on, got "
            f"{str(tensor.location)!r} from {begin}, {length} long; export it again",
            code="RX304",
        )
    if not _stays(tensor):
        raise ModelFileError(
            f"{path}: weight {tensor.name}: expected a file in the model's folder, got "
            f"{tensor.location}, which onnx refuses; move it there, or export again",
            code="RX305",
        )
    require_weights(data, path.parent)
    end = begin + max(length, tensor.nbytes)
    size = data.stat().st_size if data.is_file() else None
    if size is None or size < end:
        raise ModelFileError(
            f"{path}: weight {tensor.name}: expected {data} of at least {end} bytes, got "
            f"{'no such file' if size is None else size}; bring it back, or export again",
            code="RX305",
        )


class _UnsoundError(Exception):
    """What was found in a model, and what was expected."""


def _check_sound(model: ir.Model) -> None:
    if not model.graph.outputs:
        raise _UnsoundError("expected an output, got none")
    for part in (model, *model.functions.values()):
        _check_imports(part.opset_imports)
    _check_graph(model.graph, model.opset_imports, set())
    for function in model.functions.values():
        _check_graph(function.graph, function.opset_imports, set())
    _check_calls(model)


def _check_calls(model: ir.Model) -> None:
    """Check that functions, put where they are called, make a graph that can be worked with."""
    called = {
        name: [node.op_identifier() for node in function.all_nodes()]
        for name, function in model.functions.items()
    }
    calls = {name: set(nodes) & called.keys() for name, nodes in called.items()}
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        domain, name, _ = error.args[1][0]
        raise _UnsoundError(f"function {domain}::{name} calls itself") from None
    nodes: dict[ir.OperatorIdentifier, int] = {}
    depth: dict[ir.OperatorIdentifier, int] = {}
    for key in order:
        nodes[key] = sum(nodes.get(inner, 1) for inner in called[key])
        depth[key] = 1 + max((depth[inner] for inner in calls[key]), default=0)
        if nodes[key] > _MOST_NODES or depth[key] > _DEEPEST:
            raise _UnsoundError(
                f"function {key[0]}::{key[1]}: expected at most {_MOST_NODES:,} nodes, those of "
                f"what it calls included, and {_DEEPEST} functions inside each other, got more"
            )


def _check_imports(imports: dict[str, int]) -> None:
    for domain, version in imports.items():
        _check_text(domain)
        if not 0 < version < _END_OF_VERSIONS:
            raise _UnsoundError(f"expected an opset of 1 or more of {domain!r}, got {version}")


def _check_text(*names: object) -> None:
    """Check names; one that is no text is bytes."""
    for name in names:
        if name is not None and not isinstance(name, str):
            raise _UnsoundError(f"expected names in UTF-8, got {name!r}")


def _check_graph(graph: ir.Graph, imports: dict[str, int], outer: set[ir.Value | None]) -> None:
    """Check a graph that sees the values of those around it."""
    known = {None, *outer, *graph.inputs, *graph.initializers.values()}
    _check_text(*(value.name for value in (*graph.inputs, *graph.outputs)))
    _check_names([value.name for value in graph.inputs])
    made = [value.name for node in graph for value in node.outputs]
    _check_names([name for name in (*graph.initializers, *made) if name])
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not _has_type(tensor):
            raise _UnsoundError(f"initializer {name!r}: expected values of a known type")
        if isinstance(tensor, ir.ExternalTensor) and tensor.dtype == ir.DataType.STRING:
            raise _UnsoundError(f"initializer {name!r}: text lies in the model's file, not outside")
        if any(isinstance(size, int) and size < 0 for size in tensor.shape):
            raise _UnsoundError(
                f"initializer {name!r}: expected sizes of 0 or more, got {tensor.shape}"
            )
    for node in graph:
        _check_text(node.op_type, node.domain, node.name, *(x.name for x in node.outputs))
        called = f"{node.op_type} {node.name!r}" if node.name else node.op_type
        for value in node.inputs:
            if value not in known:
                raise _UnsoundError(f"{called} reads {value.name!r}, which nothing before it makes")
        least = _least_inputs(node, imports)
        if len(node.inputs) < least:
            raise _UnsoundError(
                f"{called}: expected at least {least} inputs, got {len(node.inputs)}"
            )
        if not node.outputs:
            raise _UnsoundError(f"{called}: expected an output, got none")
        _check_attributes(node, called)
        for inner in graphs_of(node):
            _check_graph(inner, imports, known)
        known.update(node.outputs)
    for value in graph.outputs:
        if value not in known:
            raise _UnsoundError(f"output {value.name!r}: nothing makes it")


def _check_attributes(node: ir.Node, called: str) -> None:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.UNDEFINED:
            raise _UnsoundError(f"{called}: {attribute.name}: expected a type, got none")
        is_list = attribute.type == ir.AttributeType.TENSORS
        if attribute.is_ref() or not (is_list or attribute.type == ir.AttributeType.TENSOR):
            continue
        tensors = attribute.value if is_list else (attribute.value,)
        if not all(map(_has_type, tensors)):
            raise _UnsoundError(f"{called}: {attribute.name}: expected values of a known type")


def _has_type(tensor: ir.TensorProtocol) -> bool:
    try:
        return bool(tensor.dtype != ir.DataType.UNDEFINED)
    except ValueError:  # a number that stands for none
        return False


def _check_names(names: list[str | None]) -> None:
    seen: set[str | None] = set()
    for name in names:
        if name in seen:
            raise _UnsoundError(f"expected one tensor of each name, got several called {name!r}")
        seen.add(name)


def _least_inputs(node: ir.Node, imports: dict[str, int]) -> int:
    """Return how many inputs an operator has at least; 0 of one that nobody here knows."""
    op = op_of(node.domain, node.op_type)
    if op is not None:
        return len(op.inputs)
    version = next((imports[domain] for domain in STANDARD if domain in imports), None)
    if node.domain not in STANDARD or version is None:
        return 0
    try:
        return int(onnx.defs.get_schema(node.op_type, version).min_input)
    except onnx.defs.SchemaError:
        return 0


def graphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that a node holds, those of a branch or of a loop."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
