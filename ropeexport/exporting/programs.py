"""From a module to torch's program of it, which holds for all that its axes may be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ropeexport.axes import names_of, sum_of
from ropeexport.errors import AxisRangeError, ExportError, RopeExportError
from ropeexport.exporting.emptiness import all_at_once, is_same, sizes_of_nothing
from ropeexport.exporting.fitting import check_fits, explain
from ropeexport.exporting.guards import Guard, listening
from ropeexport.exporting.known import fixed_known
from ropeexport.exporting.numbers import lengths_kept, sizes_kept
from ropeexport.manifest import Axis
from ropeexport.models.example import (
    Example,
    traceable_arguments,
    traceable_sizes,
    unchanged,
)
from ropeexport.models.hub.packed import traceable_towers
from ropeexport.models.hub.traceable import traceable_experts, traceable_ropes
from ropeexport.models.input_tree import shaped
from ropeexport.models.wrappers import named_forward, ordinary_weights


@contextmanager
def traceable(module: nn.Module) -> Iterator[None]:
    """Have a module as torch.export takes it for a while."""
    ways = (ordinary_weights, traceable_ropes, traceable_experts, traceable_towers, lengths_kept)
    with ExitStack() as stack, _roots(), _unasked_distributions():
        for way in ways:
            stack.enter_context(way(module))
        yield


@contextmanager
def _roots() -> Iterator[None]:
    """Let NumPy take the square root of a ratio of sizes, as Cosmos does: it asks its argument."""
    had = hasattr(torch.SymFloat, "sqrt")
    if not had:
        torch.SymFloat.sqrt = torch.sym_sqrt  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if not had:
            del torch.SymFloat.sqrt  # type: ignore[attr-defined]


@contextmanager
def _unasked_distributions() -> Iterator[None]:
    """Let torch's distributions take their arguments unasked, as under ``python -O``."""
    distribution: Any = torch.distributions.Distribution
    former = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distribution.set_default_validate_args(former)


_FIXES = "RX203"  # a module takes one size alone


def exported_program(example: Example) -> torch.export.ExportedProgram:
    """Return the program of an example; where it fixes a size, of one that keeps what it computes.

    An error is the first trace's.
    """
    try:
        return _exported_somewhere(example)
    except Exception as error:
        fixes = isinstance(error, ExportError) and error.code == _FIXES
        if not fixes and "data-dependent" not in str(error):
            raise
        kept = _kept(example, next(traceable_sizes(example)))
        if kept is None:
            raise
        return kept


def _exported_somewhere(example: Example) -> torch.export.ExportedProgram:
    """Return the program of an example, at the first of the sizes that its module takes."""
    first: Exception | None = None
    for sizes in traceable_sizes(example):
        try:
            return _exported_at(example, sizes)
        except RopeExportError:
            raise
        except Exception as error:  # of the module's own code, which may like others better
            first = first or error
    assert first is not None  # there is a size
    raise first


def _exported_at(
    example: Example, sizes: Mapping[str, int], *, freely: bool = False, keeps: bool = False
) -> torch.export.ExportedProgram:
    """Return the program of an example at some sizes, if it holds for all that its axes may be.

    torch refuses guards that it cannot prove; where they hold at every size, the trace is made
    again, ``freely``, of which torch demands no proof.  Where Python fixed one, the trace is one
    that ``keeps`` it.  A question whether there is anything is passed over where the trace holds of
    nothing too (:mod:`ropeexport.exporting.emptiness`).
    """
    arguments, shapes = traceable_arguments(example, sizes), dynamic_shapes(example, sizes, freely)
    with listening() as guards:
        try:
            program = _traced(example, arguments, shapes)
        except Exception as error:
            if freely or not _OF_SIZES.search(str(error)):
                raise
            found = guards.found(example)
            if not keeps and any(guard.cuts_off for guard in found):
                kept = _kept(example, sizes)
                if kept is not None:
                    return kept
            nothing = sizes_of_nothing(example, found, sizes)
            others = [guard for guard in found if guard not in nothing]
            explain(example, others, sizes, suggestion(error))
            try:
                return _exported_at(example, sizes, freely=True, keeps=keeps)
            except RopeExportError:
                raise
            except Exception:
                explain(example, found, sizes, suggestion(error))
                raise
    found = _that_count(example, program, guards.found(example), sizes)
    check_fits(example, found, sizes)
    if freely:
        explain(example, found, sizes, "")
    return program


def _traced(
    example: Example, arguments: dict[str, Any], shapes: Any = None
) -> torch.export.ExportedProgram:
    """Return torch's program of a module, and leave it as it was.

    A table that forward keeps for the next call is a fake one, and would be the next trace's.
    """
    module = example.module
    with named_forward(module, arguments), unchanged(module):
        return torch.export.export(module, (), arguments, dynamic_shapes=shapes, strict=False)


def _that_count(
    example: Example,
    program: torch.export.ExportedProgram,
    found: list[Guard],
    traced: Mapping[str, int],
) -> list[Guard]:
    """Return the guards of a program, but for questions whether there is anything.

    Those count where the program is another one of nothing.
    """
    nothing = sizes_of_nothing(example, found, traced)
    if not nothing:
        return found
    programs = [program]
    for sizes in all_at_once(nothing, traced):
        arguments = traceable_arguments(example, sizes)
        try:
            programs.append(_traced(example, arguments))
        except Exception:  # of the module's own code, which does not take these sizes
            return found
    return [guard for guard in found if guard not in nothing] if is_same(programs) else found


def _kept(example: Example, sizes: Mapping[str, int]) -> torch.export.ExportedProgram | None:
    """Return the program of a trace that keeps what Python computes of sizes; None: there is none.

    Raises
    ------
    AxisRangeError
        With the sizes that it takes.
    """
    try:
        with fixed_known(example), sizes_kept(example.module):
            return _exported_at(example, sizes, keeps=True)
    except AxisRangeError:
        raise
    except Exception:  # what the first trace says is nearer to the module's code
        return None


def dynamic_shapes(
    example: Example, sizes: Mapping[str, int] | None = None, freely: bool = False
) -> dict[str, Any]:
    """Return torch.export's ``dynamic_shapes`` of an example, each axis with its own bounds.

    Parameters
    ----------
    example : Example
        With the ranges of its axes.
    sizes : mapping of str to int
        Of the axes in the trace, where they are not the first of
        :func:`~ropeexport.models.example.traceable_sizes`.
    freely : bool
        Without names, so that torch proves nothing of them.
    """
    sizes = sizes if sizes is not None else next(traceable_sizes(example))
    labels = [label for axes in example.tensor_axes.values() for label in axes.values()]
    bounds = {
        name: _dim(name, example.axes.get(name), sizes[name], freely) for name in names_of(labels)
    }
    dims = {label: _sum(label, bounds, freely) for label in labels}
    shapes = iter(
        {axis: dims[label] for axis, label in example.tensor_axes.get(name or "", {}).items()}
        or None
        for name in example.tree.names
    )
    made: dict[str, Any] = shaped(dict(example.inputs), lambda _: next(shapes))
    return made | {name: shaped(value, lambda _: None) for name, value in example.constants.items()}


def _dim(name: str, limit: Axis | None, size: int, freely: bool) -> Any:
    """Return a dynamic axis; its largest size lets a table of so many rows be cut to it.

    torch takes every axis for 2 or longer, so a smallest size below 3 says nothing.
    """
    make = torch.export.Dim.DYNAMIC if freely else partial(torch.export.Dim, name)
    if limit is None or limit.max < size:
        return make()
    smallest = limit.min if 2 < limit.min <= size else None
    return make(min=smallest, max=limit.max)


def _sum(label: str, bounds: Mapping[str, Any], freely: bool) -> Any:
    """Return the dynamic axis of a sum; torch has none of several and finds the relation."""
    total = sum_of(label)
    if len(total.terms) != 1 or (freely and label not in bounds):
        return torch.export.Dim.DYNAMIC
    ((name, factor),) = total.terms
    made = bounds[name] if factor == 1 else factor * bounds[name]
    return made + total.constant if total.constant else made


# what torch's tracer raises where the sizes are why
_OF_SIZES = re.compile(r"Constraints violated|Specializations unexpectedly|Cannot create Dim")
_SUGGESTED = re.compile(r"Suggested fixes:\n((?:  .+\n?)+)")


def suggestion(error: Exception) -> str:
    """Return what torch suggests itself, for the middle of a message."""
    match = _SUGGESTED.search(str(error))
    fixes = "; ".join(" ".join(line.split()) for line in match[1].splitlines()) if match else ""
    return f" (torch: {fixes})" if fixes else ""
