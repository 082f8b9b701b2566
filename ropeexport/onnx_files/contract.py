"""The contract of a file: its inputs and outputs with their roles, its names, checks, dynamic axes.

A role follows from the ops that read a tensor.  An export asks this of the model in memory and
writes it into the manifest; a file without one is asked when it is compared.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Container, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

import ropeexport
from ropeexport.axes import same
from ropeexport.errors import ExportError, ManifestError, ModelFileError
from ropeexport.manifest import Manifest, Role, TensorSpec
from ropeexport.onnx_files.uses import numbers_of
from ropeexport.operators import KEEP_ELEMENTS, KEEP_ORDER, MOVERS, is_standard
from ropeexport.ops.registry import op_of

# what an op's input may be made by of the model's, for that to have its role; the later one counts
_THROUGH: tuple[tuple[Role, frozenset[str]], ...] = (
    ("positions", frozenset({*MOVERS, "Cast", "Floor"})),
    ("matrices", KEEP_ORDER | {"Cast"}),
)


def name_nodes(model: ir.Model) -> None:
    """Give the nodes of ropeexport's ops readable names: ``ApplyRope_0`` and so on."""
    counts: dict[str, int] = {}
    for node in model.graph:
        op = op_of(node.domain, node.op_type)
        if op is not None and op.results:
            number = counts[node.op_type] = counts.get(node.op_type, -1) + 1
            node.name = f"{node.op_type}_{number}"
            for value, label in zip(node.outputs, op.results, strict=True):
                if not value.is_graph_output():  # those are the user's to name
                    value.name = f"{label}_{number}"


def make_paths_relative(model: ir.Model) -> None:
    """Cut the machine's folders from the source paths that the exporter leaves in metadata."""
    roots = sorted(
        {sysconfig.get_path("purelib"), str(Path(ropeexport.__file__).parents[1]), str(Path.cwd())},
        key=len,
        reverse=True,
    )
    for node in model.graph.all_nodes():
        for key, text in node.metadata_props.items():
            short = text
            for root in roots:
                short = short.replace(f"{root}/", "")
            node.metadata_props[key] = short


def check(model: onnx.ModelProto) -> None:
    """Raise :class:`ExportError` unless the model passes onnx's checker and strict inference."""
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}", code="RX211") from error


def check_file(path: Path, name: Path) -> None:
    """Check a file with external data, see :func:`check`; ``name`` is what it will be called."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{name}: the exported graph is not valid ONNX: {error}", code="RX211"
        ) from error


def check_dynamic(model: ir.Model, dynamic_axes: Mapping[str, Mapping[int, str]]) -> None:
    """Raise unless every axis that was asked to be dynamic is symbolic in the model.

    A comparison of sizes inside traced code makes an axis a constant without a word.
    """
    shapes = {value.name: value.shape for value in model.graph.inputs}
    for name, axes in dynamic_axes.items():
        for axis, label in axes.items():
            shape = shapes.get(name)
            if shape is None:
                raise ExportError(
                    f"{name}: the module does not use this input; leave it out", code="RX204"
                )
            found = shape[axis]
            if isinstance(found, int) or not same(str(found), label):
                raise ExportError(
                    f"{name}: axis {axis}: expected the dynamic axis {label!r} in the file, "
                    f"got {found!r}; look for a check or an arithmetic on its size in the module",
                    code="RX205",
                )


def input_specs(model: ir.Model, *, any_type: bool = False) -> tuple[TensorSpec, ...]:
    """Return the inputs that a caller feeds, with the role that the graph gives each.

    ``any_type``: an input that is no tensor of numbers is described, and not refused.
    """
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    roles: dict[ir.Value, Role] = {}
    for role, through in _THROUGH:
        roles |= dict.fromkeys(_inputs_of(model, role, through), role)
    return tuple(_input_spec(model, value, roles.get(value), any_type=any_type) for value in fed)


def _input_spec(
    model: ir.Model, value: ir.Value, role: Role | None, *, any_type: bool
) -> TensorSpec:
    spec = spec_of(value, role or "data", any_type=any_type)
    found = numbers_of(model, value)
    if role is None or found.below is not None:  # what indexes a table ends where that does
        spec = spec.changed(role=found.role, below=found.below)
    return spec


def output_specs(model: ir.Model, *, any_type: bool = False) -> tuple[TensorSpec, ...]:
    """Return the outputs, with the role that the graph gives each; see :func:`input_specs`."""
    roles = _results(model)
    return tuple(
        spec_of(value, roles.get(value, "data"), any_type=any_type) for value in model.graph.outputs
    )


def spec_of(value: ir.Value, role: Role, *, any_type: bool = False) -> TensorSpec:
    """Return the name, type and shape of a tensor; a dimension without a name gets one."""
    dtype = value.dtype if isinstance(value.type, ir.TensorType) else None
    if dtype in (None, ir.DataType.UNDEFINED, ir.DataType.STRING):
        if not any_type:
            raise ModelFileError(
                f"{value.name}: expected a tensor of numbers, got {value.type or 'no type'}",
                code="RX216",
            )
        named = type_text(value.type)
    else:
        named = str(dtype.numpy())
    shape = tuple(
        dim if isinstance(dim, int) else dim.value or f"{value.name}_{axis}"
        for axis, dim in enumerate(value.shape or ())
    )
    return TensorSpec(name=str(value.name), dtype=named, shape=shape, role=role)


def type_text(kind: ir.TypeProtocol | None) -> str:
    """Return what people call a type: ``string``, ``sequence of float32``, ``optional ...``."""
    if isinstance(kind, ir.TensorType | ir.SparseTensorType):
        is_text = kind.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED)
        named = kind.dtype.name.lower() if is_text else str(kind.dtype.numpy())
        return named if isinstance(kind, ir.TensorType) else f"sparse {named}"
    if isinstance(kind, ir.SequenceType | ir.OptionalType):
        outer = "sequence of" if isinstance(kind, ir.SequenceType) else "optional"
        return f"{outer} {type_text(kind.elem_type)}"
    return "unknown"


def check_interface(
    model: ir.Model, manifest: Manifest, folder: Path, *, outputs: bool = True
) -> None:
    """Raise :class:`ManifestError` unless a manifest has the names, types and ranks of a file.

    Sizes too, where both know them; axes may have other names.  Without ``outputs`` of its inputs
    alone: who judges what a file gives has a verdict on those.
    """
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    for kind, values, specs in (
        ("input", fed, manifest.model.inputs),
        ("output", model.graph.outputs, manifest.model.outputs),
    )[: 2 if outputs else 1]:
        said = {spec.name: spec for spec in specs}
        found = {str(value.name): value for value in values}
        for name in (*found, *said):
            if name not in said or name not in found or not _is_same(found[name], said[name]):
                own = _text_of(found[name]) if name in found else "none"
                other = f"{said[name].dtype} {said[name].shape}" if name in said else "none"
                raise ManifestError(
                    f"{folder}: {kind} {name!r}: expected {own}, as the ONNX file has it, got "
                    f"{other} in the manifest; export again",
                    code="RX310",
                )


def _is_same(value: ir.Value, spec: TensorSpec) -> bool:
    if value.dtype is not None and str(value.dtype.numpy()) != spec.dtype:
        return False
    if value.shape is None:
        return True
    return len(value.shape) == len(spec.shape) and all(
        mine == its or not (isinstance(mine, int) and isinstance(its, int))
        for mine, its in zip(value.shape, spec.shape, strict=True)
    )


def _text_of(value: ir.Value) -> str:
    return f"{type_text(value.type)} {value.shape if value.shape is not None else ''}".strip()


def _inputs_of(model: ir.Model, role: Role, through: Container[str]) -> set[ir.Value]:
    """Return what ops of the domain read in a role, looking through operators back to inputs."""
    ops = ((node, op_of(node.domain, node.op_type)) for node in model.graph)
    pending = [node.inputs[i] for node, op in ops if op is not None for i in op.places(role)]
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


def _results(model: ir.Model) -> dict[ir.Value, Role]:
    """Return the roles of results that ops make of inputs, and of what only has another shape.

    An op's promise is of the numbers that it is given: what a model has computed before it is
    rounded already, as far off as any output.
    """
    found: dict[ir.Value, Role] = {}
    given = set(model.graph.inputs)
    for node in model.graph:
        op = op_of(node.domain, node.op_type)
        if is_standard(node, *MOVERS) and node.inputs[0] in given:
            given |= set(node.outputs)
        if op is not None:
            if not given.issuperset(node.inputs[: len(node.outputs)]):
                continue
            made = zip(node.outputs, op.outputs, strict=False)
            found |= {value: op.roles[name] for value, name in made if name in op.roles}
        elif is_standard(node, *KEEP_ELEMENTS) and node.inputs[0] in found:
            found |= dict.fromkeys(node.outputs, found[node.inputs[0]])
    return found
