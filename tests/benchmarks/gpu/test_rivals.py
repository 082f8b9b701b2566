"""How other kernels are called, held to stand-ins that compute what their projects document."""

from __future__ import annotations

import sys
from functools import partial
from types import ModuleType

import pytest
import torch

from benchmarks.gpu import flashinfer as flashinfer_module
from benchmarks.gpu import rivals
from benchmarks.gpu.correct import is_rotation
from benchmarks.gpu.shapes import Shape, make_problem
from benchmarks.gpu.verdict import Skipped

CPU = torch.device("cpu")
SHAPES = [
    Shape("one", 1, 6, 2, 9, 64),
    Shape("own positions", 3, 4, 4, 5, 128, pe_batch=3),
    Shape("decode", 5, 4, 2, 1, 64, pe_batch=5),
]
IDS = [shape.name for shape in SHAPES]


@pytest.fixture(params=SHAPES, ids=IDS)
def problem(request):
    return make_problem(request.param, "fp16", CPU, 0)


class LigerRopeFunction:
    """Liger's: (B, H, L, D) whose memory is (B, L, H, D), rotated in place by halves."""

    @staticmethod
    def apply(q, k, cos, sin):
        for x in (q, k):
            by_token = x.transpose(1, 2)
            assert by_token.is_contiguous()
            # its kernel finds a row by this stride, also where the length is 1
            assert by_token.stride(1) == by_token.shape[2] * by_token.shape[3]
            assert cos.shape in {(1, *x.shape[2:]), (x.shape[0], *x.shape[2:])}
            first, second = x.chunk(2, -1)
            c, s = (table[:, None, :, : x.shape[-1] // 2] for table in (cos, sin))
            x.copy_(torch.cat([first * c - second * s, second * c + first * s], -1))
        return q, k


def test_liger(problem, monkeypatch) -> None:
    module = ModuleType("liger_kernel.ops.rope")
    module.LigerRopeFunction = LigerRopeFunction
    monkeypatch.setitem(sys.modules, "liger_kernel.ops.rope", module)
    contender = rivals.liger()
    before = problem.q.clone()
    call = contender.prepare(problem)
    assert contender.wrong(problem, call.run()) == ""
    assert torch.equal(problem.q, before)
    assert not call.checked_again
    tables = problem.cos.numel() * 2 * problem.q.element_size()
    assert call.moved_bytes == problem.data_bytes + tables


_ROTARY = '''
import torch

def apply_rotary(x, cos, sin, seqlen_offsets=0, interleaved=False):
    """flash-attention's: x (B, L, H, D), cos and sin (rows, D/2) of its type."""
    assert x.dtype == cos.dtype == sin.dtype
    batch, length, heads, head_size = x.shape
    starts = torch.as_tensor(seqlen_offsets).expand(batch)
    rows = starts[:, None] + torch.arange(length)
    c, s = (table[rows][:, :, None].float() for table in (cos, sin))
    x = x.float()
    x0, x1 = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    parts = (x0 * c - x1 * s, x0 * s + x1 * c)
    out = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    return out.to(cos.dtype)
'''


def test_flash_attention_from_a_file(problem, tmp_path) -> None:
    path = tmp_path / "rotary.py"
    path.write_text(_ROTARY)
    contenders = rivals.flash_attention(path)
    assert [c.pairing for c in contenders] == ["interleaved", "half"]
    for contender in contenders:
        assert contender.wrong(problem, contender.prepare(problem).run()) == ""


def rotate_like_flashinfer(q, k, table, positions, interleaved):
    """Tokens (N, H, D), rows of D/2 cosines and D/2 sines, a row a token."""
    rows = table[positions.long()]
    cos, sin = (part[:, None] for part in rows.chunk(2, -1))
    outputs = []
    for x in (q.float(), k.float()):
        x0, x1 = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
        parts = (x0 * cos - x1 * sin, x0 * sin + x1 * cos)
        outputs.append(torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1))
    return outputs


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
def test_tables_and_positions_of_flashinfer(problem, pairing) -> None:
    tokens = [rivals.by_token(x) for x in (problem.q, problem.k)]
    rotated = rotate_like_flashinfer(
        *(x.flatten(0, 1) for x in tokens),
        flashinfer_module.cos_sin(problem),
        flashinfer_module.token_positions(problem),
        pairing == "interleaved",
    )
    outputs = [
        part.view(x.shape).transpose(1, 2).half() for part, x in zip(rotated, tokens, strict=True)
    ]
    assert partial(is_rotation, pairing=pairing)(problem, outputs) == ""


def test_flashinfer_is_given_pointers_sizes_and_strides(problem, device) -> None:
    asked = []

    def rotate(*arguments) -> int:
        asked.append(arguments)
        return 0

    call = flashinfer_module._call(device, rotate, True, problem)
    q_out, k_out = call.run()
    (kind, q, k, table, positions, tokens, head_size, interleaved, stream) = asked[0]
    batch, heads, length, size = problem.q.shape
    assert (kind, tokens, head_size, interleaved, stream) == (0, batch * length, size, 1, 0)
    assert table != 0
    assert positions != 0
    q, k = q._obj, k._obj
    assert (q.heads, q.token_stride, q.head_stride) == (heads, heads * size, size)
    assert (k.heads, k.token_stride) == (problem.k.shape[1], problem.k.shape[1] * size)
    assert (q.out, k.out) == (q_out.data_ptr(), k_out.data_ptr())
    assert (q_out.shape, k_out.shape) == (problem.q.shape, problem.k.shape)


def test_the_last_row_of_flashinfers_table_has_one_behind_it(problem) -> None:
    table = flashinfer_module.cos_sin(problem)
    assert table.shape[0] == int(flashinfer_module.token_positions(problem).max()) + 2


@pytest.mark.parametrize(("dtype", "head_size"), [("fp32", 64), ("fp16", 80)])
def test_what_flashinfer_does_not_take_is_skipped(device, dtype, head_size) -> None:
    problem = make_problem(Shape("a", 1, 2, 2, 3, head_size), dtype, CPU, 0)
    with pytest.raises(Skipped, match="FlashInfer takes float16 and bfloat16"):
        flashinfer_module._call(device, lambda *_: 0, True, problem)


def test_a_failed_launch_of_flashinfer_raises(problem, device) -> None:
    with pytest.raises(Exception, match="status -1"):
        flashinfer_module._call(device, lambda *_: -1, True, problem).run()


def test_what_is_not_installed_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.ops.rope", None)
    monkeypatch.setitem(sys.modules, "flash_attn.ops.triton.rotary", None)
    monkeypatch.setattr(flashinfer_module, "find_spec", lambda name: None)
    with pytest.raises(Skipped, match="MISSING: liger-kernel"):
        rivals.liger()
    with pytest.raises(Skipped, match=r"MISSING: flash_attn .*--flash-attention FILE"):
        rivals.flash_attention(None)
    with pytest.raises(Skipped, match=r"no Python file"):
        rivals.flash_attention(tmp_path / "rotary.py")
    with pytest.raises(Skipped, match=r"it is not installed; .*--flashinfer DIR"):
        flashinfer_module.find_headers(None)
    with pytest.raises(Skipped, match="holds no include/flashinfer"):
        flashinfer_module.find_headers(tmp_path)


def test_flashinfers_headers_are_found(tmp_path) -> None:
    header = tmp_path / "include" / "flashinfer" / "pos_enc.cuh"
    header.parent.mkdir(parents=True)
    header.touch()
    assert flashinfer_module.find_headers(tmp_path) == tmp_path


@pytest.mark.parametrize("length", [1, 5])
def test_a_rivals_copy_is_its_own_and_dense(length) -> None:
    x = torch.randn(3, 4, length, 8)
    moved = rivals.by_token(x)
    assert moved.stride() == (length * 32, 32, 8, 1)
    assert moved.data_ptr() != x.data_ptr()
    assert torch.equal(moved.transpose(1, 2), x)
