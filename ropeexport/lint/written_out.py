"""Rotary applications that a file has written out, found by the recognition of ``fuse``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ropeexport.lint.rule import Rule
from ropeexport.onnx_files.onnx_file import is_rope, load
from ropeexport.ops.forms import form_of


def _written_out(path: Path) -> Iterator[str]:
    from ropeexport.exporting.fuse_file import replaced

    nodes = load(path, external_data=False).graph.node
    own = {node.output[0] for node in nodes if is_rope(node) or node.op_type == "RotaryEmbedding"}
    for node in replaced(path).graph:
        made = node.outputs[0].name
        if form_of(node.domain, node.op_type) is not None and made not in own:
            yield str(made)


WRITTEN_OUT: Rule[Path] = Rule(
    "rope-written-out",
    "warning",
    "rotary applications that are written out, and could each be one op",
    "run 'ropeexport fuse FILE -o DIR'",
    _written_out,
)
