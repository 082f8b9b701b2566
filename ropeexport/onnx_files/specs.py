"""The inputs and outputs of a graph, each with its role: what an input is for follows from it.

An export asks this of the model in memory and writes it into the manifest; a file without one is
asked when it is compared.
"""

from __future__ import annotations

import onnx_ir as ir

from ropeexport.errors import ModelFileError
from ropeexport.manifest import Role, TensorSpec
from ropeexport.movers import KEEP_ELEMENTS, KEEP_ORDER, MOVERS, that_keep
from ropeexport.onnx_files.onnx_file import is_rope, is_standard, rope_nodes
from ropeexport.onnx_ops.forms import form_of
from ropeexport.onnx_ops.names import DOMAIN, ROPE_TABLE

_REPEATS = that_keep("copies") | {"Identity"}
_TO_INDEX = _REPEATS | KEEP_ORDER | {"Cast"}
_TO_MATRICES = KEEP_ORDER | {"Cast"}
_TO_POSITIONS = MOVERS.keys() | {"Cast", "Floor"}


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return the inputs that a caller feeds, with the role that the graph gives each."""
    roles: dict[ir.Value, Role] = dict.fromkeys(_position_inputs(model), "positions")
    roles |= dict.fromkeys(_matrix_inputs(model), "matrices")
    rows = _indices(model)
    return tuple(
        spec_of(value, "data").model_copy(update={"below": rows[value]})  # token ids, no positions
        if value in rows
        else spec_of(value, roles.get(value) or _role(value))
        for value in model.graph.inputs
        if not value.is_initializer()
    )


def output_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return the outputs, with the role that the graph gives each."""
    rotated = _rotated(model)
    return tuple(
        spec_of(value, "rotated" if value in rotated else "data") for value in model.graph.outputs
    )


def spec_of(value: ir.Value, role: Role) -> TensorSpec:
    """Return the name, type and shape of a tensor; a dimension without a name gets one."""
    if value.dtype in (None, ir.DataType.UNDEFINED):
        raise ModelFileError(f"{value.name}: expected a tensor of a known type, got {value.type}")
    shape = tuple(
        dim if isinstance(dim, int) else dim.value or f"{value.name}_{axis}"
        for axis, dim in enumerate(value.shape or ())
    )
    return TensorSpec(name=str(value.name), dtype=str(value.dtype.numpy()), shape=shape, role=role)


def _role(value: ir.Value) -> Role:
    return "positions" if value.dtype is not None and value.dtype.is_integer() else "data"


def _source(value: ir.Value | None, through: frozenset[str]) -> ir.Value | None:
    """Return what a value is moved from, looking through operators of one input."""
    while value is not None:
        node = value.producer()
        if node is None or not is_standard(node, *through):
            return value
        value = node.inputs[0]
    return None


def _indices(model: ir.Model) -> dict[ir.Value, int]:
    """Return the inputs that look rows up in a weight, and how many rows it has."""
    found: dict[ir.Value, int] = {}
    for node in model.graph:
        if not is_standard(node, "Gather", "GatherND", "GatherElements"):
            continue
        table, index = _source(node.inputs[0], _REPEATS), _source(node.inputs[1], _TO_INDEX)
        dims = table.const_value.shape if table is not None and table.const_value else ()
        axis = node.attributes.get_int("axis", 0)
        if index is not None and index.is_graph_input() and -len(dims) <= axis < len(dims):
            rows = dims[axis]
            assert isinstance(rows, int)  # a weight's sizes are known
            found[index] = min(found.get(index, rows), rows)
    return found


def _matrix_inputs(model: ir.Model) -> set[ir.Value]:
    """Return the inputs that reach a rope's ``pe`` through nothing but a change of shape."""
    found = set()
    for node in rope_nodes(model):
        form = form_of(node.domain, node.op_type)
        if form is not None and form.tables == "matrices":
            source = _source(node.inputs[form.tensors], _TO_MATRICES)
            if source is not None:
                found.add(source)
    return found


def _position_inputs(model: ir.Model) -> set[ir.Value]:
    """Return the inputs that a table of angles reads as positions; FLUX's are floats."""
    tables = (node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, ROPE_TABLE))
    pending = [node.inputs[0] for node in tables]
    met: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        if value is None or value in met:
            continue
        met.add(value)
        node = value.producer()
        if node is not None and is_standard(node, *_TO_POSITIONS):
            mover = MOVERS.get(node.op_type)
            places = mover.data if mover is not None else (0,)
            pending += [x for i, x in enumerate(node.inputs) if places is None or i in places]
    return {value for value in met if value.producer() is None}


def _rotated(model: ir.Model) -> set[ir.Value]:
    """Return the values that a rope rotated, and those that only have another shape."""
    found: set[ir.Value] = set()
    for node in model.graph:
        if is_rope(node) or (is_standard(node, *KEEP_ELEMENTS) and node.inputs[0] in found):
            found.update(node.outputs)
    return found
