"""The rope functions against the seed's, bit for bit, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from seed_functions import seed_apply_rope, seed_attention, seed_rope

import ropeexport

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def data(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.float64, torch.bfloat16])
def test_rope_equals_the_seed(dtype: torch.dtype) -> None:
    pos = torch.arange(16).repeat(2, 1).to(dtype)
    assert torch.equal(ropeexport.rope(pos, 64, 10000), seed_rope(pos, 64, 10000))


def test_rope_takes_any_leading_axes() -> None:
    assert ropeexport.rope(torch.arange(5), 8, 1e4).shape == (5, 4, 2, 2)
    assert ropeexport.rope(torch.zeros(2, 3, 5), 8, 1e4).shape == (2, 3, 5, 4, 2, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pe_shape", [(1, 1), (2, 1), (2, 4), (1, 4)])
def test_apply_rope_equals_the_seed(dtype: torch.dtype, pe_shape: tuple[int, int]) -> None:
    q, k = data(2, 4, 7, 10, dtype=dtype), data(2, 4, 7, 10, dtype=dtype)
    pe = torch.randn(*pe_shape, 7, 5, 2, 2)
    for ours, theirs in zip(
        ropeexport.apply_rope(q, k, pe), seed_apply_rope(q, k, pe), strict=True
    ):
        assert ours.dtype is dtype
        assert torch.equal(ours, theirs)


def test_pe_without_head_axis_is_by_batch() -> None:
    q, pe = data(2, 4, 7, 10), torch.randn(2, 7, 5, 2, 2)
    expected = seed_apply_rope(q, q, pe.unsqueeze(1))
    assert torch.equal(ropeexport.apply_rope(q, q, pe)[0], expected[0])


def test_float64_is_rotated_in_float64() -> None:
    q, pe = torch.randn(1, 2, 3, 4, dtype=torch.float64), torch.randn(1, 1, 3, 2, 2, 2)
    pairs = q.unflatten(-1, (-1, 2)).unsqueeze(-2)
    expected = (pe.double() * pairs).sum(-1).flatten(-2)
    assert torch.equal(ropeexport.apply_rope(q, q, pe)[0], expected)


def test_q_and_k_may_differ_in_heads() -> None:
    q, k, v, pe = data(2, 6, 5, 8), data(2, 2, 5, 8), data(2, 2, 5, 8), torch.randn(2, 5, 4, 2, 2)
    repeated = [x.repeat_interleave(3, dim=1) for x in (k, v)]
    expected = seed_attention(q, *repeated, pe.unsqueeze(1))
    assert torch.equal(ropeexport.attention(q, k, v, pe), expected)


def test_the_three_demos_of_the_seed() -> None:
    q, k, v = (torch.randn(2, 4, 16, 32) for _ in range(3))
    assert ropeexport.attention(q, k, v, torch.randn(2, 16, 16, 2, 2)).shape == (2, 16, 128)
    pos = torch.arange(16).unsqueeze(0).repeat(2, 1).to(torch.float32)
    assert ropeexport.rope(pos, 64, 10000).shape == (2, 16, 32, 2, 2)
    q, k = torch.randn(2, 4, 16, 64), torch.randn(2, 4, 16, 64)
    rotated = ropeexport.apply_rope(q, k, ropeexport.rope(pos, 64, theta=10000))
    assert [x.shape for x in rotated] == [(2, 4, 16, 64)] * 2


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"xq": data(2, 4, 8)}, ValueError, "xq: expected shape"),
        ({"xq": data(2, 4, 6, 7), "xk": data(2, 4, 6, 7)}, ValueError, "xq: expected an even head"),
        ({"xq": torch.ones(2, 4, 6, 8, dtype=torch.int32)}, TypeError, "xq: expected floating"),
        ({"xk": data(2, 4, 5, 8)}, ValueError, r"xk: expected shape \(2, H, 6, 8\)"),
        ({"xk": data(1, 4, 6, 8)}, ValueError, "xk: expected shape"),
        ({"freqs_cis": torch.randn(2, 6, 4, 2)}, ValueError, "freqs_cis: expected shape"),
        ({"freqs_cis": torch.randn(2, 6, 3, 2, 2)}, ValueError, "freqs_cis: expected shape"),
        ({"freqs_cis": torch.randn(3, 6, 4, 2, 2)}, ValueError, "freqs_cis: expected batch 1 or 2"),
        ({"freqs_cis": torch.randn(2, 3, 6, 4, 2, 2)}, ValueError, "head axis of 1 or 4"),
        (
            {"freqs_cis": torch.ones(2, 6, 4, 2, 2).long()},
            TypeError,
            "freqs_cis: expected floating",
        ),
        ({"xk": torch.randn(2, 4, 6, 8, device="meta")}, ValueError, "xk: expected device cpu"),
    ],
)
def test_apply_rope_refuses(changes: dict, error: type[Exception], words: str) -> None:
    arguments = {
        "xq": data(2, 4, 6, 8),
        "xk": data(2, 4, 6, 8),
        "freqs_cis": torch.randn(2, 6, 4, 2, 2),
    }
    with pytest.raises(error, match=words):
        ropeexport.apply_rope(**(arguments | changes))


def test_a_head_axis_needs_equal_heads() -> None:
    with pytest.raises(ValueError, match="q and k differ in heads"):
        ropeexport.apply_rope(data(1, 4, 3, 8), data(1, 2, 3, 8), torch.randn(1, 4, 3, 4, 2, 2))


@pytest.mark.parametrize(
    ("pos", "dim", "theta", "error", "words"),
    [
        (torch.arange(3), 7, 1e4, ValueError, "dim: expected a positive even number, got 7"),
        (torch.arange(3), 0, 1e4, ValueError, "dim"),
        (torch.arange(3), 8.0, 1e4, TypeError, "dim: expected an int"),
        (torch.arange(3), 8, 0, ValueError, "theta"),
        (torch.tensor(3), 8, 1e4, ValueError, "pos: expected shape"),
        (torch.ones(3, dtype=torch.complex64), 8, 1e4, TypeError, "pos"),
    ],
)
def test_rope_refuses(pos, dim, theta, error, words) -> None:
    with pytest.raises(error, match=words):
        ropeexport.rope(pos, dim, theta)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_empty_tensors_stay_empty(axis: int) -> None:
    shape = [2, 3, 4, 8]
    shape[axis] = 0
    x = torch.zeros(shape)
    pe = torch.zeros(1 if axis else 0, 1, shape[2], 4, 2, 2)
    q, k = ropeexport.apply_rope(x, x, pe)
    assert q.shape == k.shape == x.shape


@pytest.mark.parametrize(
    ("v", "words"),
    [
        (torch.zeros(2, 2, 3, 8), r"v: expected shape \(2, 2, 6"),
        (torch.zeros(1, 2, 6, 8), r"v: expected shape \(2, 2, 6"),
        (torch.zeros(2, 4, 6, 8), r"v: expected shape \(2, 2, 6"),
        (torch.zeros(2, 2, 6, 8, dtype=torch.float16), "v: expected torch.float32"),
    ],
)
def test_values_that_do_not_fit_the_keys(v, words: str) -> None:
    q = torch.zeros(2, 2, 6, 8)
    with pytest.raises((ValueError, TypeError), match=words):
        ropeexport.attention(q, q, v, torch.zeros(1, 1, 6, 4, 2, 2))


def test_what_is_no_tensor_is_named() -> None:
    q, pe = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 2, 2, 2)
    with pytest.raises(TypeError, match=r"xk: expected a torch\.Tensor, got NoneType"):
        ropeexport.apply_rope(q, None, pe)
    with pytest.raises(TypeError, match="theta: expected a number, got str"):
        ropeexport.rope(torch.arange(3), 4, "a")
