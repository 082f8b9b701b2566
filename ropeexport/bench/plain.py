"""The same module without ropeexport: what plain torch operations, or no rope at all, would do.

ropeexport's ops are replaced, in the exported program, by the reference maths (or by nothing), so
that torch.compile and a plain ``torch.onnx.export`` see what a user without ropeexport has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropeexport.errors import MissingError
from ropeexport.exporting.naming import name_inputs
from ropeexport.exporting.tracing import dynamic_shapes, quiet
from ropeexport.models.example import Example, all_axes, traceable_arguments
from ropeexport.ops.op import resolve
from ropeexport.ops.registry import OPS

_OPSET = 23


def export_plain(example: Example, path: Path) -> None:
    """Write what plain ``torch.onnx.export`` makes of a module."""
    _export(plain_program(example), example, path)


def export_without_rope(example: Example, path: Path) -> None:
    """Write the module without its rotations: what the rope costs is the distance to it.

    Raises
    ------
    MissingError
        Where the module calls no ``ropeexport.apply_rope`` that could be left out.
    """
    program = _exported(example)
    rotation = torch.ops.ropeexport.apply_rope.default
    if not any(node.target is rotation for node in program.graph.nodes):
        raise MissingError("the module calls no ropeexport.apply_rope that could be left out")
    _export(_decomposed(program, _plain_ops() | {rotation: _left_alone}), example, path)


def plain_program(example: Example) -> torch.export.ExportedProgram:
    """Return a module's program in plain torch operations."""
    return _decomposed(_exported(example), _plain_ops())


def _plain_ops() -> dict[Any, Callable[..., Any]]:
    """Return what each torch op of ropeexport's is in torch's own operators."""
    torch_ops = (torch_op for op in OPS for torch_op in op.torch_ops)
    return {torch_op.overload: resolve(torch_op.plain) for torch_op in torch_ops}


def _exported(example: Example) -> torch.export.ExportedProgram:
    plain = _without_broadcasts(example)
    with quiet(), torch.no_grad():
        return torch.export.export(
            plain.module,
            (),
            traceable_arguments(plain),
            dynamic_shapes=dynamic_shapes(plain),
            strict=False,
        )


def _decomposed(
    program: torch.export.ExportedProgram, table: dict[Any, Callable[..., Any]]
) -> torch.export.ExportedProgram:
    with quiet():
        decomposed: torch.export.ExportedProgram = program.run_decompositions(table)
    return decomposed


def _left_alone(q: Tensor, k: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    return q.clone(), k.clone()


def _export(program: torch.export.ExportedProgram, example: Example, path: Path) -> None:
    """Write a program with the names of the example's inputs, as ropeexport's own file has them."""
    with quiet():
        written = torch.onnx.export(program, dynamo=True, opset_version=_OPSET, verbose=False)
        assert written is not None  # only the old exporter returns None
        name_inputs(written.model, example, program)
        written.save(str(path), external_data=True)


def _without_broadcasts(example: Example) -> Example:
    """Return the example with axes that broadcast tied to what they broadcast to.

    Plain operations compare the sizes while they are traced: an axis that is either 1 or as large
    as another cannot stay open, so it is as large, or 1 where it broadcasts to a number.
    """
    axes = all_axes(example)
    tensors = dict(example.tensors)
    dynamic = {}
    for name, labels in example.tensor_axes.items():
        kept = {}
        for axis, label in labels.items():
            # a sum of axes is none of them, and broadcasts to nothing
            target = axes[label].broadcasts_to if label in axes else None
            if isinstance(target, int):
                tensors[name] = tensors[name].narrow(axis, 0, 1).contiguous()
            else:
                kept[axis] = target or label
        dynamic[name] = kept
    inputs = example.tree.filled(tensors)
    return dataclasses.replace(example, inputs=inputs, dynamic_axes=dynamic)
