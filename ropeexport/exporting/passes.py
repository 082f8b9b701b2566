"""From a graph to what is written: two lists of the same passes, of a traced module and of a file.

A pass changes the model in memory and says in words what it did; nothing is written or read between
two of them.  ``export --verbose`` and ``fuse --verbose`` print them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

import ropeexport
from ropeexport.dtypes import short_name
from ropeexport.errors import (
    ExportError,
    ModelFileError,
    RopeExportError,
    UsageError,
    first_line,
)
from ropeexport.exporting.chatter import quiet
from ropeexport.exporting.foreign import bring_to_opset, infer_shapes, name_dimensions
from ropeexport.exporting.outer_products import write_products
from ropeexport.exporting.simplify import clean, fuse_norms, make_portable, simplify
from ropeexport.exporting.static import fix_axes, freeze_tables
from ropeexport.fusion.cached_attention import put_grouped
from ropeexport.fusion.fuse import Fused, fuse, unfused
from ropeexport.fusion.norm_ropes import put_norms
from ropeexport.manifest import RopeCount, Source
from ropeexport.onnx_files import contract
from ropeexport.onnx_files.variants import attach_functions, take_norms_apart
from ropeexport.ops import names
from ropeexport.ops.forms import form_of
from ropeexport.ops.op import Op, resolve
from ropeexport.ops.registry import OPS, used_by
from ropeexport.ops.rope_table import MAX_POSITION


@dataclass
class Work:
    """A model on its way, and what its passes are to know of it.

    Parameters
    ----------
    model : ir.Model
        As far as it is; passes change it in place or put another in its place.
    source : Source
        What it is made from.
    module : str
        The module's class, or the file's name.
    parameters : container of str
        Names of the weights, which keep their layout.
    dynamic_axes : dict
        Input name to ``{axis: name}``: what must be symbolic in the end.
    output_names : sequence of str
        Names of the outputs in the end; empty: they have their own.
    max_position : int
        The largest position that tables of angles must hold.
    requested : container of str
        Ops that are put into the model, of those that have to be asked for: what rotates, what
        norms before it, and what is for one runtime.
    fixed : dict of str to int or None
        Axes that become sizes; with tables that follow from sizes as constants.  None: neither.
    fused : Fused or None
        What became of its rotary applications, once they were looked for.
    norms : RopeCount or None
        What became of the norms before them; None: they were not looked for.
    """

    model: ir.Model
    source: Source
    module: str
    parameters: Container[str] = ()
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None
    output_names: Sequence[str] = ()
    max_position: int = MAX_POSITION
    requested: Container[str] = names.BY_DEFAULT
    fixed: Mapping[str, int] | None = None
    fused: Fused | None = None
    norms: RopeCount | None = None


@dataclass(frozen=True)
class Pass:
    """A step: its name, and what does it and says what it did; empty where there was nothing."""

    name: str
    apply: Callable[[Work], str | None]


Say = Callable[[str, str], None]  # of a pass, its name and what it did


def run(passes: Sequence[Pass], work: Work, say: Say | None = None) -> Work:
    """Apply passes in their order and return the work."""
    for step in passes:
        before = len(work.model.graph)
        did = step.apply(work) or ""
        after = len(work.model.graph)
        if say is not None:
            nodes = f"{before} nodes" if before == after else f"{before} to {after} nodes"
            say(step.name, f"{nodes}{': ' if did else ''}{did}")
    return work


def passed(passes: Sequence[Pass], work: Work, say: Say | None = None) -> Work:
    """Apply passes, what libraries say kept from the terminal; a fault of theirs becomes a line."""
    with quiet(prints=False) as heard:
        try:
            return run(passes, work, say)
        except RopeExportError:
            raise
        except Exception as error:
            raised = ModelFileError if work.source.kind == "onnx" else ExportError
            name = work.source.name if work.source.kind == "onnx" else work.module
            cause = error.__cause__ if isinstance(error, ir.passes.PassError) else None
            raise raised(
                f"{name}: its graph cannot be simplified: "
                f"{first_line(cause if isinstance(cause, Exception) else error)}; all that "
                f"onnxscript says is in {heard.saved(error)}",
                code="RX213",
            ) from error


def _opset(work: Work) -> str:
    before = work.model.opset_imports.get("", 0)
    bring_to_opset(work.model, work.source.name)
    after = work.model.opset_imports[""]
    return "" if before == after else f"opset {before} to {after}"


def _shapes(work: Work) -> None:
    name_dimensions(work.model)
    if work.fixed is not None:
        fix_axes(work.model, work.fixed)
    work.dynamic_axes = {
        str(value.name): {
            axis: str(dim) for axis, dim in enumerate(value.shape) if not isinstance(dim, int)
        }
        for value in work.model.graph.inputs
        if value.shape is not None and not value.is_initializer()
    }
    infer_shapes(work.model)


def _ropes(work: Work) -> str:
    if names.APPLY_ROPE not in work.requested:
        work.fused = unfused(work.model)
        work.model = work.fused.model
        return ""
    work.fused = fuse(work.model, max_position=work.max_position)
    work.model = work.fused.model
    count = work.fused.count
    return f"{count.replaced} of {count.found} rotary applications replaced"


def _norms(work: Work) -> str:
    if names.NORM_ROPE not in work.requested:
        return _counted(take_norms_apart(work.model), "norms apart from their ropes")
    work.norms = put_norms(work.model)
    return f"{work.norms.replaced} of {work.norms.found} in one op with their rope"


def _products(work: Work) -> str:
    return _counted(write_products(work.model), "outer products as products")


def _static(work: Work) -> str:
    count = 0 if work.fixed is None else freeze_tables(work.model)
    return _counted(count, "tables as constants")


def _portable(work: Work) -> str:
    count = make_portable(work.model)
    return _counted(count, "written in the way that onnxruntime has kernels for")


def _matching(op: Op) -> Pass:
    """Return the pass that puts an op in the place of what computes the same."""

    def apply(work: Work) -> str:
        if op.on_request and op.op_type not in work.requested:
            return ""
        count: int = resolve(op.matcher)(work.model)
        return _counted(count, f"{names.DOMAIN}::{op.op_type}")

    return Pass(op.op_type.lower(), apply)


def _grouped(work: Work) -> str:
    if names.GROUPED_ATTENTION not in work.requested:
        return ""
    count = put_grouped(work.model)
    if not count:
        raise UsageError(
            f"attention: expected one that onnxruntime's {names.GROUPED_ATTENTION} computes, "
            "found none: export it without gqa",
            code="RX118",
        )
    return _counted(count, names.GROUPED_ATTENTION)


def _names(work: Work) -> None:
    model = work.model
    for value, name in zip(model.graph.outputs, work.output_names, strict=False):
        value.name = name
    contract.name_nodes(model)
    contract.make_paths_relative(model)
    nodes = ((node.domain, node.op_type) for node in model.graph.all_nodes())
    model.producer_name = "ropeexport"
    model.producer_version = ropeexport.__version__
    model.metadata_props.update(
        {
            "ropeexport.version": ropeexport.__version__,
            "ropeexport.contract": " ".join(op.contract for op in used_by(nodes)),
            "ropeexport.source": work.source.name,
            "ropeexport.module": work.module,
            "ropeexport.dtype": _data_type(model),
        }
    )


def _dynamic(work: Work) -> str:
    axes = work.dynamic_axes or {}
    contract.check_dynamic(work.model, axes)
    found = dict.fromkeys(name for named in axes.values() for name in named.values())
    return ", ".join(found)


OPSET = Pass("opset", _opset)
SHAPES = Pass("shapes", _shapes)
SIMPLIFY = Pass("simplify", lambda work: simplify(work.model, work.parameters))
PRODUCTS = Pass("outer products", _products)
ROPES = Pass("ropes", _ropes)
FINISH = (
    Pass("static", _static),
    Pass("norms", lambda work: _counted(fuse_norms(work.model), "RMSNormalization")),
    Pass("norms and ropes", _norms),
    Pass("portable", _portable),
    Pass("clean", lambda work: clean(work.model)),
    *(_matching(op) for op in OPS if op.matcher),
    Pass("cached attention", _grouped),
    Pass("bodies", lambda work: ", ".join(attach_functions(work.model))),
    Pass("names", _names),
    Pass("dynamic axes", _dynamic),
)
EXPORT = (SIMPLIFY, PRODUCTS, ROPES, *FINISH)
FUSE = (OPSET, SHAPES, PRODUCTS, ROPES, *FINISH)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count else ""


def _data_type(model: ir.Model) -> str:
    """Return fp32, fp16 or bf16 (or NumPy's name): the type of the data that is rotated."""
    ropes = [node for node in model.graph if form_of(node.domain, node.op_type)]
    dtype = (ropes[0] if ropes else model.graph).outputs[0].dtype
    if dtype in (None, ir.DataType.UNDEFINED):
        return "unknown"
    return short_name(str(dtype.numpy()))
