"""What Liger's functions compute, as their project documents it, and what they want of arrays."""

from __future__ import annotations

import torch

from benchmarks.gpu.shapes import rotated_by_tables


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
            tables = (table[:, None, :, : x.shape[-1] // 2] for table in (cos, sin))
            x.copy_(rotated_by_tables(x, *tables, "half"))
        return q, k


class LigerRMSNormFunction:
    """Liger's, of rows: the casting of Llama's norm."""

    @staticmethod
    def apply(x, scale, epsilon, offset, casting_mode, in_place):
        assert (offset, casting_mode, in_place) == (0.0, "llama", False)
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        return normed.to(x.dtype) * scale
