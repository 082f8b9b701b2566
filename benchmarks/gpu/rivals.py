"""Other people's rotary kernels, where they are installed or at hand, each in its own layout.

Liger rotates q and k in place, halves; flash-attention's Triton kernel one tensor a launch; both
want (B, L, H, D) in memory and tables in the type of the data.  Their calls follow
``liger_kernel.ops.rope`` and ``flash_attn.ops.triton.rotary``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.gpu.contenders import Call, Contender
from benchmarks.gpu.correct import Outputs, is_rotation
from benchmarks.gpu.seed import module_from
from benchmarks.gpu.shapes import Problem
from benchmarks.gpu.verdict import Skipped

LIGER = "Liger"
FLASH_ATTENTION = "flash-attention"


def by_token(x: Tensor) -> Tensor:
    """Return a copy of x (B, H, L, D) that lies as (B, L, H, D) in memory.

    Never ``contiguous()``: where L is 1 it returns x itself, which a rival would overwrite, with
    strides of that axis that a rival takes for those of a row.
    """
    moved = x.transpose(1, 2)
    return torch.empty(moved.shape, dtype=x.dtype, device=x.device).copy_(moved)


def liger() -> Contender:
    """Return Liger's kernel; :class:`Skipped` where it cannot be imported."""
    try:
        function = import_module("liger_kernel.ops.rope").LigerRopeFunction
    except (ImportError, OSError) as error:
        raise Skipped(f"MISSING: liger-kernel ({error})") from error
    wrong = partial(is_rotation, pairing="half")
    return Contender(LIGER, partial(_liger_call, function), wrong, "half", "tables")


def _liger_call(function: type[torch.autograd.Function], problem: Problem) -> Call:
    q, k = (by_token(x).transpose(1, 2) for x in (problem.q, problem.k))
    # as transformers makes them: each half twice, of which the kernel reads one
    tables = [torch.cat([x, x], dim=-1)[:, 0].to(q.dtype) for x in (problem.cos, problem.sin)]

    def run() -> Outputs:
        rotated: Outputs = function.apply(q, k, *tables)
        return rotated

    moved = problem.data_bytes + sum(table.nbytes // 2 for table in tables)
    return Call(run, moved, checked_again=False)


def flash_attention(path: Path | None) -> list[Contender]:
    """Return flash-attention's Triton rotary, both pairings, from a file or the installed package.

    Raises
    ------
    Skipped
        Where neither can be imported.
    """
    module = _flash_attention_module(path)
    return [
        Contender(
            FLASH_ATTENTION if pairing == "interleaved" else f"{FLASH_ATTENTION}, halves",
            partial(_flash_attention_call, module.apply_rotary, pairing == "interleaved"),
            partial(is_rotation, pairing=pairing),
            pairing,
            "tables",
        )
        for pairing in ("interleaved", "half")
    ]


def _flash_attention_module(path: Path | None) -> ModuleType:
    try:
        if path is not None:
            return module_from(path)
        return import_module("flash_attn.ops.triton.rotary")
    except (ImportError, OSError) as error:
        raise Skipped(
            f"MISSING: flash_attn ({error}); or name its ops/triton/rotary.py with "
            "--flash-attention FILE"
        ) from error


def _flash_attention_call(
    rotate: Callable[..., Tensor], interleaved: bool, problem: Problem
) -> Call:
    q, k = (by_token(x) for x in (problem.q, problem.k))
    tables = [_rows(x).to(q.dtype) for x in (problem.cos, problem.sin)]
    options = {"interleaved": interleaved, "seqlen_offsets": _row_offsets(problem)}

    def run() -> Outputs:
        q_out, k_out = (rotate(x, *tables, **options) for x in (q, k))
        return q_out.transpose(1, 2), k_out.transpose(1, 2)

    return Call(run, problem.data_bytes + sum(table.nbytes for table in tables))


def _rows(table: Tensor) -> Tensor:
    """Return a table (Bp, 1, L, D/2) as (Bp * L, D/2), a row a position."""
    return table.flatten(0, 2).contiguous()


def _row_offsets(problem: Problem) -> Tensor | int:
    """Return the row at which each sequence's tables begin."""
    batches, _, length, _ = problem.cos.shape
    if batches == 1:
        return 0
    starts = torch.arange(batches, device=problem.q.device, dtype=torch.int32)
    return starts * length
