"""Applications that a file has as ONNX's own ``RotaryEmbedding`` already."""

from __future__ import annotations

import onnx_ir as ir

from ropeexport.fusion.applications import Application
from ropeexport.fusion.layout import Layout
from ropeexport.fusion.probe import Entry, Rotary, Selection
from ropeexport.fusion.regions import Region
from ropeexport.fusion.twins import Twins
from ropeexport.manifest import Refusal
from ropeexport.operators import is_standard
from ropeexport.ops.forms import ROTARY_SIZE, pairing_of_rotary

# its tables are (B, L, P) and know no heads, as the op's
_LAYOUT = Layout(4, (0, 1, 2, 3), (), None)


def find_native(graph: ir.Graph, twins: Twins) -> tuple[list[Application], list[Refusal]]:
    """Return the ``RotaryEmbedding`` nodes as applications, and those that have no op."""
    found, refused = [], []
    for node in graph:
        if is_standard(node, "RotaryEmbedding"):
            reason = _reason_against(node)
            if reason is None:
                found.append(_application(node, twins))
            else:
                name = str(node.name or node.outputs[0].name)
                refused.append(Refusal(node=name, reason=f"RotaryEmbedding {reason}"))
    return found, refused


def _reason_against(node: ir.Node) -> str | None:
    x, cos, sin = node.inputs[:3]
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return "with position ids, which index its tables"
    if x is None or x.shape is None or len(x.shape) != 4:
        return "on data that is not known to be (B, H, L, D)"
    known = all(table is not None and table.shape is not None for table in (cos, sin))
    return None if known else "with tables of unknown shape"


def _application(node: ir.Node, twins: Twins) -> Application:
    x, cos, sin = node.inputs[:3]
    assert x is not None
    assert cos is not None
    assert sin is not None
    whole = Selection("all")
    cosine, sine = (twins.first_of(table) for table in (cos, sin))
    entries = (
        Entry(cosine, whole, 1.0),
        Entry(sine, whole, -1.0),
        Entry(sine, whole, 1.0),
        Entry(cosine, whole, 1.0),
    )
    root = node.outputs[0]
    pairing = pairing_of_rotary(node.attributes.get_int("interleaved", 0))
    rotary = Rotary(Region(root, x, (cos, sin)), pairing, entries, True)
    return Application(rotary, _LAYOUT, x, root, _rotary_size(node, x))


def _rotary_size(node: ir.Node, x: ir.Value) -> int | None:
    """Return the part of a head that is rotated; None: all of it."""
    size = node.attributes.get_int(ROTARY_SIZE, 0)
    assert x.shape is not None  # asked before
    return size if size not in (0, x.shape[3]) else None
