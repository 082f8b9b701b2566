"""The inputs and outputs of a graph, each with its role, which follows from the ops that read it.

An export asks this of the model in memory and writes it into the manifest; a file without one is
asked when it is compared.
"""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir

from ropeexport.errors import ModelFileError
from ropeexport.manifest import Role, TensorSpec
from ropeexport.operators import KEEP_ELEMENTS, KEEP_ORDER, MOVERS, is_standard, that_keep
from ropeexport.ops.registry import op_of

_REPEATS = that_keep("copies") | {"Identity"}
_TO_INDEX = _REPEATS | KEEP_ORDER | {"Cast"}
# what an op's input may be made by of the model's, for that to have its role; the later one counts
_THROUGH: tuple[tuple[Role, frozenset[str]], ...] = (
    ("positions", frozenset({*MOVERS, "Cast", "Floor"})),
    ("matrices", KEEP_ORDER | {"Cast"}),
)


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return the inputs that a caller feeds, with the role that the graph gives each."""
    roles = {
        value: role for role, through in _THROUGH for value in _inputs_of(model, role, through)
    }
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
    roles = _results(model)
    return tuple(spec_of(value, roles.get(value, "data")) for value in model.graph.outputs)


def spec_of(value: ir.Value, role: Role) -> TensorSpec:
    """Return the name, type and shape of a tensor; a dimension without a name gets one."""
    dtype = value.dtype if isinstance(value.type, ir.TensorType) else None
    if dtype in (None, ir.DataType.UNDEFINED, ir.DataType.STRING):
        raise ModelFileError(f"{value.name}: expected a tensor of numbers, got {_called(value)}")
    shape = tuple(
        dim if isinstance(dim, int) else dim.value or f"{value.name}_{axis}"
        for axis, dim in enumerate(value.shape or ())
    )
    return TensorSpec(name=str(value.name), dtype=str(dtype.numpy()), shape=shape, role=role)


def _called(value: ir.Value) -> str:
    return "no type" if value.type is None else str(value.type)


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


def _inputs_of(model: ir.Model, role: Role, through: Container[str]) -> set[ir.Value]:
    """Return what ops of the domain read in a role, looking through operators back to inputs."""
    pending = [x for node in model.graph for x in _read_as(node, role)]
    met: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        if value is None or value in met:
            continue
        met.add(value)
        node = value.producer()
        if node is not None and is_standard(node) and node.op_type in through:
            mover = MOVERS.get(node.op_type)
            places = mover.data if mover is not None else (0,)
            pending += [x for i, x in enumerate(node.inputs) if places is None or i in places]
    return {value for value in met if value.producer() is None}


def _read_as(node: ir.Node, role: Role) -> list[ir.Value | None]:
    op = op_of(node.domain, node.op_type)
    return [node.inputs[place] for place in op.places(role)] if op is not None else []


def _results(model: ir.Model) -> dict[ir.Value, Role]:
    """Return the roles of ops' results, and of what only has another shape."""
    found: dict[ir.Value, Role] = {}
    for node in model.graph:
        op = op_of(node.domain, node.op_type)
        if op is not None:
            made = zip(node.outputs, op.outputs, strict=False)
            found |= {value: op.roles[name] for value, name in made if name in op.roles}
        elif is_standard(node, *KEEP_ELEMENTS) and node.inputs[0] in found:
            found |= dict.fromkeys(node.outputs, found[node.inputs[0]])
    return found
