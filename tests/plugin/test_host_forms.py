"""The kernel's other policies: halves, cosines and sines, a leading part of the row."""

from __future__ import annotations

import itertools

import pytest
import torch
from plugin.bits import random_data, random_matrices, same_bits
from plugin.host_walk import INVALID_VALUE, parameters

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
PAIRINGS = ["interleaved", "half"]


def split(x: torch.Tensor, pairing: str) -> tuple[torch.Tensor, torch.Tensor]:
    if pairing == "half":
        return x.chunk(2, dim=-1)
    return x[..., 0::2], x[..., 1::2]


def join(first: torch.Tensor, second: torch.Tensor, pairing: str) -> torch.Tensor:
    if pairing == "half":
        return torch.cat([first, second], dim=-1)
    return torch.stack([first, second], dim=-1).flatten(-2)


def rotated(x, matrices, pairing: str, rotary_size: int) -> torch.Tensor:
    """Product, product and sum in float32 of the leading part; the rest as it is."""
    head, rest = x[..., :rotary_size], x[..., rotary_size:]
    x0, x1 = (part.float() for part in split(head, pairing))
    y0 = matrices[..., 0, 0] * x0 + matrices[..., 0, 1] * x1
    y1 = matrices[..., 1, 0] * x0 + matrices[..., 1, 1] * x1
    return torch.cat([join(y0, y1, pairing).to(x.dtype), rest], dim=-1)


def tables(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cosines, sines and the matrices that they stand for."""
    angles = random_data(shape, torch.float32, 3) * 100
    cos, sin = angles.cos(), angles.sin()
    matrices = torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
    return cos, sin, matrices


# head size, rotary size: whole units of 16 bytes, whole pairs, single elements
SIZES = [(64, 64), (64, 32), (80, 32), (128, 16), (36, 12), (20, 6), (6, 4), (4, 2)]
FORMS = ["matrices", "tables"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("pairing", "form"), [*itertools.product(PAIRINGS, FORMS)])
@pytest.mark.parametrize("per_head", [False, True], ids=["shared", "per head"])
def test_forms(walk, dtype, sizes, pairing, form, per_head) -> None:
    D, R = sizes
    q, k = (random_data((2, 5, 3, D), dtype, seed) for seed in (1, 2))
    shape = (1, 5 if per_head else 1, 3, R // 2)
    if form == "tables":
        cos, sin, matrices = tables(shape)
        options = {"sin": sin}
    else:
        cos = matrices = random_matrices(shape, 3)
        options = {}
    q_out, k_out, seen = walk(q, k, cos, pairing=pairing, rotary_size=R, **options)
    assert same_bits(q_out, rotated(q, matrices, pairing, R))
    assert same_bits(k_out, rotated(k, matrices, pairing, R))
    unit = 16 * (2 if pairing == "half" else 1)  # bytes of a row that a thread holds
    whole = D * dtype.itemsize % unit == 0 and R * dtype.itemsize % unit == 0
    assert (seen.access_bytes == 16) == whole


def test_the_rest_is_copied_whatever_it_holds(walk) -> None:
    q = random_data((1, 2, 3, 16), torch.float16, 1)
    q[..., 8:] = torch.tensor([torch.inf, torch.nan, -0.0, 6e-8] * 2)
    out, _, _ = walk(q, None, random_matrices((1, 1, 3, 4), 2), rotary_size=8)
    assert same_bits(out[..., 8:], q[..., 8:])


def test_unaligned_halves(walk) -> None:
    q = random_data((1, 2, 3, 33), torch.float16, 1)[..., 1:]
    cos, sin, matrices = tables((1, 1, 3, 16))
    out, _, seen = walk(q, None, cos, sin=sin, pairing="half", rotary_size=32)
    assert seen.access_bytes == 2
    assert same_bits(out, rotated(q, matrices, "half", 32))


@pytest.mark.parametrize("rotary_size", [-2, 3, 18])
def test_wrong_rotary_sizes_are_invalid(walk, rotary_size) -> None:
    q = torch.zeros(1, 1, 1, 16)
    pe = torch.zeros(1, 1, 1, 8, 2, 2)
    params = parameters(q, None, pe, (q, None), rotary_size=rotary_size)
    assert walk.status(params)[0] == INVALID_VALUE
