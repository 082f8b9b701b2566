"""The kernel's grid, index and value arithmetic on the host, bit for bit against the seed's."""

from __future__ import annotations

import itertools

import pytest
import torch
from plugin.bits import random_data, random_matrices, same_bits
from plugin.host_walk import DEFAULT_TUNING, INVALID_VALUE, parameters
from seed_functions import seed_apply_rope, seed_rope

from ropeexport.reference import rope_matrices

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# B, Hq, Hk, L, D, Bp, Hp
SHAPES = [
    (1, 24, 24, 7, 128, 1, 1),  # FLUX, whose matrices have one batch
    (2, 3, 3, 5, 64, 2, 1),  # matrices of each batch
    (2, 3, 3, 5, 64, 1, 3),  # matrices of each head
    (2, 3, 3, 5, 64, 2, 3),
    (1, 32, 8, 9, 128, 1, 1),  # grouped heads
    (3, 1, 1, 4, 16, 3, 1),
    (64, 8, 2, 1, 128, 64, 1),  # one token of many sequences
    (1, 5, 5, 3, 2, 1, 1),  # one pair
    (2, 4, 4, 3, 6, 1, 1),  # three pairs: rows that are no whole number of 16 bytes
    (1, 3, 3, 2, 66, 1, 3),
    (1, 13, 13, 33, 40, 1, 1),  # a last block that is not full, a last group of one head
    (1, 1, 70, 2, 256, 1, 1),
]


def make(shape, dtype, seed: int = 0):
    B, Hq, Hk, L, D, Bp, Hp = shape
    q = random_data((B, Hq, L, D), dtype, seed)
    k = random_data((B, Hk, L, D), dtype, seed + 1)
    return q, k, random_matrices((Bp, Hp, L, D // 2), seed + 2)


def assert_same(walk, q, k, pe, **options):
    q_out, k_out, seen = walk(q, k, pe, **options)
    q_expected, k_expected = seed_apply_rope(q, k, pe)
    assert same_bits(q_out, q_expected)
    assert same_bits(k_out, k_expected)
    return seen


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_seed(walk, shape, dtype) -> None:
    seen = assert_same(walk, *make(shape, dtype))
    whole = shape[4] * dtype.itemsize % 16 == 0
    assert seen.access_bytes == (16 if whole else 2 * dtype.itemsize)
    assert seen.launches == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_positions_of_the_seed(walk, dtype) -> None:
    q, k, _ = make((2, 4, 4, 17, 32, 1, 1), dtype)
    pos = torch.arange(100_000, 100_017, dtype=torch.float64)[None]
    for matrices in (seed_rope(pos, 32, 10_000), rope_matrices(pos, 32, 1e4)):
        assert_same(walk, q, k, matrices[:, None])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads", [1, 2])
def test_extreme_values(walk, dtype, heads) -> None:
    kind = torch.finfo(dtype)
    values = [0.0, -0.0, kind.max, -kind.max, kind.tiny, kind.smallest_normal / 4, torch.inf]
    values += [-torch.inf, torch.nan, 1.0]
    pairs = torch.tensor(list(itertools.product(values, repeat=2)), dtype=torch.float64)
    row = pairs.to(dtype).reshape(1, 1, 1, -1)
    q = row.repeat(1, heads, len(values), 1)
    entries = [0.0, -0.0, 1.0, -1.0, 2.0**-149, 3.4e38, torch.inf, -torch.inf, torch.nan, 0.1]
    matrices = torch.tensor(entries)[:, None] * torch.tensor([1.0, -1.0, 0.5, 1.0])
    shape = (1, heads, len(values), row.shape[-1] // 2, 2, 2)
    pe = matrices.reshape(1, 1, len(values), 1, 2, 2).expand(shape).contiguous()
    assert_same(walk, q, q.flip(-1).contiguous(), pe)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0, 1, 2, 8])
@pytest.mark.parametrize("which", ["q", "k", "pe", "out"])
def test_unaligned_arrays(walk, dtype, offset, which) -> None:
    q, k, pe = make((2, 3, 3, 5, 32, 2, 1), dtype)

    def shifted(x: torch.Tensor) -> torch.Tensor:
        room = torch.zeros(x.numel() + offset, dtype=x.dtype)[offset:].view(x.shape)
        return room.copy_(x)

    given = {"q": q, "k": k, "pe": pe}
    out = (torch.zeros_like(q), torch.zeros_like(k))
    if which == "out":
        out = (shifted(out[0]), out[1])
    else:
        given[which] = shifted(given[which])
    seen = assert_same(walk, given["q"], given["k"], given["pe"], out=out)
    size = 4 if which == "pe" else dtype.itemsize
    pair = 16 if which == "pe" else 2 * size  # what the access of one pair needs
    widths = [(16, 16), (pair, 2 * dtype.itemsize), (1, dtype.itemsize)]
    # the allocator aligns to 64, so the offset alone decides
    assert seen.access_bytes == next(w for need, w in widths if offset * size % need == 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views(walk, dtype) -> None:
    """Layout (B, L, H, D), a slice of a fused projection, a part of the length, a broadcast pe."""
    fused = random_data((2, 9, 3, 4, 32), dtype, 5).permute(2, 0, 3, 1, 4)
    q, k = fused[0][:, :, 2:7], fused[1][:, :, 2:7]
    pe = random_matrices((2, 1, 9, 16), 6)[:, :, 2:7]
    out = tuple(torch.zeros(2, 5, 4, 32, dtype=dtype).transpose(1, 2) for _ in range(2))
    assert assert_same(walk, q, k, pe, out=out).access_bytes == 16
    expanded = pe[:1].expand(2, 4, 5, 16, 2, 2)
    assert_same(walk, q, k, expanded, out=out)


def test_a_row_apart_by_an_odd_stride_is_read_element_by_element(walk) -> None:
    q = random_data((1, 2, 3, 17), torch.float16, 1)[..., :16]
    _, k, pe = make((1, 2, 2, 3, 16, 1, 1), torch.float16)
    assert assert_same(walk, q, k, pe).access_bytes == 2


def test_a_stride_along_an_axis_of_one_does_not_count(walk) -> None:
    wide = random_data((1, 1, 1, 17), torch.float16, 1)[..., :16]
    assert wide.stride()[:3] == (17, 17, 17)
    _, k, pe = make((1, 1, 1, 1, 16, 1, 1), torch.float16)
    assert assert_same(walk, wide, k, pe).access_bytes == 16


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("which", ["q", "k", "pe", "out"])
def test_an_odd_stride_along_one_axis(walk, axis, which) -> None:
    q, k, pe = make((2, 3, 3, 5, 16, 2, 3), torch.float16)
    given = {"q": q, "k": k, "pe": pe, "out": torch.zeros_like(k)}
    x = given[which]
    steps = [0, 0, 0]
    inner = x[0, 0, 0].numel()
    for i in (2, 1, 0):
        steps[i] = inner + (i == axis)
        inner = -(-x.shape[i] * steps[i] // 8) * 8
    storage = torch.zeros(inner, dtype=x.dtype)
    given[which] = storage.as_strided(x.shape, (*steps, *x.stride()[3:])).copy_(x)
    out = (torch.zeros_like(q), given["out"])
    seen = assert_same(walk, given["q"], given["k"], given["pe"], out=out)
    assert seen.access_bytes == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place(walk, dtype) -> None:
    q, k, pe = make((2, 9, 9, 5, 64, 1, 1), dtype)
    expected = seed_apply_rope(q, k, pe)
    q_out, k_out, _ = walk(q, k, pe, out=(q, k))
    assert same_bits(q_out, expected[0])
    assert same_bits(k_out, expected[1])


def test_nothing_around_the_outputs_is_written(walk) -> None:
    q, k, pe = make((2, 3, 3, 5, 22, 1, 1), torch.float16)
    rooms = [torch.full((x.numel() + 64,), -7.0, dtype=x.dtype) for x in (q, k)]
    out = tuple(room[32:-32].view(q.shape) for room in rooms)
    assert_same(walk, q, k, pe, out=out)
    for room in rooms:
        assert bool((room[:32] == -7).all())
        assert bool((room[-32:] == -7).all())


@pytest.mark.parametrize("most_heads", [1, 2, 3, 4, 5, 12, 100])
@pytest.mark.parametrize("enough_blocks", [1, 8])
def test_any_number_of_heads_a_thread(walk, most_heads, enough_blocks) -> None:
    for shape in [(2, 13, 5, 9, 32, 1, 1), (1, 7, 7, 9, 32, 1, 7)]:
        q, k, pe = make(shape, torch.bfloat16)
        tuning = (1 << 30, enough_blocks, most_heads)
        seen = assert_same(walk, q, k, pe, tuning=tuning)
        assert seen.heads_per_thread <= most_heads


def test_few_columns_get_many_threads(walk) -> None:
    few = assert_same(walk, *make((2, 32, 8, 1, 128, 1, 1), torch.float16))
    assert few.heads_per_thread == 1
    many = assert_same(
        walk, *make((2, 32, 8, 3, 128, 1, 1), torch.float16), tuning=(1 << 30, 1, 12)
    )
    assert many.heads_per_thread == 12  # 32 heads in batches of four: 12, 12 and 8


@pytest.mark.parametrize("most_columns", [1, 16, 40, 100, 1000])
@pytest.mark.parametrize("shape", [(3, 4, 2, 5, 64, 3, 1), (3, 4, 4, 5, 64, 1, 4)], ids=str)
def test_more_columns_than_a_launch_holds(walk, shape, most_columns) -> None:
    q, k, pe = make(shape, torch.float16)
    tuning = (most_columns, *DEFAULT_TUNING[1:])
    seen = assert_same(walk, q, k, pe, tuning=tuning)
    rows = max(1, most_columns // 8)  # 64 elements are eight units
    B, L = shape[0], shape[3]
    whole = -(-B // min(B, rows // L)) if rows >= L else B * -(-L // rows)
    assert seen.launches == whole


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_empty_tensors_launch_nothing(walk, axis) -> None:
    sizes = [2, 3, 4, 8]
    sizes[axis] = 0
    q = torch.zeros(sizes)
    pe = torch.zeros(1, 1, sizes[2], sizes[3] // 2, 2, 2)
    _, _, seen = walk(q, q, pe)
    assert seen.launches == 0


def test_one_tensor_alone(walk) -> None:
    q, k, pe = make((2, 5, 3, 4, 32, 1, 1), torch.float16)
    alone, none, seen = walk(q, None, pe)
    assert none is None
    assert seen.launches == 1
    assert same_bits(alone, seed_apply_rope(q, k, pe)[0])


def test_disagreeing_sizes_are_invalid(walk) -> None:
    q, k, pe = make((2, 4, 2, 3, 8, 1, 1), torch.float32)
    out = (torch.empty_like(q), torch.empty_like(k))

    def status(**changes) -> int:
        params = parameters(q, k, pe, out)
        for name, value in changes.items():
            holder, _, field = name.rpartition("__")
            setattr(getattr(params, holder) if holder else params, field, value)
        return walk.status(params)[0]

    assert status() == 0
    wrong = [{"head_size": 7}, {"batch": -1}, {"length": -1}, {"pe__batch": 3}, {"pe__heads": 4}]
    wrong += [{"pe__heads": 0}, {"q__heads": -1}, {"q__in_": None}, {"k__out": None}]
    wrong += [{"pe__first": None}, {"type": 9}, {"head_size": 1 << 21}, {"q__heads": 1 << 17}]
    assert [status(**changes) for changes in wrong] == [INVALID_VALUE] * len(wrong)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (0, {-1: False, 0: False, 1: True, 1 << 30: True, (1 << 30) + 1: False, 1 << 62: False}),
        (1, {-1: False, 0: True, 1: True}),
        (2, {-1: False, 0: False, 1: True, 1 << 62: True}),
    ],
)
def test_unusable_tuning_is_invalid(walk, field, values) -> None:
    q, k, pe = make((2, 4, 4, 3, 8, 1, 1), torch.float32)
    for value, is_usable in values.items():
        tuning = (*DEFAULT_TUNING[:field], value, *DEFAULT_TUNING[field + 1 :])
        status, _ = walk.status(parameters(q, k, pe, (q, k)), tuning=tuning)
        assert status == (0 if is_usable else INVALID_VALUE), value


def test_division_by_multiplication(walk) -> None:
    largest = 2**31 - 1
    divisors = [1, 2, 3, 5, 7, 16, 64, 127, 128, 641, 4608, 65535, 65537, 2**30 - 1, 2**30]
    divisors += [2**30 + 1, largest, 2**31]
    for divisor in divisors:
        near = [m * divisor + d for m in (0, 1, 2, largest // divisor) for d in (-1, 0, 1)]
        numbers = {n for n in (*near, 0, 1, largest, largest - 1) if 0 <= n <= largest}
        assert all(walk.quotient(n, divisor) == n // divisor for n in numbers), divisor
