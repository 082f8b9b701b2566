"""Rotary embedding as public models write it, each a module from x and positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEADS, KV_HEADS, SIZE = 4, 2, 8


def angles(pos: Tensor, size: int = SIZE) -> Tensor:
    frequencies = 1.0 / 10000 ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    return pos.float()[..., None] * frequencies


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Writing(nn.Module):
    """q and k from x (B, L, 16), rotated by ``rope``; both come back so that both are compared."""

    blhd = False

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(16, HEADS * SIZE)
        self.k = nn.Linear(16, KV_HEADS * SIZE)

    def forward(self, x: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        q = self.q(x).unflatten(-1, (HEADS, SIZE))
        k = self.k(x).unflatten(-1, (KV_HEADS, SIZE))
        if not self.blhd:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        return self.rope(q, k, pos)

    def rope(self, q: Tensor, k: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        tables = self.tables(pos)
        return self.rotate(q, *tables), self.rotate(k, *tables)


class Half(Writing):
    """Llama and most of transformers."""

    def tables(self, pos):
        emb = torch.cat((angles(pos), angles(pos)), dim=-1)
        return emb.cos().unsqueeze(1), emb.sin().unsqueeze(1)

    def rotate(self, x, cos, sin):
        return x * cos + rotate_half(x) * sin


class HalfChunks(Half):
    """Two halves by chunk, each with half a table."""

    def tables(self, pos):
        return angles(pos).cos().unsqueeze(1), angles(pos).sin().unsqueeze(1)

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class HalfPartial(Half):
    """GPT-NeoX, Phi: the first half of the head size is rotated."""

    def tables(self, pos):
        emb = torch.cat((angles(pos, SIZE // 2), angles(pos, SIZE // 2)), dim=-1)
        return emb.cos().unsqueeze(1), emb.sin().unsqueeze(1)

    def rotate(self, x, cos, sin):
        size = cos.shape[-1]
        rotated = super().rotate(x[..., :size], cos, sin)
        return torch.cat((rotated, x[..., size:]), dim=-1)


class Interleaved(Writing):
    """diffusers: unbind pairs, stack, flatten; BLHD."""

    blhd = True

    def tables(self, pos):
        theta = angles(pos).repeat_interleave(2, dim=-1)
        return theta.cos().unsqueeze(2), theta.sin().unsqueeze(2)

    def rotate(self, x, cos, sin):
        real, imag = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        turned = torch.stack([-imag, real], dim=-1).flatten(3)
        return (x.float() * cos + turned.float() * sin).to(x.dtype)


class Strided(Interleaved):
    """GPT-J, Cohere, GLM: strided slices."""

    def rotate(self, x, cos, sin):
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return x * cos + turned * sin


class Assigned(Interleaved):
    """Wan: results assigned to strided slices."""

    def rotate(self, x, cos, sin):
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = cos[..., 0::2], sin[..., 1::2]
        out = torch.empty_like(x)
        out[..., 0::2] = a * c - b * s
        out[..., 1::2] = a * s + b * c
        return out


class Complex(Writing):
    """Llama as first published, Lumina: complex numbers."""

    blhd = True

    def tables(self, pos):
        theta = angles(pos)
        return (torch.polar(torch.ones_like(theta), theta).unsqueeze(2),)

    def rotate(self, x, freqs):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * freqs).flatten(3).type_as(x)


class Matrices(Writing):
    """FLUX as published: 2x2 matrices."""

    def tables(self, pos):
        theta = angles(pos)
        cells = [theta.cos(), -theta.sin(), theta.sin(), theta.cos()]
        return (torch.stack(cells, dim=-1).unflatten(-1, (2, 2)).unsqueeze(1),)

    def rotate(self, x, pe):
        pairs = x.float().reshape(*x.shape[:-1], -1, 1, 2)
        rotated = pe[..., 0] * pairs[..., 0] + pe[..., 1] * pairs[..., 1]
        return rotated.reshape(*x.shape).type_as(x)


WRITINGS = {
    kind.__name__: kind
    for kind in (
        Half, HalfChunks, HalfPartial, Interleaved, Strided, Assigned, Complex, Matrices,
    )
}  # fmt: skip


class ByHead(nn.Module):
    """Mochi: every head has its own frequencies."""

    def forward(self, x, cos, sin):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class GivenTables(nn.Module):
    """Tables from outside: nothing proves that their halves agree."""

    def forward(self, q, cos, sin):
        return q * cos + rotate_half(q) * sin


class Blend(nn.Module):
    """Sums of products that are no rope."""

    def forward(self, x, a, b):
        return x * a + (1 - x) * b + x * b, x * a + x.flip(-1) * b
