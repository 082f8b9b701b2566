"""How much of a foreign graph is computed here: sizes are known before anything is made.

A file of a hundred bytes may ask for a range of 2^40 numbers, or for a loop without an end.
Whoever evaluates nodes asks here first; sizes are what onnx's own inference says of a node and
the values that it reads, so no operator's rule is written again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ropeexport.operators import is_standard

LARGEST = 1 << 26  # elements of one tensor: half a gigabyte in float64
_LARGEST_FOLDED = 1 << 22  # of a constant that may be kept
_MOST_STEPS = 1 << 19  # nodes that one run computes, those of a loop again in each round
_MOST_MADE = 1 << 30  # elements of one run: scores of a long sequence, node by node
_RATIO = 1 << 12  # or so many for each that it was given, weights included
_MOST_VALUES = 1 << 10  # elements of an input that says sizes; a larger one is data
# operators whose results may be larger than all that their inputs' shapes say
MAKERS = frozenset({
    "AffineGrid", "BlackmanWindow", "CenterCropPad", "Col2Im", "ConstantOfShape", "Conv",
    "ConvTranspose", "DFT", "Expand", "HammingWindow", "HannWindow", "MaxUnpool",
    "MelWeightMatrix", "Multinomial", "OneHot", "Pad", "RandomNormal", "RandomUniform", "Range",
    "Resize", "STFT", "Tile", "Upsample",
})  # fmt: skip

Maybe = NDArray[Any] | None


class TooLargeError(ValueError):
    """What a node would make is beyond the budget; the text says how much it is."""


def check_size(
    op_type: str, version: int, inputs: Sequence[Any], message: Callable[[], onnx.NodeProto]
) -> None:
    """Raise :class:`TooLargeError` where an operator of ONNX's own would make too large a tensor.

    Parameters
    ----------
    op_type : str
        The operator.
    version : int
        The opset.
    inputs : sequence
        Their values; what is no array is passed over.
    message : callable
        Returns the node's message, asked for only where the inputs do not say enough.
    """
    sizes = [x.size for x in inputs if isinstance(x, np.ndarray)]
    bound = max(sum(sizes), math.prod(size for size in sizes if size))
    if op_type not in MAKERS and bound <= LARGEST:
        return
    for size in made(message(), version, inputs):
        if size is None and op_type in MAKERS:
            raise TooLargeError(f"{op_type}: how much it makes is not known before")
        if size is not None and size > LARGEST:
            raise TooLargeError(
                f"{op_type}: it makes {counted(size)} elements, of which at most "
                f"{counted(LARGEST)} are computed here"
            )


def counted(count: int) -> str:
    """Return a count as text, a very large one in powers of ten."""
    return f"{count:,}" if count < 10**12 else f"{float(min(count, 10**300)):.0e}"


def made(node: onnx.NodeProto, version: int, inputs: Sequence[Any]) -> Iterator[int | None]:
    """Yield how many elements each result has, by onnx's inference; None: it does not say."""
    types, data = {}, {}
    for name, value in zip(node.input, inputs, strict=False):
        if name and isinstance(value, np.ndarray):
            kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            types[name] = onnx.helper.make_tensor_type_proto(kind, value.shape)
            if value.size <= _MOST_VALUES:
                data[name] = onnx.numpy_helper.from_array(value, name)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data)
    except Exception:  # of types that a schema has not, as float64, it raises one of several
        found = {}
    for name in node.output:
        yield _elements(found[name]) if name in found else None


def _elements(kind: onnx.TypeProto) -> int | None:
    tensor = kind.tensor_type
    dims = tensor.shape.dim
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return None
    return math.prod(int(dim.dim_value) for dim in dims)


def is_small(node: ir.Node) -> bool:
    """Say whether what a node makes of constants may be computed, by its results' shapes."""
    if not is_standard(node):
        return True
    for value in node.outputs:
        dims = None if value.shape is None else tuple(value.shape)
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            if node.op_type in MAKERS:
                return False
        elif math.prod(map(int, dims)) > _LARGEST_FOLDED:
            return False
    return True


class _Spent:
    """What one run has computed, held to what it may."""

    def __init__(self, given: int) -> None:
        self.steps = _MOST_STEPS
        self.elements = max(_MOST_MADE, _RATIO * given)

    def add(self, results: Any) -> None:
        self.steps -= 1
        several = results if isinstance(results, tuple | list) else (results,)
        self.elements -= sum(x.size for x in several if isinstance(x, np.ndarray))
        if self.steps < 0:
            raise TooLargeError("it computes too many nodes, as a loop that does not end")
        if self.elements < 0:
            raise TooLargeError("all that it computes together is too large for the inputs")


_SPENT: ContextVar[_Spent | None] = ContextVar("spent", default=None)


@contextmanager
def one_run(given: Mapping[str, Any]) -> Iterator[None]:
    """Bound what is computed in the block, of values that are given; one inside another is its."""
    if _SPENT.get() is not None:
        yield
        return
    token = _SPENT.set(_Spent(sum(x.size for x in given.values() if isinstance(x, np.ndarray))))
    try:
        yield
    finally:
        _SPENT.reset(token)


def run_bounded(node: Any, run: Callable[..., Any], *inputs: Any, **given: Any) -> Any:
    """Run a node of onnx's reference evaluator within the budget of the run."""
    message = node.onnx_node
    if message.domain in ("", "ai.onnx"):
        check_size(message.op_type, node.run_params["opsets"][""], inputs, lambda: message)
    results = run(*inputs, **given)
    spent = _SPENT.get()
    if spent is not None:
        spent.add(results)
    return results
