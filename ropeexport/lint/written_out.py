"""Rotary applications that a file has written out, found by the recognition of ``fuse``."""

from __future__ import annotations

from collections.abc import Iterator

from ropeexport.lint.graph_rules import is_rotary
from ropeexport.lint.rule import Rule
from ropeexport.onnx_files.onnx_file import OnnxFile, is_rope
from ropeexport.ops.forms import form_of


def _written_out(file: OnnxFile) -> Iterator[str]:
    from ropeexport.exporting.fuse_file import replaced

    own = {node.outputs[0].name for node in file.graph.graph if is_rope(node) or is_rotary(node)}
    for node in replaced(file).graph:
        made = node.outputs[0].name
        if form_of(node.domain, node.op_type) is not None and made not in own:
            yield str(made)


WRITTEN_OUT: Rule[OnnxFile] = Rule(
    "rope-written-out",
    "warning",
    "rotary applications that are written out, and could each be one op",
    "run 'ropeexport fuse FILE -o DIR'",
    _written_out,
)
