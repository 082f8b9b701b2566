"""From a torch module to ``model.onnx`` and its manifest.

Source of the folding rules: onnxscript's optimiser would fold a weight's Transpose into a copy;
:func:`_may_fold` refuses that, so every weight keeps its parameter's name and layout in the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common as passes

import ropeexport
from ropeexport import atomic, manifest, onnx_contract, onnx_file, sources
from ropeexport.errors import ExportError, UsageError
from ropeexport.example import Example, all_axes, checked, traceable_inputs
from ropeexport.manifest import Manifest, ModelRecord, Source
from ropeexport.onnx_ops import names
from ropeexport.onnx_ops.bodies import apply_rope_function
from ropeexport.onnx_ops.rope_table import rope_table_function
from ropeexport.onnx_ops.translation import translation_table

DEFAULT_OPSET = names.MIN_OPSET
_INLINE_LIMIT_BYTES = 1 << 30  # a protobuf file ends at 2 GiB
_DTYPE_NAMES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}
_FOLD_INPUT_LIMIT = 8192  # elements; larger constants are weights and tables, not shapes
_FOLD_OUTPUT_LIMIT = 262144


def export_model(
    request: sources.Request, folder: Path, *, opset: int = DEFAULT_OPSET, force: bool = False
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
    return export_example(example, source, folder, opset=opset, force=force)


def export_example(
    example: Example,
    source: Source,
    folder: Path,
    *,
    opset: int = DEFAULT_OPSET,
    force: bool = False,
) -> Manifest:
    """Export an :class:`Example` into an output folder, see :func:`export_model`."""
    path = folder / manifest.MODEL_NAME
    atomic.refuse_existing(path, force)
    model = onnx_model(example, source, opset=opset)
    _save(model, path)
    record = _manifest(example, source, path)
    manifest.write(folder, record)
    return record


def onnx_model(example: Example, source: Source, *, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Trace a module and return its model with function bodies, names and metadata in place."""
    newest = onnx.defs.onnx_opset_version()
    if not names.MIN_OPSET <= opset <= newest:
        raise UsageError(
            f"opset: expected {names.MIN_OPSET} (the first with Attention and RotaryEmbedding) "
            f"to {newest} (the newest of onnx {onnx.__version__}), got {opset}"
        )
    model = _trace(checked(example), opset)
    _simplify(model)
    _attach_functions(model, opset)
    _annotate(model, example, source)
    onnx_contract.check_dynamic(model, example.dynamic_axes)
    return model


def _trace(example: Example, opset: int) -> ir.Model:
    dynamic_shapes = {
        name: {
            axis: torch.export.Dim(label)
            for axis, label in example.dynamic_axes.get(name, {}).items()
        }
        for name in example.inputs
    }
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                example.module,
                kwargs=traceable_inputs(example),
                dynamo=True,
                opset_version=opset,
                optimize=False,
                verbose=False,
                dynamic_shapes=dynamic_shapes,
                output_names=list(example.outputs) or None,
                custom_translation_table=translation_table(),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"{type(example.module).__name__}: {_cause(error)}") from error
    assert program is not None  # only the old exporter returns None
    written = program.model.opset_imports[""]
    if written != opset:
        raise UsageError(
            f"opset: torch {torch.__version__} and this onnxscript cannot write {opset} "
            f"(they wrote {written}); choose an older one, {names.MIN_OPSET} or later"
        )
    return program.model


def _simplify(model: ir.Model) -> None:
    """Fold constants and drop what is unused.

    Neither rewriting rules (their matching is quadratic in a large graph) nor a merge of equal
    initializers (two norms both full of ones are two parameters) belong here.
    """
    onnxscript.optimizer.fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=_FOLD_INPUT_LIMIT,
        output_size_limit=_FOLD_OUTPUT_LIMIT,
        should_fold=_may_fold,
    )
    ir.passes.Sequential(
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedOpsetsPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def _may_fold(node: ir.Node) -> bool | None:
    """Refuse to fold what stands for a weight in another layout or type; else the usual rules."""
    reads_weight = any(value is not None and value.is_initializer() for value in node.inputs)
    return False if reads_weight and node.op_type in ("Transpose", "Cast", "Reshape") else None


def _attach_functions(model: ir.Model, opset: int) -> None:
    used = {(node.domain, node.op_type) for node in model.graph.all_nodes()}
    bodies = {
        names.APPLY_ROPE: apply_rope_function,
        names.ROPE_TABLE: rope_table_function,
    }
    for name, make in bodies.items():
        if (names.DOMAIN, name) in used:
            function = ir.serde.deserialize_function(make(opset))
            model.functions[function.identifier()] = function
    if any(domain == names.DOMAIN for domain, _ in used):
        model.opset_imports[names.DOMAIN] = names.DOMAIN_VERSION


def _annotate(model: ir.Model, example: Example, source: Source) -> None:
    """Name the graph's parts, make source paths relative and say what made the file."""
    onnx_contract.name_nodes(model)
    onnx_contract.make_paths_relative(model)
    if not example.outputs and len(model.graph.outputs) == 1:
        model.graph.outputs[0].name = "out"
    model.producer_name = "ropeexport"
    model.producer_version = ropeexport.__version__
    model.metadata_props.update(
        {
            "ropeexport.version": ropeexport.__version__,
            "ropeexport.contract": names.CONTRACT,
            "ropeexport.source": source.name,
            "ropeexport.module": type(example.module).__qualname__,
            "ropeexport.dtype": _data_type(model),
        }
    )


def _data_type(model: ir.Model) -> str:
    """Return fp32, fp16 or bf16 (or ONNX's name): the type of the data that is rotated."""
    ropes = [node for node in model.graph if node.op_type == names.APPLY_ROPE]
    dtype = (ropes[0] if ropes else model.graph).outputs[0].dtype
    return _DTYPE_NAMES.get(dtype, str(dtype)) if dtype is not None else "unknown"


def _save(model: ir.Model, path: Path) -> None:
    """Write the file whole or not at all; weights beyond a protobuf's reach go beside it."""
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    if size > _INLINE_LIMIT_BYTES:
        _save_with_data(model, path)
        return
    proto = ir.to_proto(model)
    onnx_contract.check(proto)
    atomic.write_bytes(path, proto.SerializeToString())


def _save_with_data(model: ir.Model, path: Path) -> None:
    data = f"{path.name}.data"
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        ir.save(model, written, external_data=data)
        onnx_contract.check_file(written)
        written.with_name(data).replace(path.with_name(data))
        written.replace(path)


def _manifest(example: Example, source: Source, path: Path) -> Manifest:
    model = onnx_file.load(path, external_data=False)
    return Manifest(
        ropeexport=ropeexport.__version__,
        source=source,
        model=ModelRecord(
            file=path.name,
            sha256=atomic.sha256_of(path),
            opset=onnx_file.opset(model),
            dtype=onnx_file.metadata(model)["ropeexport.dtype"],
            inputs=onnx_file.input_specs(model),
            outputs=onnx_file.output_specs(model),
            ropes=tuple(node.name for node in onnx_file.rope_nodes(model)),
        ),
        axes=all_axes(example),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes to its own developers; its errors are raised, not logged."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """Return the first line of the error at the root, which names what torch could not trace."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines: list[Any] = str(error).strip().splitlines()
    return f"cannot be traced: {lines[0] if lines else type(error).__name__}"
