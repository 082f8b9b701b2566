"""Which tensors of an exported graph are also values of the torch program, by name.

The exporter names an ONNX value after the program's node that it stands for, and says in the ONNX
node's metadata which node that was; where both agree, the two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from ropeexport.locate.tap import STACK, Tap, source_line
from ropeexport.manifest import TensorSpec
from ropeexport.ops import names

_FX_NODE = "pkg.torch.onnx.fx_node"


def taps_of(
    model: ir.Model,
    returned: Mapping[str, int],
    outputs: Sequence[str],
    specs: Sequence[TensorSpec],
) -> list[Tap]:
    """Return the taps of a freshly exported model, in the order of its graph.

    Parameters
    ----------
    model : ir.Model
        As :func:`ropeexport.exporting.exporter.onnx_model` returns it.
    returned : mapping of str to int
        The names of the program's nodes, and how many tensors each returns; 0 for what is none.
    outputs : sequence of str
        The nodes whose values the program returns: the file's outputs, whatever their names.
    specs : sequence of TensorSpec
        Of the file's outputs.
    """
    inner = [tap for node in model.graph for tap in _of_node(node, returned)]
    own = {
        spec.name: Tap(spec, node, None, _source_of_value(value))
        for value, node, spec in zip(model.graph.outputs, outputs, specs, strict=True)
    }
    return [*(tap for tap in inner if tap.tensor not in own), *own.values()]


def _source_of_value(value: ir.Value) -> str:
    node = value.producer()
    return _source_of(node) if node is not None else ""


def _source_of(node: ir.Node) -> str:
    return source_line(node.metadata_props.get(STACK, ""))


def _of_node(node: ir.Node, returned: Mapping[str, int]) -> Iterator[Tap]:
    made_by = _fx_name(node)
    source = _source_of(node)
    ours = node.domain == names.DOMAIN and returned.get(made_by, 0) == len(node.outputs)
    for item, value in enumerate(node.outputs):
        spec, name = _spec(value), str(value.name)
        if spec is None:
            continue
        if ours:  # the op itself, under names of its own
            yield Tap(spec, made_by, item if len(node.outputs) > 1 else None, source)
            continue
        # a part of a node that returns several has a node of its own, with the value's name
        if returned.get(name) == 1 and (name == made_by or returned.get(made_by, 0) > 1):
            yield Tap(spec, name, None, source)


def _spec(value: ir.Value) -> TensorSpec | None:
    """Return the type and shape of a tensor; None for what cannot be compared."""
    if value.dtype in (None, ir.DataType.BOOL) or not value.shape:
        return None
    dims = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)
    # never "rotated": what a rope in the middle of a graph rotates has been rounded before
    return TensorSpec(name=str(value.name), dtype=str(value.dtype.numpy()), shape=dims)


def _fx_name(node: ir.Node) -> str:
    text = str(node.metadata_props.get(_FX_NODE, ""))
    return text.partition(":")[0].strip().removeprefix("%")
