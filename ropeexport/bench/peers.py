"""The same module without ropeexport: what its user would export and run instead.

Plain torch operations, or no rope at all: ropeexport's ops are replaced, in the exported program,
by the reference maths (or by nothing), so that torch.compile and a plain ``torch.onnx.export`` see
what a user without ropeexport has.

optimum-onnx's export of a model of transformers or diffusers: it holds transformers back to a
version that ropeexport's own models have left, so its command is run from an environment of its
own: ``make optimum`` puts it into the checkout's ``build/optimum``, and ``ROPEEXPORT_OPTIMUM``
names another one.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropeexport.child_process import safe_environment
from ropeexport.errors import ExportError, MissingError, first_line
from ropeexport.exporting.chatter import quiet
from ropeexport.exporting.naming import name_inputs
from ropeexport.exporting.programs import dynamic_shapes
from ropeexport.models.example import Example, all_axes, traceable_arguments
from ropeexport.ops.op import resolve
from ropeexport.ops.registry import OPS

VARIABLE = "ROPEEXPORT_OPTIMUM"
_OPSET = 23
# of this checkout, never of the current folder: it is run
_OPTIMUM = Path(__file__).parents[2] / "build/optimum/bin/optimum-cli"
_OPTIMUMS_OPSET = "18"  # the newest opset that its exporter writes


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
        raise MissingError(
            "the module calls no ropeexport.apply_rope that could be left out", code="RX709"
        )
    alone = {rotation: lambda q, k, pe: (q.clone(), k.clone())}
    _export(_decomposed(program, alone), example, path)


def export_with_optimum(module: nn.Module, target: Path) -> None:
    """Save a model, export it in optimum's environment and move the file to ``target``.

    Raises
    ------
    MissingError
        Where the environment is missing, or the module is none of transformers' or diffusers'.
    ExportError
        With the last line that was said, where the export fails.
    """
    command = os.environ.get(VARIABLE) or (str(_OPTIMUM) if _OPTIMUM.is_file() else "")
    if not command:
        raise MissingError(
            f"optimum-onnx needs an environment of its own: run 'make optimum', or set {VARIABLE} "
            "to its optimum-cli",
            code="RX901",
        )
    library = type(module).__module__.partition(".")[0]
    if library not in ("transformers", "diffusers"):
        raise MissingError(
            "optimum-onnx exports whole models of transformers and diffusers; this is none",
            code="RX709",
        )
    saved, made = target.parent / "optimum-in", target.parent / "optimum-out"
    made.mkdir(exist_ok=True)
    module.save_pretrained(str(saved))  # type: ignore[operator]  # neither library has types
    if library == "transformers":
        words: list[str | Path] = [command, "export", "onnx", "--task", "feature-extraction"]
        words += ["--model", saved, "--opset", _OPTIMUMS_OPSET, made]
    else:
        script = Path(__file__).with_name("optimum_diffusers.py")
        words = [Path(command).with_name("python"), "-I", script, saved, made / "model.onnx"]
    safe = safe_environment(os.environ)
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=safe)
    shutil.rmtree(saved)
    if not (made / "model.onnx").is_file():
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ExportError(f"optimum-onnx: {first_line(RuntimeError(lines[-1]))}", code="RX709")
    for path in made.iterdir():
        if path.name.startswith("model.onnx"):
            path.replace(target.parent / path.name.replace("model.onnx", target.name))


def plain_program(example: Example) -> torch.export.ExportedProgram:
    """Return a module's program in plain torch operations."""
    return _decomposed(_exported(example))


def _exported(example: Example) -> torch.export.ExportedProgram:
    plain = _without_broadcasts(example)
    arguments, shapes = traceable_arguments(plain), dynamic_shapes(plain)
    with quiet(), torch.no_grad():
        return torch.export.export(plain.module, (), arguments, dynamic_shapes=shapes, strict=False)


def _decomposed(
    program: torch.export.ExportedProgram, instead: dict[Any, Callable[..., Any]] | None = None
) -> torch.export.ExportedProgram:
    """Return a program with each torch op of ropeexport's in torch's own operators."""
    table = {each.overload: resolve(each.plain) for op in OPS for each in op.torch_ops}
    with quiet():
        found: torch.export.ExportedProgram = program.run_decompositions(table | (instead or {}))
    return found


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
