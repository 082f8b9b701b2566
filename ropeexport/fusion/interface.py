"""A model's interface, which no rewrite moves: names, types and shapes of what goes in and out."""

from __future__ import annotations

import onnx_ir as ir

from ropeexport.onnx_files.shapes import is_unknown


def keep_interface(before: ir.Model, after: ir.Model) -> None:
    """Give inputs and outputs the names and shapes that they had, in place.

    Where an op's own result has taken the place of an output, it gets that name.
    """
    named = {value.name: value for node in after.graph for value in node.outputs}
    for old, new in zip(before.graph.outputs, after.graph.outputs, strict=True):
        if new.name != old.name:
            replaced = named.get(old.name)
            if replaced is not None:  # nothing reads it
                replaced.name = f"{old.name}_replaced"
            new.name = old.name
    for sides in (
        (before.graph.inputs, after.graph.inputs),
        (before.graph.outputs, after.graph.outputs),
    ):
        for old, new in zip(*sides, strict=True):
            if old.shape is not None and not any(map(is_unknown, old.shape)):
                new.shape = old.shape
