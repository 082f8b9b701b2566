"""How other kernels are called, held to stand-ins that compute what their projects document."""

from __future__ import annotations

import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from liger_standins import LigerRopeFunction

from benchmarks.gpu import contenders
from benchmarks.gpu.shapes import Shape, beyond_rounding, make_problem, rotated_by_tables
from ropeexport.errors import MissingError, UsageError

CPU = torch.device("cpu")
SHAPES = [
    Shape("one", 1, 6, 2, 9, 64),
    Shape("own positions", 3, 4, 4, 5, 128, pe_batch=3),
    Shape("decode", 5, 4, 2, 1, 64, pe_batch=5),
]


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def problem(request):
    return make_problem(request.param, "fp16", CPU, 0)


def test_liger(problem, monkeypatch) -> None:
    module = ModuleType("liger_kernel.ops.rope")
    module.LigerRopeFunction = LigerRopeFunction
    monkeypatch.setitem(sys.modules, "liger_kernel.ops.rope", module)
    (contender,) = contenders.liger()
    before = problem.q.clone()
    call = contender.prepare(problem)
    assert contender.wrong(problem, call.run()) == ""
    assert torch.equal(problem.q, before)
    assert not call.checked_again
    tables = problem.cos.numel() * 2 * problem.q.element_size()
    assert call.moved_bytes == problem.data_bytes + tables


_ROTARY = '''
import torch
from benchmarks.gpu.shapes import rotated_by_tables

def apply_rotary(x, cos, sin, seqlen_offsets=0, interleaved=False):
    """flash-attention's: x (B, L, H, D), cos and sin (rows, D/2) of its type."""
    assert x.dtype == cos.dtype == sin.dtype
    batch, length, heads, head_size = x.shape
    starts = torch.as_tensor(seqlen_offsets).expand(batch)
    rows = starts[:, None] + torch.arange(length)
    tables = (table[rows][:, :, None].float() for table in (cos, sin))
    pairing = "interleaved" if interleaved else "half"
    return rotated_by_tables(x, *tables, pairing).to(x.dtype)
'''


def test_flash_attention_from_a_file(problem, tmp_path) -> None:
    path = tmp_path / "rotary.py"
    path.write_text(_ROTARY)
    both = contenders.flash_attention(path)
    assert [c.pairing for c in both] == ["interleaved", "half"]
    for contender in both:
        assert contender.wrong(problem, contender.prepare(problem).run()) == ""


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
def test_flashinfer_is_given_arrays_and_sizes(problem, device, pairing, monkeypatch) -> None:
    """Its function, from the addresses and sizes alone: dense tokens (N, H, D), rows of tables."""
    arrays: dict[int, torch.Tensor] = {}
    pointer = torch.Tensor.data_ptr

    def remembered(x: torch.Tensor) -> int:
        return arrays.setdefault(pointer(x), x) is None or pointer(x)

    def rotate(kind, *arguments) -> int:
        q, k, q_out, k_out, table, positions = (arrays[x] for x in arguments[:6])
        tokens, q_heads, k_heads, head_size, interleaved, stream = arguments[6:]
        assert (kind, stream) == (0, 0)
        rows = table[positions.long()]
        # beyond the last row of all: it is loaded, and must be there
        assert int(positions.max()) + 2 == table.shape[0]
        tables = [part[:, None] for part in rows.chunk(2, -1)]
        assert interleaved == (pairing == "interleaved")
        for x, out, heads in ((q, q_out, q_heads), (k, k_out, k_heads)):
            assert x.is_contiguous()
            flat = x.view(tokens, heads, head_size)
            out.view(tokens, heads, head_size).copy_(rotated_by_tables(flat, *tables, pairing))
        return 0

    call = contenders.flashinfer_call(device, rotate, pairing, problem)
    monkeypatch.setattr(torch.Tensor, "data_ptr", remembered)
    outputs = call.run()
    monkeypatch.undo()
    assert beyond_rounding(problem, outputs, pairing) == ""
    failing = contenders.flashinfer_call(device, lambda *_: -1, pairing, problem)
    with pytest.raises(RuntimeError, match="status -1"):
        failing.run()


@pytest.mark.parametrize(("dtype", "head_size"), [("fp32", 64), ("fp16", 80)])
def test_what_flashinfer_does_not_take_is_said(device, dtype, head_size) -> None:
    problem = make_problem(Shape("a", 1, 2, 2, 3, head_size), dtype, CPU, 0)
    with pytest.raises(UsageError, match="FlashInfer takes float16, bfloat16"):
        contenders.flashinfer_call(device, lambda *_: 0, "half", problem)


def test_what_is_not_there_is_named_and_stays_in_the_table(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.ops.rope", None)
    makers = {
        "liger-kernel cannot be imported": contenders.liger,
        "no Python file": partial(contenders.flash_attention, tmp_path / "rotary.py"),
        "no headers of FlashInfer": partial(contenders.find_flashinfer, tmp_path),
    }
    for said, make in makers.items():
        (absent,) = contenders.or_absent("a rival", make)
        assert absent.name == "a rival"
        with pytest.raises(MissingError, match=said):
            absent.prepare(None)


def test_flashinfers_headers_are_found(tmp_path) -> None:
    header = tmp_path / "include" / "flashinfer" / "pos_enc.cuh"
    header.parent.mkdir(parents=True)
    header.touch()
    assert contenders.find_flashinfer(tmp_path) == tmp_path


@pytest.mark.parametrize("length", [1, 5])
def test_a_rivals_copy_is_its_own_and_dense(length) -> None:
    x = torch.randn(3, 4, length, 8)
    moved = contenders.by_token(x)
    assert moved.stride() == (length * 32, 32, 8, 1)
    assert moved.data_ptr() != x.data_ptr()
    assert torch.equal(moved.transpose(1, 2), x)


@pytest.mark.plugin
def test_copies_move_as_many_bytes_as_the_op(device, host_kernel) -> None:
    problem = make_problem(SHAPES[1], "fp16", CPU, 0)
    copies = contenders.copies(device, host_kernel)
    for copy in copies:
        call = copy.prepare(problem)
        outputs = call.run()
        assert call.moved_bytes == SHAPES[1].moved_bytes("fp16")
        assert copy.wrong(problem, outputs) == ""
        outputs[1][-1] ^= 1
        assert copy.wrong(problem, outputs) != ""
    assert [copy.captured for copy in copies] == [True, False, True, True]


@pytest.mark.plugin
@pytest.mark.parametrize("mode", [None, "max-autotune-no-cudagraphs"])
def test_torch_compile_is_one_graph(mode) -> None:
    """A graph break would be an error, never an eager run under another's name."""
    problem = make_problem(SHAPES[0], "fp16", CPU, 0)
    contender = contenders.compiled(mode)
    assert contender.wrong(problem, contender.prepare(problem).run()) == ""
