"""From a torch module to ``model.onnx`` and its manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

import ropeexport
from ropeexport import atomic, manifest
from ropeexport.errors import ExportError
from ropeexport.exporting import model_writer
from ropeexport.exporting.attention import share_attention
from ropeexport.exporting.norms import fuse_norms
from ropeexport.exporting.opsets import check_opset
from ropeexport.exporting.portable import make_portable
from ropeexport.exporting.purity import check_repeats
from ropeexport.exporting.simplify import clean, simplify
from ropeexport.exporting.tracing import trace
from ropeexport.exporting.whole_graph import is_compared, with_whole
from ropeexport.fusion.fuse import fuse
from ropeexport.fusion.limits import Limits, limits_of
from ropeexport.manifest import Comparison, Manifest, RopeCount, Source, Weights
from ropeexport.models import sources
from ropeexport.models.axes import within_bounds
from ropeexport.models.example import Example, all_axes, checked, unchanged
from ropeexport.onnx_files import onnx_contract
from ropeexport.onnx_ops import names
from ropeexport.onnx_ops.attention import attention_functions
from ropeexport.onnx_ops.bodies import rope_function
from ropeexport.onnx_ops.forms import FORMS, form_of
from ropeexport.onnx_ops.rope_table import MAX_POSITION, check_limit, rope_table_function
from ropeexport.weights import copying, references, safetensors_files

DEFAULT_OPSET = names.MIN_OPSET


def export_model(
    request: sources.Request,
    folder: Path,
    *,
    opset: int = DEFAULT_OPSET,
    force: bool = False,
    require_rope: int | None = None,
    copy_weights: bool = False,
    max_position: int = MAX_POSITION,
) -> Manifest:
    """Export a MODEL (a built-in or a factory's reference) into an output folder.

    Parameters
    ----------
    request : Request
        The MODEL and its options.
    folder : Path
        Where ``model.onnx`` and ``manifest.json`` are written.
    opset : int
        23 or later.
    force : bool
        Overwrite what is there; an engine of the former model is no longer named then.
    require_rope : int or None
        How many rotary applications must be replaced; None: any number.
    copy_weights : bool
        Copy safetensors files into ``folder`` instead of writing beside them.
    max_position : int
        The largest position that the tables of angles must hold; beyond, angles are NaN.

    Returns
    -------
    Manifest
        What was written.

    Raises
    ------
    UsageError, ExportError
        With what was expected, what was found and the next step.
    """
    atomic.refuse_existing(folder / manifest.MODEL_NAME, force)
    example, source = sources.load(request)
    return export_example(
        example,
        source,
        folder,
        opset=opset,
        force=force,
        require_rope=require_rope,
        copy_weights=copy_weights,
        max_position=max_position,
    )


def export_example(
    example: Example,
    source: Source,
    folder: Path,
    *,
    opset: int = DEFAULT_OPSET,
    force: bool = False,
    require_rope: int | None = None,
    copy_weights: bool = False,
    max_position: int = MAX_POSITION,
) -> Manifest:
    """Export an :class:`Example` into an output folder, see :func:`export_model`."""
    atomic.refuse_existing(folder / manifest.MODEL_NAME, force)
    copied = example.weights if copy_weights else None
    if copied is not None:
        copying.check_free(copied, folder, force)
    elif example.weights is not None:
        references.check_reachable(example.weights, folder)
    example, made = within_bounds(
        checked(example), lambda e: onnx_model(e, source, opset=opset, max_position=max_position)
    )
    check_count(made.count, require_rope)

    def describe(path: Path, written: Weights | None) -> Manifest:
        return Manifest(
            ropeexport=ropeexport.__version__,
            source=source,
            model=model_writer.record_of(
                path, made.count, made.comparison, made.limits, made.weights or written
            ),
            axes=all_axes(example),
        )

    return model_writer.write(made.model, folder, describe, force=force, copied=copied)


@dataclass(frozen=True)
class Finished:
    """A model as it is written, and what the manifest says of how it was made."""

    model: ir.Model
    count: RopeCount
    comparison: Comparison
    limits: Limits | None
    folded: ir.Model  # as it was traced, its constants folded and nothing rewritten
    weights: Weights | None = None


def onnx_model(
    example: Example,
    source: Source,
    *,
    opset: int = DEFAULT_OPSET,
    max_position: int = MAX_POSITION,
) -> Finished:
    """Trace a module, finish its model, and compare that with what was traced."""
    check_opset(opset)
    check_limit(max_position)
    with unchanged(example.module):
        model = trace(checked(example), opset, max_position).model
    check_repeats(example, [str(value.name) for value in model.graph.outputs])
    weights = _referred(model, example)
    before = model.clone() if is_compared(model) else None  # a graph of thousands of nodes is large
    made = finished(model, example, source, max_position=max_position)
    for former in (before, made.folded):
        if former is not None:
            attach_functions(former)
    single = {name for name, axis in example.axes.items() if axis.broadcasts_to is not None}
    comparison = with_whole(made.comparison, before, made.folded, made.model, single)
    return replace(made, comparison=comparison, weights=weights)


def finished(
    model: ir.Model, example: Example, source: Source, *, max_position: int = MAX_POSITION
) -> Finished:
    """Make a traced model what is written: ropes found, angles exact, bodies attached."""
    parameters = example.module.named_parameters(remove_duplicate=False)
    simplify(model, {name for name, _ in parameters})
    fused = fuse(model, max_position=max_position)
    folded, model = model, fused.model
    fuse_norms(model)
    make_portable(model)
    clean(model)
    share_attention(model)
    attach_functions(model)
    if not example.outputs and len(model.graph.outputs) == 1:
        model.graph.outputs[0].name = "out"
    annotate(model, source, type(example.module).__qualname__)
    onnx_contract.check_dynamic(model, example.dynamic_axes)
    return Finished(model, fused.count, fused.comparison, limits_of(model), folded)


def _referred(model: ir.Model, example: Example) -> Weights | None:
    if example.weights is None:
        return None
    places = safetensors_files.read_places(example.weights)
    prefix = getattr(example.module, "base_model_prefix", "")
    return references.refer(model, places, example.weights, f"{prefix}." if prefix else "")


def check_count(count: RopeCount, required: int | None) -> None:
    """Raise :class:`ExportError` unless as many applications were replaced as required."""
    if required is not None and count.replaced != required:
        reasons = "".join(f"; {r.node}: {r.reason}" for r in count.refused)
        raise ExportError(
            f"--require-rope: expected {required} rotary applications, replaced {count.replaced} "
            f"of {count.found} found{reasons}"
        )


def attach_functions(model: ir.Model) -> None:
    """Give a model the bodies of ropeexport's ops that it uses."""
    opset = model.opset_imports[""]
    used = {node.op_type for node in model.graph.all_nodes() if node.domain == names.DOMAIN}
    bodies = [rope_function(FORMS[name], opset) for name in FORMS if name in used]
    if names.ROPE_TABLE in used:
        bodies.append(rope_table_function(opset))
    if names.ATTENTION in used:
        bodies += attention_functions(opset)
    for body in bodies:
        function = ir.serde.deserialize_function(body)
        model.functions[function.identifier()] = function
    if used:
        model.opset_imports[names.DOMAIN] = names.DOMAIN_VERSION


def annotate(model: ir.Model, source: Source, module: str) -> None:
    """Name the graph's parts, make source paths relative and say what made the file."""
    onnx_contract.name_nodes(model)
    onnx_contract.make_paths_relative(model)
    model.producer_name = "ropeexport"
    model.producer_version = ropeexport.__version__
    model.metadata_props.update(
        {
            "ropeexport.version": ropeexport.__version__,
            "ropeexport.contract": _contract(model),
            "ropeexport.source": source.name,
            "ropeexport.module": module,
            "ropeexport.dtype": _data_type(model),
        }
    )


def _contract(model: ir.Model) -> str:
    used = {node.op_type for node in model.graph if node.domain == names.DOMAIN}
    return " ".join(FORMS[name].contract for name in FORMS if name in used)


def _data_type(model: ir.Model) -> str:
    """Return fp32, fp16 or bf16 (or NumPy's name): the type of the data that is rotated."""
    ropes = [node for node in model.graph if form_of(node.domain, node.op_type)]
    dtype = (ropes[0] if ropes else model.graph).outputs[0].dtype
    if dtype in (None, ir.DataType.UNDEFINED):
        return "unknown"
    name = str(dtype.numpy())
    return manifest.DATA_TYPES.get(name, name)
