"""From a torch module to ``model.onnx`` and its manifest."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

import ropeexport
from ropeexport import manifest
from ropeexport.exporting.against_eager import check_traced
from ropeexport.exporting.model_writer import Finished, check_count, check_smallest, finished, write
from ropeexport.exporting.naming import names_without_tensor
from ropeexport.exporting.passes import EXPORT, Say, Work, passed
from ropeexport.exporting.purity import check_repeats
from ropeexport.exporting.readers import readers_of
from ropeexport.exporting.tracing import check_opset, trace
from ropeexport.exporting.whole_graph import is_compared
from ropeexport.manifest import Manifest, ModelRecord, Source, Weights
from ropeexport.models.axes import within_bounds
from ropeexport.models.example import Example, all_axes, checked, unchanged, with_paths_and_roles
from ropeexport.models.hub.companions import companions
from ropeexport.models.input_tree import recorded
from ropeexport.models.signature import forward_of
from ropeexport.onnx_files.variants import attach_functions
from ropeexport.ops import names
from ropeexport.ops.rope_table import MAX_POSITION, check_limit
from ropeexport.weights import references, safetensors_files


def export_example(  # noqa: PLR0913  (a user's choices, each by keyword)
    example: Example,
    source: Source,
    folder: Path,
    *,
    opset: int = names.MIN_OPSET,
    force: bool = False,
    require_rope: int | None = None,
    copy_weights: bool = False,
    hash_weights: bool = False,
    max_position: int = MAX_POSITION,
    requested: Container[str] = names.BY_DEFAULT,
    say: Say | None = None,
) -> Manifest:
    """Export an :class:`Example` into an output folder, see :func:`ropeexport.export`."""
    if example.cache is not None and example.cache.form == "fixed":
        opset = max(opset, names.CACHE_OPSET)
    manifest.refuse_existing(folder, force)
    copied = example.weights if copy_weights else None
    if copied is not None:
        safetensors_files.check_free(copied, folder, force)
    elif example.weights is not None:
        references.check_reachable(example.weights, folder)
    given = checked(example)
    example, made = within_bounds(
        given,
        lambda e: onnx_model(
            e, source, opset=opset, max_position=max_position, requested=requested, say=say
        ),
        say,
    )
    if hash_weights and made.weights is not None and example.weights is not None:
        made = replace(made, weights=safetensors_files.hashed(made.weights, example.weights))
    check_count(made.count, require_rope)
    check_smallest(made.model, all_axes(example))

    def describe(record: ModelRecord) -> Manifest:
        inputs = with_paths_and_roles(example, record.inputs)
        return Manifest(
            ropeexport=ropeexport.__version__,
            source=source,
            model=record.model_copy(update={"inputs": inputs}),
            axes=all_axes(example),
            relations=_relations(given, example),
            arguments=recorded(example.inputs, example.constants),
            cache=example.cache,
            forward=made.forward,
        )

    return write(
        made,
        folder,
        describe,
        force=force,
        copied=copied,
        companions=lambda record, former: companions(example, record, folder, former),
    )


def _relations(given: Example, made: Example) -> dict[str, str]:
    """Return the axes that were given another size than they had, and that size."""
    labels = (
        (label, made.tensor_axes[name][axis])
        for name, axes in given.tensor_axes.items()
        for axis, label in axes.items()
    )
    return {label: now for label, now in labels if now != label}


def onnx_model(
    example: Example,
    source: Source,
    *,
    opset: int = names.MIN_OPSET,
    max_position: int = MAX_POSITION,
    requested: Container[str] = names.BY_DEFAULT,
    say: Say | None = None,
) -> Finished:
    """Trace a module, finish its model, and compare that with what was traced."""
    check_opset(opset)
    check_limit(max_position)
    with unchanged(example.module):
        traced = trace(checked(example), opset, max_position)
    model = traced.model
    check_repeats(example, [str(value.name) for value in model.graph.outputs])
    weights = _referred(model, example)
    before = model.clone() if is_compared(model) else None  # a graph of thousands of nodes is large
    read = readers_of(model)
    given = replace(work_of(model, example, source, max_position), requested=requested)
    work = passed(EXPORT, given, say)
    if before is not None:
        attach_functions(before)
        check_traced(example, before, work.model)
    single = {name for name, axis in example.axes.items() if axis.broadcasts_to is not None}
    made = finished(work, before, single, weights)
    tied, absent = names_without_tensor(example.module, traced.program, made.model, read)
    forward = forward_of(example, traced.program, work.output_names)
    return replace(made, forward=forward, tied=tied, absent=absent)


def work_of(
    model: ir.Model, example: Example, source: Source, max_position: int = MAX_POSITION
) -> Work:
    """Return a traced model with what its passes are to know of it."""
    parameters = example.module.named_parameters(remove_duplicate=False)
    return Work(
        model,
        source,
        type(example.module).__qualname__,
        parameters={name for name, _ in parameters},
        dynamic_axes=example.tensor_axes,
        output_names=[str(value.name) for value in model.graph.outputs],
        max_position=max_position,
    )


def _referred(model: ir.Model, example: Example) -> Weights | None:
    if example.weights is None:
        return None
    places = safetensors_files.read_places(example.weights)
    usual = getattr(example.module, "base_model_prefix", "")
    names: dict[int, list[str]] = {}
    for name, parameter in example.module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    tied = {name: same for same in names.values() if len(same) > 1 for name in same}
    prefix = references.prefix_in(places, names.values(), f"{usual}." if usual else "")
    return references.refer(model, places, example.weights, prefix, tied)
