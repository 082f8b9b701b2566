"""The torch custom ops: torch's own checks, gradients, and traces that keep their sizes dynamic."""

from __future__ import annotations

import pytest
import torch

import ropeexport
from ropeexport.op import apply_rope_op, rope_table_op


def arguments(dtype: torch.dtype, heads_k: int = 2, grad: bool = False) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((2, 2, 3, 4), (2, heads_k, 3, 4), (1, 1, 3, 2, 2, 2))
    return tuple(torch.randn(s, dtype=dtype).requires_grad_(grad) for s in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_opcheck_of_apply_rope(dtype: torch.dtype) -> None:
    torch.library.opcheck(apply_rope_op, arguments(dtype, grad=dtype.itemsize > 2))


def test_opcheck_of_data_that_is_not_contiguous() -> None:
    q, k, pe = arguments(torch.float32)
    permuted = q.transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(apply_rope_op, (permuted, k, pe))


def test_opcheck_of_rope_table() -> None:
    torch.library.opcheck(rope_table_op, (torch.arange(12).view(3, 4), 64, 1e4))


@pytest.mark.parametrize("heads_k", [2, 1])
def test_gradients(heads_k: int) -> None:
    inputs = arguments(torch.float64, heads_k, grad=True)
    assert torch.autograd.gradcheck(ropeexport.apply_rope, inputs)
    assert torch.autograd.gradgradcheck(ropeexport.apply_rope, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_reach_data_of_every_type(dtype: torch.dtype) -> None:
    q, k, pe = arguments(dtype, grad=True)
    sum(x.sum() for x in ropeexport.apply_rope(q, k, pe)).backward()
    assert [x.grad.dtype for x in (q, k, pe)] == [dtype] * 3


def test_a_trace_keeps_batch_and_length_dynamic() -> None:
    class Rotate(torch.nn.Module):
        def forward(self, q, k, pe):
            return ropeexport.apply_rope(q, k, pe)

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    example = (torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 6, 4, 2, 2))
    shapes = ({0: batch, 2: length}, {0: batch, 2: length}, {0: batch, 1: length})
    program = torch.export.export(Rotate(), example, dynamic_shapes=shapes)
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.ropeexport.apply_rope.default in targets
    other = (torch.randn(3, 4, 9, 8), torch.randn(3, 4, 9, 8), torch.randn(3, 9, 4, 2, 2))
    for traced, eager in zip(program.module()(*other), Rotate()(*other), strict=True):
        assert torch.equal(traced, eager)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_equals_cpu_bit_for_bit(dtype: torch.dtype) -> None:
    inputs = arguments(dtype)[:2] + arguments(torch.float32)[2:]
    for gpu, cpu in zip(
        ropeexport.apply_rope(*(x.cuda() for x in inputs)),
        ropeexport.apply_rope(*inputs),
        strict=True,
    ):
        assert torch.equal(gpu.cpu(), cpu)
