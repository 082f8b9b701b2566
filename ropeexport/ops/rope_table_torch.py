"""The torch side of ``ropeexport::RopeTable``: the op ``ropeexport::rope_table`` and its checks.

It makes the matrices of integer positions; as an op of its own it reaches ONNX in a form that needs
no float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ropeexport.reference import frequencies, rope_matrices


@torch.library.custom_op("ropeexport::rope_table", mutates_args=())
def rope_table_op(pos: Tensor, dim: int, theta: float) -> Tensor:
    """Return the float32 matrices (..., L, dim/2, 2, 2) of integer positions (..., L)."""
    _check_integers(pos)
    return rope_matrices(pos, dim, theta)


@rope_table_op.register_fake
def _rope_table_fake(pos: Tensor, dim: int, theta: float) -> Tensor:
    _check_integers(pos)
    return pos.new_empty((*pos.shape, dim // 2, 2, 2), dtype=torch.float32)


@rope_table_op.register_vmap
def _rope_table_vmap(
    _info: Any, in_dims: tuple[int, None, None], pos: Tensor, dim: int, theta: float
) -> tuple[Tensor, int]:
    return rope_table_op(pos.movedim(in_dims[0], 0), dim, theta), 0  # a mapped axis is one more


def rope(pos: Tensor, dim: int, theta: float) -> Tensor:
    """Make the rotation matrices of positions, as FLUX's ``rope`` does.

    Parameters
    ----------
    pos : Tensor
        Positions (..., L), integer or floating.  Integer positions export with exact angles.
    dim : int
        Head size, or the share of it that this axis rotates; even.
    theta : float
        Base of the frequencies ``theta ** (-2i/dim)``.

    Returns
    -------
    Tensor
        float32 (..., L, dim/2, 2, 2), each ``[[cos, -sin], [sin, cos]]``; angles in float64.

    Raises
    ------
    TypeError, ValueError
        With the argument's name, what was expected and what was given.

    Notes
    -----
    Floating positions are differentiable in every mode, integer ones have no derivative;
    ``torch.vmap`` maps both.

    Source: black-forest-labs/flux ``src/flux/math.py``.

    Examples
    --------
    >>> import torch, ropeexport
    >>> pe = ropeexport.rope(torch.arange(8), dim=16, theta=10_000)
    >>> pe.shape
    torch.Size([8, 8, 2, 2])
    >>> bool((pe[0] == torch.eye(2)).all())  # position 0 turns nothing
    True
    """
    if has_torch_function((pos,)):  # torch.fx's own trace, say, which keeps the call as it is
        kept: Tensor = handle_torch_function(rope, (pos,), pos, dim, theta)
        return kept
    _check_arguments(pos, dim, theta)
    if pos.dtype.is_floating_point:
        return rope_matrices(pos, dim, theta)
    table: Tensor = rope_table_op(pos, dim, float(theta))
    return table


def _check_arguments(pos: Tensor, dim: int, theta: float) -> None:
    """Raise unless ``pos`` is (..., L) of real numbers, ``dim`` even and ``theta`` positive."""
    if not isinstance(pos, Tensor):
        raise TypeError(f"pos: expected a torch.Tensor, got {type(pos).__name__}")
    if pos.dtype.is_complex or pos.dtype is torch.bool:
        raise TypeError(f"pos: expected integer or floating positions, got {pos.dtype}")
    if pos.ndim < 1:
        raise ValueError("pos: expected shape (..., L), got a scalar")
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim: expected an int, got {type(dim).__name__}")
    if dim <= 0 or dim % 2:
        raise ValueError(f"dim: expected a positive even number, got {dim}")
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        raise TypeError(f"theta: expected a number, got {type(theta).__name__}")
    if not (theta > 0 and math.isfinite(theta)):
        raise ValueError(f"theta: expected a positive number, got {theta}")


def _check_integers(pos: Tensor) -> None:
    """Raise unless ``pos`` holds integers: the op of a table knows no derivative."""
    if pos.dtype.is_floating_point or pos.dtype.is_complex or pos.dtype is torch.bool:
        raise TypeError(
            f"pos: expected integer positions, got {pos.dtype}; ropeexport.rope takes floating ones"
        )


def translation(node: Callable[..., Any], max_position: int) -> Callable[..., Any]:
    """Return what the exporter calls for ``ropeexport::rope_table``."""
    import onnx_ir as ir
    import onnxscript

    from ropeexport.ops.rope_table import digit_tables

    made: dict[tuple[int, float], list[Any]] = {}  # one pair of tables for all nodes alike

    def rope_of_positions(pos: Any, dim: int, theta: float) -> Any:
        if (dim, theta) not in made:
            tables = digit_tables(frequencies(dim, theta).numpy(), max_position)
            made[dim, theta] = [onnxscript.opset23.Constant(value=ir.tensor(x)) for x in tables]
        return node(pos, *made[dim, theta])

    return rope_of_positions
