"""Hold a traced graph to its module, at other sizes than those of the trace, before it is written.

An operator that is written wrongly for sizes that move, or Python that decides by them, makes a
file that is right at the example's sizes alone, and all that follows is held to that graph.  Both
are run once in float32 on the same inputs.  The bound is a coarse one: what is wrong here is wrong
altogether, and ``ropeexport check`` is there for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ropeexport.errors import ExportError
from ropeexport.exporting.whole_graph import evaluated_in_float32, has_halves, is_compared
from ropeexport.manifest import Axis, TensorSpec
from ropeexport.models.example import Example, bound, example_sizes, with_paths_and_roles
from ropeexport.onnx_files import contract
from ropeexport.parity.cases import Case, Space, work_of
from ropeexport.parity.inputs import make_inputs
from ropeexport.runners.eager import ModuleCalls
from ropeexport.weights.references import is_fake

_SIZES = (3, 5, 2, 7, 4)  # unlike each other, and mostly unlike the trace's
_MOST_WORK = 2e9  # multiply-adds
_MOST_NODES = 5_000
_BOUND = 0.1  # of the values' root mean square


def check_traced(example: Example, model: ir.Model, final: ir.Model) -> None:
    """Raise where a graph as it was traced is another than its module at other sizes.

    Parameters
    ----------
    example : Example
        With a range for each axis; of one without values nothing is run.
    model : ir.Model
        As it was traced, with the bodies of its functions.
    final : ir.Model
        As it will be written, which says what its inputs hold.

    Raises
    ------
    ExportError
        With the output, the sizes, and by how much it is off.
    """
    specs = with_paths_and_roles(example, contract.input_specs(final))
    sizes = _sizes(example, specs)
    if sizes is None or not _is_light(example, model, specs, sizes):
        return
    inputs = make_inputs(Case("", "flux positions", sizes, seed=0), specs)
    names = [str(value.name) for value in model.graph.outputs]
    expected = _eager(example, inputs, names)
    found = evaluated_in_float32(model, inputs) if expected is not None else None
    if expected is None or found is None:
        return
    for name, x in zip(names, found, strict=True):
        _check(example, name, np.asarray(x), expected[name], sizes)


def _sizes(example: Example, specs: tuple[TensorSpec, ...]) -> dict[str, int] | None:
    """Return sizes within the ranges, of each axis another than in the example; None: none is."""
    traced = example_sizes(example)
    chosen = {
        name: _within(axis, size, traced.get(name, 0))
        for (name, axis), size in zip(example.axes.items(), cycle(_SIZES), strict=False)
    }
    options = Space(specs, example.axes, ()).broadcasts(chosen)
    found = dict(options[0]) if options else {}
    return found if any(found[name] != traced.get(name) for name in found) else None


def _within(axis: Axis, size: int, traced: int) -> int:
    size = min(max(size, axis.min), axis.max)
    if size == traced:
        size = size + 1 if size < axis.max else max(size - 1, axis.min)
    return size


def _is_light(
    example: Example, model: ir.Model, specs: tuple[TensorSpec, ...], sizes: Mapping[str, int]
) -> bool:
    if example.cache is not None or not is_compared(model) or has_halves(model):
        return False
    weights = (*example.module.parameters(), *example.module.buffers())
    is_small = sum(1 for _ in model.graph.all_nodes()) <= _MOST_NODES
    return is_small and not any(map(is_fake, weights)) and work_of(specs, sizes) <= _MOST_WORK


def _eager(example: Example, inputs: Any, names: list[str]) -> dict[str, NDArray[Any]] | None:
    """Return what the module gives, None where it takes no such numbers."""
    calls = ModuleCalls(bound(example), names, may_change_inputs=True)
    try:
        with torch.random.fork_rng(devices=()):
            row = calls.row([inputs])[0]
    except Exception:  # of the module's own code, at numbers that were drawn without knowing it
        return None
    finally:
        calls.state.restore()
    return {name: x.to(torch.float64).numpy() for name, x in row.items()}


def _check(
    example: Example, name: str, x: NDArray[Any], y: NDArray[Any], sizes: Mapping[str, int]
) -> None:
    both = x.shape == y.shape
    if both:
        x = np.asarray(x, np.float64)
        known = np.isfinite(x) & np.isfinite(y)
        error, size = (float(np.sqrt(np.mean(np.square(z[known])))) if known.any() else 0.0
                       for z in (x - y, y))  # fmt: skip
        if error <= _BOUND * size:
            return
    at = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    found = f"expected {y.shape}, got {x.shape}"
    if both:
        found = f"off by {error:.3g} on values of {size:.3g}, in root mean square"
    raise ExportError(
        f"{type(example.module).__name__}: output {name!r} of the traced graph is not the module's "
        f"at {at}: {found}; an operator was written for the example's sizes alone, so nothing was "
        "written: leave an axis out of dynamic_axes, and report it with the module",
        code="RX218",
    )
