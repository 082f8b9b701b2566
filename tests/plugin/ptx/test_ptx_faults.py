"""Faults that are planted in the kernel's sources, compiled, and run: each must be found.

Each names the checks that find it, all of them: a fault that computes the right values, written
twice, shows that the count of writes is a check of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from plugin.ptx.cases import Case, beside
from plugin.ptx.compiled import Build, Edit
from plugin.ptx.launches import Form
from plugin.ptx.parse import UnknownPtxError
from plugin.ptx.trial import Trial

MATRICES = Form(tables=False, halves=False, partial=False)
COLUMN, DISPATCH = "include/ropeexport/column.cuh", "include/ropeexport/dispatch.cuh"
WORK, MEMORY = "include/ropeexport/work.cuh", "include/ropeexport/memory.cuh"
LAUNCHING = "include/ropeexport/apply_rope.cuh"
ARITHMETIC, POLICIES = "include/ropeexport/arithmetic.cuh", "include/ropeexport/policies.cuh"

PLAIN = Case("plain", "fp16", MATRICES)
TABLES = Case("tables", "fp32", Form(tables=True, halves=True, partial=False))
PARTIAL = Case("partial", "bf16", Form(True, False, True), rotary_size=32)
TRANSPOSING = replace(PLAIN, layout="BLHD", out_layout="BHLD")

HALVES_PARTIAL = replace(PARTIAL, form=Form(True, True, True))

LEFT_OUT = {"values", "written", "read"}
FUSED_OF = "rounded_sum(rounded_product(a0, x.first), rounded_product(a1, x.second))"


@dataclass(frozen=True)
class Planted:
    """A fault, a case that meets it, and the checks that find it.

    ``whole``: in the choice of the source that has the form's kernels, so all of them are needed.
    """

    name: str
    edits: tuple[Edit, ...]
    case: Case
    checks: set[str]
    whole: bool = False

    def __str__(self) -> str:
        return self.name


PLANTED = (
    Planted(
        "the head stride of the input for the output",
        (Edit(COLUMN, "out_stride = x.out_strides.head", "out_stride = x.in_strides.head"),),
        TRANSPOSING,
        {"values", "written"},
    ),
    Planted(
        "the row of the input for the output",
        (Edit(COLUMN, "row_offset(x.out_strides,", "row_offset(x.in_strides,"),),
        TRANSPOSING,
        {"OutOfBoundsError"},
    ),
    Planted(
        "a group's last heads, which are no whole batch, not done",
        (
            Edit(
                COLUMN,
                "  for (; heads.left > 0; heads.advance(V::kHeadsInFlight)) {\n    rotate_batch",
                "  for (; heads.left >= V::kHeadsInFlight; heads.advance(V::kHeadsInFlight)) {\n"
                "    rotate_batch",
            ),
        ),
        PLAIN,
        LEFT_OUT,
    ),
    Planted(
        "a tensor's last group of heads not done",
        (Edit(WORK, "q_groups = ceil_div(p.q.heads, q_heads)", "q_groups = p.q.heads / q_heads"),),
        replace(PLAIN, heads=13, k_heads=12),
        LEFT_OUT,
    ),
    Planted(
        "the block of the last columns not launched",
        (Edit(WORK, "ceil_div(columns, kThreads) * (q_", "columns / kThreads * (q_"),),
        replace(PLAIN, length=33),
        LEFT_OUT,
    ),
    Planted(
        "the last column left out",
        (Edit(COLUMN, "column < work.columns", "column + 1 < work.columns"),),
        PLAIN,
        LEFT_OUT,
    ),
    Planted(
        "columns beyond the last one",
        (Edit(COLUMN, "column < work.columns", "column <= work.columns"),),
        PLAIN,
        {"OutOfBoundsError"},
    ),
    Planted(
        "the heads after the last one",
        (Edit(COLUMN, "heads.left > x.heads_per_group", "true"),),
        replace(PLAIN, heads=13),
        {"OutOfBoundsError"},
    ),
    Planted(
        "the sine's sign",
        (Edit(POLICIES, "dot(cos[pair], -sin[pair], x)", "dot(cos[pair], sin[pair], x)"),),
        TABLES,
        {"values"},
    ),
    Planted(
        "wide accesses of arrays that are not aligned",
        (Edit(DISPATCH, "is_aligned(x.in, kBytes) && is_aligned(x.out, kBytes)", "true"),),
        replace(PLAIN, **beside(1)),
        {"MisalignedError"},
    ),
    Planted(
        "wide accesses of rows that are not aligned",
        (Edit(DISPATCH, "|| s.length % width == 0", "|| s.length % 1 == 0"),),
        replace(PLAIN, layout="rows 1 apart"),
        {"MisalignedError"},
    ),
    Planted(
        "the first head of a batch done by the batch before it as well",
        (
            Edit(
                COLUMN,
                "heads.advance(V::kHeadsInFlight)) {\n    rotate_batch",
                "heads.advance(V::kHeadsInFlight - 1)) {\n    rotate_batch",
            ),
        ),
        PLAIN,
        {"written", "read"},
    ),
    Planted(
        "a product and a sum fused",
        (
            Edit(ARITHMETIC, "#include <cuda_fp16.h>", "#include <cuda_fp16.h>\n#include <math.h>"),
            Edit(ARITHMETIC, FUSED_OF, "fmaf(a0, x.first, rounded_product(a1, x.second))"),
        ),
        replace(PLAIN, dtype="fp32"),
        {"values"},
    ),
    Planted(
        "data read as if no thread wrote it",
        (Edit(MEMORY, "__ldcs(", "__ldg("),),
        replace(PLAIN, in_place=True),
        {"ForbiddenError"},
    ),
    Planted(
        "results written where the data was read",
        (Edit(COLUMN, "reinterpret_cast<T*>(x.out) + out", "(T*)x.in + in"),),
        PLAIN,
        {"ForbiddenError"},
    ),
    Planted(
        "a head's offset in 32 bits",
        (Edit(COLUMN, "head * strides.head", "static_cast<std::int32_t>(head * strides.head)"),),
        replace(PLAIN, layout="far heads", tuning=(1 << 30, 1, 3)),
        LEFT_OUT,
    ),
    Planted(
        "the neighbour's part of a row written",
        (
            Edit(
                COLUMN,
                "reinterpret_cast<T*>(x.out) + out + offset",
                "(T*)x.out + out + (offset ^ 8)",
            ),
        ),
        replace(PLAIN, in_place=True),
        {"values", "order"},
    ),
    Planted(
        "no matrices loaded",
        (Edit(COLUMN, "  if (!V::kCoefficientsPerHead) load", "  if (work.columns == 0) load"),),
        PLAIN,
        {"UninitialisedError"},
    ),
    Planted(
        "the matrices of the first batch for all",
        (Edit(WORK, "if (pe.batch == 1) pe", "pe"),),
        replace(PLAIN, pe_batch=2),
        {"values", "read"},
    ),
    Planted(
        "the rest of a row not copied",
        (
            Edit(
                COLUMN,
                "for (; heads.left > 0; heads.advance(V::kHeadsInFlight)) copy_batch<V>(heads);",
                "",
            ),
        ),
        PARTIAL,
        LEFT_OUT,
    ),
)


def _unaligned(old: str, case: Case, new: str = "true") -> Planted:
    """Return a fault of the dispatch by which it takes accesses that are too wide for the case."""
    return Planted(f"{old}: {new}", (Edit(DISPATCH, old, new),), case, {"MisalignedError"})


UNALIGNED = (
    _unaligned("tensor_allows<V>(p, p.q)", replace(PLAIN, **beside(1, "q"))),
    _unaligned("tensor_allows<V>(p, p.k)", replace(PLAIN, **beside(1, "k"))),
    _unaligned(
        "tensor_allows<V>(p, p.k)", replace(PLAIN, **beside(1, "k")), "tensor_allows<V>(p, p.q)"
    ),
    _unaligned("is_aligned(x.in, kBytes)", replace(PLAIN, **beside(1, "q"))),
    _unaligned("is_aligned(x.out, kBytes)", replace(PLAIN, **beside(1, "q's output"))),
    _unaligned("is_aligned(p.pe.first, kBytes)", replace(PLAIN, **beside(1, "coefficients"))),
    _unaligned("is_aligned(p.pe.second, kBytes)", replace(TABLES, **beside(1, "sines"))),
    _unaligned(
        "strides_allow(x.in_strides, p.batch, x.heads, p.length, kWidth)",
        replace(PLAIN, layout="rows 1 apart", out_layout="BHLD"),
    ),
    _unaligned(
        "strides_allow(x.out_strides, p.batch, x.heads, p.length, kWidth)",
        replace(PLAIN, out_layout="rows 1 apart"),
    ),
    _unaligned(
        "strides_allow(p.pe.strides, p.pe.batch, p.pe.heads, p.length, kWidth)",
        replace(PLAIN, pe_layout="rows 1 apart"),
    ),
    _unaligned("(batch == 1 || s.batch % width == 0)", replace(PLAIN, layout="batches 1 apart")),
    _unaligned("(heads == 1 || s.head % width == 0)", replace(PLAIN, layout="heads 1 apart")),
    _unaligned("(length == 1 || s.length % width == 0)", replace(PLAIN, layout="rows 1 apart")),
    _unaligned(
        "p.pe.batch, p.pe.heads, p.length, kWidth",
        replace(PLAIN, pe_batch=2, pe_layout="batches 1 apart"),
        "1, p.pe.heads, p.length, kWidth",
    ),
    _unaligned(
        "p.pe.batch, p.pe.heads, p.length, kWidth",
        replace(PLAIN, per_head=True, pe_layout="heads 1 apart"),
        "p.pe.batch, 1, p.length, kWidth",
    ),
)

_WHOLE_ROW = {"OutOfBoundsError"}  # of a part's coefficients
LAUNCHED = (
    Planted(
        "halves: a part for the whole",
        (Edit("src/launch_halves.cu", "return form.partial ?", "return !form.partial ?"),),
        HALVES_PARTIAL,
        _WHOLE_ROW,
    ),
    Planted(
        "neighbours: a part for the whole",
        (Edit("src/launch_neighbours.cu", "return form.partial ?", "return !form.partial ?"),),
        PARTIAL,
        _WHOLE_ROW,
    ),
    Planted(
        "matrices: halves for neighbours",
        (Edit("src/launch_matrices.cu", "return form.halves ?", "return !form.halves ?"),),
        PLAIN,
        {"values"},
    ),
    Planted(
        "tables: halves for neighbours",
        (
            Edit(
                "src/launch.h",
                "return form.halves ? enqueue_halves(",
                "return !form.halves ? enqueue_halves(",
            ),
        ),
        TABLES,
        {"values"},
        whole=True,
    ),
    Planted(
        "a row of the table of forms",
        (Edit("src/forms.h", 'NAME "Half", false, true,', 'NAME "Half", false, false,'),),
        replace(PLAIN, form=Form(tables=False, halves=True, partial=False)),
        {"values"},
    ),
    Planted(
        "blocks of half the threads",
        (Edit(LAUNCHING, "dim3(kThreads)", "dim3(kThreads / 2)"),),
        PLAIN,
        LEFT_OUT,
    ),
    Planted(
        "blocks of more threads than the kernel is compiled for",
        (Edit(LAUNCHING, "dim3(kThreads)", "dim3(kThreads * 2)"),),
        PLAIN,
        {"launch"},
    ),
    Planted(
        "a block left out",
        (Edit(LAUNCHING, "dim3(work.blocks)", "dim3(work.blocks - 1)"),),
        PLAIN,
        LEFT_OUT,
    ),
    Planted(
        "each block twice",
        (Edit(LAUNCHING, "dim3(work.blocks)", "dim3(work.blocks, 2)"),),
        PLAIN,
        {"launch"},
    ),
    Planted(
        "another stream",
        (Edit(LAUNCHING, "arguments, 0, stream)", "arguments, 0, nullptr)"),),
        PLAIN,
        {"launch"},
    ),
    Planted(
        "shared memory that no kernel uses",
        (Edit(LAUNCHING, "arguments, 0, stream)", "arguments, 64, stream)"),),
        PLAIN,
        {"launch"},
    ),
)


@pytest.mark.parametrize("planted", [*PLANTED, *UNALIGNED, *LAUNCHED], ids=str)
def test_a_planted_fault_is_found(build, planted) -> None:
    assert Trial(planted.case).run(build) == []
    form = None if planted.whole else planted.case.form
    faulty = Build(form, planted.edits, planted.case.dtype)
    findings = Trial(planted.case).run(faulty)
    assert {finding.check for finding in findings} == planted.checks, findings


def test_another_rounding_is_unknown() -> None:
    edit = Edit(
        ARITHMETIC,
        "__floats2half2_rn(a, b)",
        "__halves2half2(__float2half_rz(a), __float2half_rz(b))",
    )
    with pytest.raises(UnknownPtxError, match=r"cvt\.rz\.f16\.f32"):
        _ = Build(MATRICES, [edit]).kernels


def test_products_that_may_be_fused_are_unknown() -> None:
    """Without a rounding in its name an instruction leaves the fusing to the assembler."""
    edit = Edit(ARITHMETIC, "__fmul_rn(a, b)", "a * b")
    with pytest.raises(UnknownPtxError, match=r"mul\.f32"):
        _ = Build(MATRICES, [edit]).kernels
