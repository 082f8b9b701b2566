"""What the exporter is given: a module, inputs to trace it with, and which axes are dynamic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ropeexport.axes import names_of, solve, sum_of
from ropeexport.errors import UsageError
from ropeexport.manifest import Axis
from ropeexport.models.axes import default_axes, longest_of
from ropeexport.runners.module_state import ModuleState


@dataclass(frozen=True)
class Example:
    """A module ready to be traced.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, in the type that it is exported in.
    inputs : dict of str to Tensor
        By the names of ``forward``'s arguments, in order.
    dynamic_axes : dict
        Input name to ``{axis: name of the dynamic axis}``, e.g. ``{"q": {0: "batch"}}``, or to a
        sum of names, ``{"mask": {3: "past + length"}}`` (see :mod:`ropeexport.axes`).
    axes : dict of str to Axis
        Sizes that each dynamic axis is meant for; those left out get a range of
        :mod:`ropeexport.models.axes`.
    outputs : tuple of str
        Names of the outputs; empty: ``out``, or ``out0``, ``out1``, ...
    constants : dict of str to Any
        Further arguments of ``forward`` that are no tensors, or tensors in a list or a dict.
    weights : Path or None
        The folder of the safetensors files with the module's weights, where the module itself is
        a :func:`ropeexport.weights.skeleton.skeleton`.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic_axes: dict[str, dict[int, str]]
    axes: dict[str, Axis] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None


def checked(example: Example) -> Example:
    """Return the example with every axis's range.

    Raises
    ------
    UsageError
        For what cannot be exported as it is given.
    """
    _check_types(example)
    for name, axes in example.dynamic_axes.items():
        if name not in example.inputs:
            raise UsageError(
                f"dynamic axes: no input {name!r}; the example has {', '.join(example.inputs)}"
            )
        rank = example.inputs[name].ndim
        for axis, label in axes.items():
            if not all(part.isidentifier() for part in sum_of(label).names):
                raise UsageError(
                    f"dynamic axes: {name}: expected a name like batch, or a sum of names like "
                    f"'past + length' or '8*blocks', got {label!r}"
                )
            if not 0 <= axis < rank:
                raise UsageError(
                    f"dynamic axes: {name}: expected an axis in 0..{rank - 1}, got {axis}"
                )
    return replace(example, axes=all_axes(example))


def example_sizes(example: Example) -> dict[str, int]:
    """Return the size of each dynamic axis in an example's inputs.

    Raises
    ------
    UsageError
        Where two inputs disagree, or an axis is in sums alone that do not tell its size.
    """
    labels = [
        (label, example.inputs[name].shape[axis], name)
        for name, axes in example.dynamic_axes.items()
        for axis, label in axes.items()
    ]
    sizes = solve(labels, "dynamic axes")
    unknown = [name for name in names_of(label for label, _, _ in labels) if name not in sizes]
    if unknown:
        raise UsageError(
            f"dynamic axes: axis {unknown[0]!r}: expected an input that has it alone; it is only "
            "in sums with others, which do not tell its size"
        )
    return sizes


def _check_types(example: Example) -> None:
    for name, x in example.inputs.items():
        if not isinstance(x, Tensor):
            raise UsageError(
                f"{name}: expected a tensor, got {type(x).__name__}; "
                "make each tensor an argument of forward of its own"
            )
    tensors = {**example.inputs, **dict(example.module.named_parameters())}
    wide = [name for name, x in tensors.items() if x.dtype is torch.float64]
    if wide:
        raise UsageError(
            f"{wide[0]}: expected float32, float16 or bfloat16, got float64, "
            "which no production runtime rotates in; call .float() on the module and its inputs"
        )


def all_axes(example: Example) -> dict[str, Axis]:
    """Return every dynamic axis: as the example gives it, or a range that a user would expect."""
    shapes = {
        name: [
            example.dynamic_axes.get(name, {}).get(axis, size) for axis, size in enumerate(x.shape)
        ]
        for name, x in example.inputs.items()
    }
    defaults = default_axes(shapes, example_sizes(example), longest_of(example.module))
    return {**example.axes, **{n: axis for n, axis in defaults.items() if n not in example.axes}}


def traceable_inputs(example: Example) -> dict[str, Tensor]:
    """Return the inputs with each dynamic axis at least 2 long.

    torch.export takes an example size of 0 or 1 for a constant, and would freeze the axis.
    """
    sizes = {name: max(2, size) for name, size in example_sizes(example).items()}
    return {
        name: _resized(x, example.dynamic_axes.get(name, {}), sizes)
        for name, x in example.inputs.items()
    }


def _resized(x: Tensor, axes: dict[int, str], sizes: dict[str, int]) -> Tensor:
    """Repeat what there is along an axis until it has its size; nothing becomes zeros."""
    for axis, label in axes.items():
        size, wanted = x.shape[axis], sum_of(label).at(sizes)
        if size == 0:
            x = x.new_zeros([*x.shape[:axis], wanted, *x.shape[axis + 1 :]])
        elif size != wanted:
            x = x.index_select(axis, torch.arange(wanted, device=x.device) % size)
    return x


class _Bound(nn.Module):
    """A module with the constant arguments of its example."""

    def __init__(self, module: nn.Module, constants: dict[str, Any]) -> None:
        super().__init__()
        self.module = module
        self._constants = constants

    def forward(self, **inputs: Tensor) -> Any:
        return self.module(**inputs, **self._constants)


def bound(example: Example) -> nn.Module:
    """Return a module that takes the example's inputs alone."""
    return _Bound(example.module, example.constants) if example.constants else example.module


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Have a module in evaluation mode for a while, then each part as it was, on its device."""
    modes = [(part, part.training) for part in module.modules()]
    devices = list({x.device for x in module.parameters()})
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        if len(devices) == 1 and next(module.parameters()).device not in devices:
            module.to(devices[0])


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put back what a module holds, whatever a trace or a call has left in it.

    A forward that stores a tensor in its module (transformers' longrope, a table kept for the next
    call) stores a fake one while it is traced, and would compute with that afterwards.
    """
    state = ModuleState(module)
    try:
        yield
    finally:
        state.restore()
