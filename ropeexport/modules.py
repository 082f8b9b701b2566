"""Attention modules with rotary position embedding, as FLUX builds them.

Source: black-forest-labs/flux ``src/flux/math.py`` and ``src/flux/modules/layers.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import handle_torch_function, has_torch_function

from ropeexport.ops.apply_rope_torch import apply_rope
from ropeexport.ops.norm_rope_torch import norm_rope
from ropeexport.ops.rope_table_torch import rope


def attention(q: Tensor, k: Tensor, v: Tensor, pe: Tensor) -> Tensor:
    """Rotate q and k, attend, and merge the heads, as FLUX's ``attention`` does.

    Parameters
    ----------
    q, k, v : Tensor
        (B, H, L, D); k and v may have fewer heads than q, by a whole factor.
    pe : Tensor
        (B, L, D/2, 2, 2) or (B, 1 or H, L, D/2, 2, 2), see :func:`ropeexport.apply_rope`.

    Returns
    -------
    Tensor
        (B, L, H*D) in the type of ``q``; under autocast, in autocast's type.

    Notes
    -----
    torch's fused attention has no forward mode and no second derivative, and raises; its plain one
    has both: call within ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` for them.

    Examples
    --------
    >>> import torch, ropeexport
    >>> q = k = v = torch.ones(1, 2, 8, 16)
    >>> pe = ropeexport.rope(torch.arange(8)[None], dim=16, theta=10_000)
    >>> ropeexport.attention(q, k, v, pe).shape
    torch.Size([1, 8, 32])
    """
    given = (q, k, v, pe)
    if has_torch_function(given):  # torch.fx's own trace, say, which keeps the call as it is
        attended: Tensor = handle_torch_function(attention, given, *given)
        return attended
    return attend(*apply_rope(q, k, pe), v)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with queries and keys that are rotated already, and merge the heads."""
    given = (q, k, v)
    if has_torch_function(given):
        attended: Tensor = handle_torch_function(attend, given, *given)
        return attended
    _check_values(q, k, v)
    if q.shape[1] == k.shape[1]:  # asked, not passed on: numbers of heads may be symbols
        x = scaled_dot_product_attention(q, k, v)
    else:
        x = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return x.transpose(1, 2).flatten(2)


def _check_values(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise unless ``v`` fits the keys and the heads of q are a multiple of theirs.

    Under autocast q, k and v may differ in type: attention casts them to autocast's.
    """
    if v.dtype != q.dtype and not torch.is_autocast_enabled(q.device.type):
        raise TypeError(f"v: expected {q.dtype} as q has, got {v.dtype}")
    if v.ndim != 4:
        raise ValueError(f"v: expected shape (B, H, L, D), got {tuple(v.shape)}")
    if torch.compiler.is_compiling():
        return  # sizes may be symbols
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: expected shape {(*k.shape[:3], 'D')} as k has, got {tuple(v.shape)}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"k: expected a number of heads that divides {q.shape[1]}, got {tuple(k.shape)}"
        )


class FluxAttention(nn.Module):
    """FLUX's ``attention`` as a module: (q, k, v, pe) to (B, L, H*D)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, pe: Tensor) -> Tensor:
        """See :func:`attention`."""
        return attention(q, k, v, pe)


class RMSNorm(nn.Module):
    """Root mean square norm of the last axis in float32, scaled in the data's type, as in FLUX."""

    eps = 1e-6

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., dim); float64 data stays in float64."""
        wide = x if x.dtype is torch.float64 else x.float()
        inverse = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (wide * inverse).to(x.dtype) * self.scale


class FluxSelfAttention(nn.Module):
    """FLUX's self-attention: packed qkv, QK-RMSNorm, rope, attention, projection.

    Parameters
    ----------
    dim : int
        Width of the model, ``num_heads`` times the head size.
    num_heads : int
        Heads H.
    qkv_bias : bool
        Whether the packed projection has a bias.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % num_heads or (dim // num_heads) % 2:
            raise ValueError(f"dim: expected num_heads ({num_heads}) times an even size, got {dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.query_norm = RMSNorm(dim // num_heads)
        self.key_norm = RMSNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, pe: Tensor) -> Tensor:
        """Attend over x (B, L, dim) with pe as :func:`ropeexport.apply_rope` takes it."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        scales = self.query_norm.scale, self.key_norm.scale
        q, k = norm_rope(q, k, *scales, pe, eps=self.query_norm.eps)
        projected: Tensor = self.proj(attend(q, k, v.transpose(1, 2)))
        return projected


class FluxPositionEmbedding(nn.Module):
    """FLUX's embedding of several position axes: ids (B, L, axes) to pe (B, 1, L, D/2, 2, 2)."""

    def __init__(self, axes_dim: Sequence[int], theta: float = 10000) -> None:
        super().__init__()
        self.axes_dim = tuple(axes_dim)
        self.theta = theta

    def forward(self, ids: Tensor) -> Tensor:
        """Concatenate the matrices of each axis over the pairs and insert the head axis."""
        tables = [rope(ids[..., i], dim, self.theta) for i, dim in enumerate(self.axes_dim)]
        return torch.cat(tables, dim=-3).unsqueeze(1)


class FluxSelfAttentionIds(nn.Module):
    """:class:`FluxSelfAttention` from integer ids (B, L, axes) through FLUX's embedding."""

    def __init__(
        self, dim: int, num_heads: int, axes_dim: Sequence[int], theta: float = 10000
    ) -> None:
        super().__init__()
        if sum(axes_dim) != dim // num_heads:
            raise ValueError(
                f"axes_dim: expected sizes that sum to the head size {dim // num_heads}, "
                f"got {tuple(axes_dim)}"
            )
        self.embedding = FluxPositionEmbedding(axes_dim, theta)
        self.attention = FluxSelfAttention(dim, num_heads)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Attend over x (B, L, dim) at integer positions ids (B, L, axes)."""
        attended: Tensor = self.attention(x, self.embedding(ids))
        return attended
