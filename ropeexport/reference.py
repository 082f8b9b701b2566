"""The rope maths as pure torch functions: the contract that every runtime is held to.

Source: black-forest-labs/flux ``src/flux/math.py`` (``rope``, ``apply_rope``), after Su et al.,
"RoFormer" (2021), equation 15.  B batch, H heads, L length, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_dtype(data: torch.dtype, pe: torch.dtype) -> torch.dtype:
    """Return the type in which data is rotated: float64 if either side is float64, else float32."""
    return torch.float64 if torch.float64 in (data, pe) else torch.float32


def rotate(x: Tensor, pe: Tensor) -> Tensor:
    """Multiply each adjacent pair of ``x`` by its 2x2 matrix of ``pe``.

    Product, product and sum are rounded one by one, which every bit-exact implementation repeats.

    Parameters
    ----------
    x : Tensor
        (B, H, L, D), any floating type.
    pe : Tensor
        (B or 1, H or 1, L, D/2, 2, 2), general matrices ``[[m00, m01], [m10, m11]]``.

    Returns
    -------
    Tensor
        (B, H, L, D) in the type of ``x``: ``(m00*x0 + m01*x1, m10*x0 + m11*x1)`` of each pair.
    """
    dtype = rotation_dtype(x.dtype, pe.dtype)
    pairs = x.to(dtype).reshape(*x.shape[:-1], x.shape[-1] // 2, 1, 2)
    matrices = pe.to(dtype)
    rotated = matrices[..., 0] * pairs[..., 0] + matrices[..., 1] * pairs[..., 1]
    return rotated.reshape(x.shape).to(x.dtype)


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Divide ``x`` by the root mean square over the axes that ``scale`` has, and scale it.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).

    Parameters
    ----------
    x : Tensor
        (..., D) or (..., H, D), any floating type.
    scale : Tensor
        (D,) or (H, D).  Of the type of ``x``: what is normed is rounded to that type before it is
        scaled; of a wider one: after.
    eps : float
        What is added to the mean of the squares.

    Returns
    -------
    Tensor
        Of the shape and type of ``x``; computed in float32, or in float64 if either side is.
    """
    wide = torch.float64 if torch.float64 in (x.dtype, scale.dtype) else torch.float32
    inverse = torch.rsqrt(
        x.to(wide).square().mean(dim=tuple(range(-scale.ndim, 0)), keepdim=True) + eps
    )
    return ((x.to(wide) * inverse).to(scale.dtype) * scale).to(x.dtype)


def rotate_backward_data(grad: Tensor, pe: Tensor) -> Tensor:
    """Return the gradient of :func:`rotate` for ``x``: the transposed matrices applied to it."""
    return rotate(grad, pe.transpose(-1, -2))


def rotate_backward_pe(grad: Tensor, x: Tensor, pe: Tensor) -> Tensor:
    """Return the gradient of :func:`rotate` for ``pe``: outer products, summed to its shape."""
    dtype = rotation_dtype(x.dtype, pe.dtype)
    rows = grad.to(dtype).reshape(*grad.shape[:-1], grad.shape[-1] // 2, 2, 1)
    columns = x.to(dtype).reshape(*x.shape[:-1], x.shape[-1] // 2, 1, 2)
    return (rows * columns).sum_to_size(pe.shape).to(pe.dtype)


def rotation_matrices(angles: Tensor) -> Tensor:
    """Stack ``[[cos, -sin], [sin, cos]]`` of angles (...) in radians into (..., 2, 2)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).reshape(*angles.shape, 2, 2)


def frequencies(dim: int, theta: float, device: torch.device | None = None) -> Tensor:
    """Return (dim/2,) frequencies ``theta ** (-2i/dim)``, radians a position, float64."""
    exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim
    return 1.0 / (theta**exponent)


def rope_matrices(pos: Tensor, dim: int, theta: float) -> Tensor:
    """Return the rotation matrices of positions (..., L) as float32 (..., L, dim/2, 2, 2).

    Angles, cosine and sine are computed in float64 and rounded to float32 once.
    """
    angles = pos.to(torch.float64).unsqueeze(-1) * frequencies(dim, theta, pos.device)
    return rotation_matrices(angles).to(torch.float32)
