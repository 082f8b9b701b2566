"""The interpreter itself: its roundings, its checks, and what it refuses."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from plugin.ptx.instructions import OPERATIONS
from plugin.ptx.interpreter import EndlessError, Kernel, UninitialisedError
from plugin.ptx.memory import ForbiddenError, Memory, MisalignedError, OutOfBoundsError, Use
from plugin.ptx.parse import UnknownPtxError, parse
from plugin.ptx.shared import ExchangeError

READABLE, WRITABLE = 0x1000, 0x2000  # rows of 64 bytes, 128 bytes apart, four of each
THREADS = 32


def kernel(body: str, shared: str = "") -> Kernel:
    registers = "".join(f".reg .{kind} %{name}<9>;" for name, kind in REGISTERS.items())
    head = ".visible .entry test(.param .align 8 .b8 test_param_0[16])\n.maxntid 32, 1, 1\n"
    (entry,) = parse(f"{shared}\n{head}{{ {registers} {body} ret; }}")
    return Kernel(entry)


REGISTERS = {"p": "pred", "rs": "b16", "r": "b32", "rd": "b64", "f": "f32"}


def run(body: str, threads: int = THREADS, shared: str = "") -> np.ndarray:
    """Run a body whose argument is the two arrays' addresses; return what was written."""
    memory = Memory()
    rows = np.arange(4, dtype=np.uint64) * np.uint64(128)
    data = np.arange(64, dtype=np.uint32).view(np.uint8).reshape(4, 64)
    memory.add("input", READABLE + rows, data, Use.READ)
    output = memory.add("output", WRITABLE + rows, np.zeros_like(data), Use.WRITE)
    argument = np.array([READABLE, WRITABLE], np.uint64).tobytes()
    kernel(body, shared).run(argument, np.zeros(1, np.uint32), threads, memory)
    return memory.rows(output).view(np.uint32)


def test_the_most_threads_of_a_block_are_those_it_was_compiled_for() -> None:
    assert kernel("").entry.most_threads == 32
    (entry,) = parse(".visible .entry test(.param .align 8 .b8 p[16]) { ret; }")
    assert entry.most_threads == 1024


ADDRESSES = """
    ld.param.u64 %rd1, [test_param_0];
    ld.param.u64 %rd2, [test_param_0+8];
    mov.u32 %r1, %tid.x;
"""


def test_vectors_move_between_rows() -> None:
    moved = run(
        ADDRESSES
        + """
        mul.wide.u32 %rd3, %r1, 16; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;
        { ld.global.nc.v4.u32 {%r2, %r3, %r4, %r5}, [%rd4+128]; }
        st.global.v4.u32 [%rd5+256], {%r5, %r4, %r3, %r2};
        """,
        threads=4,
    )
    assert moved[2].tolist() == [19, 18, 17, 16, 23, 22, 21, 20, 27, 26, 25, 24, 31, 30, 29, 28]
    assert not moved[[0, 1, 3]].any()


def test_threads_part_and_meet() -> None:
    """Each goes through the loop as often as its number says; those of odd numbers add 100."""
    added = run(
        ADDRESSES
        + """
        mov.u32 %r2, 0; mov.u32 %r3, 0; and.b32 %r4, %r1, 1; setp.eq.s32 %p1, %r4, 1;
        $LOOP: setp.ge.u32 %p2, %r2, %r1; @%p2 bra $DONE;
        add.s32 %r2, %r2, 1; add.s32 %r3, %r3, 2; bra.uni $LOOP;
        $DONE: @!%p1 bra $STORE; add.s32 %r3, %r3, 100;
        $STORE: mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r3;
        """,
        threads=16,
    )
    assert added[0].tolist() == [2 * i + 100 * (i % 2) for i in range(16)]


def test_an_argument_is_widened_to_its_register() -> None:
    widened = run(
        ADDRESSES
        + """
        ld.param.u32 %rd3, [test_param_0]; ld.param.s32 %rd4, [test_param_0];
        st.global.u64 [%rd2], %rd3; st.global.u64 [%rd2+8], %rd4;
        """,
        threads=1,
    )
    assert widened[0].tolist()[:4] == [READABLE, 0, READABLE, 0]


BUTTERFLY = "shfl.sync.bfly.b32 %r2|%p1, %r1, {step}, 31, -1;"
STORE = "mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r2;"
SHARED = ".shared .align 4 .b8 sums[128];"
OWN = "mov.u32 %r4, sums; shl.b32 %r3, %r1, 2; add.s32 %r5, %r4, %r3; st.shared.u32 [%r5], %r1;"
NEXT = "xor.b32 %r6, %r3, 4; add.s32 %r7, %r4, %r6; ld.shared.u32 %r2, [%r7];"
SOME = "setp.ge.u32 %p2, %r1, 16; @%p2 bra $DONE;"


@pytest.mark.parametrize("step", [1, 8])
def test_lanes_exchange(step) -> None:
    body = ADDRESSES + BUTTERFLY.format(step=step) + SOME + STORE + "$DONE: mov.u32 %r3, 0;"
    assert run(body)[0].tolist() == [i ^ step for i in range(16)]


def test_threads_exchange_by_shared_memory() -> None:
    body = ADDRESSES + OWN + "bar.sync 0;" + NEXT + SOME + STORE + "$DONE: mov.u32 %r3, 0;"
    assert run(body, shared=SHARED)[0].tolist() == [i ^ 1 for i in range(16)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (SOME + BUTTERFLY.format(step=1) + "$DONE: mov.u32 %r3, 0;", "not all lanes"),
        (BUTTERFLY.format(step=32), "beyond the warp"),
        (SOME + "bar.sync 0; $DONE: mov.u32 %r3, 0;", "not all threads of a block"),
        (OWN + NEXT, "without a barrier"),
        (OWN + "st.shared.u32 [%r4], %r1;", "without a barrier"),
        ("mov.u32 %r4, sums; ld.shared.u32 %r2, [%r4];", "nobody wrote"),
    ],
)
def test_threads_that_do_not_wait(body, said) -> None:
    with pytest.raises(ExchangeError, match=said):
        run(ADDRESSES + body, shared=SHARED)


ERRORS = {
    "beside a row": ("ld.global.u32 %r2, [%rd1+64];", OutOfBoundsError),
    "before the first row": ("ld.global.u32 %r2, [%rd1+-4];", OutOfBoundsError),
    "after the last row": ("ld.global.u32 %r2, [%rd2+448];", OutOfBoundsError),
    "no multiple of four": ("ld.global.u32 %r2, [%rd1+2];", MisalignedError),
    "no multiple of sixteen": ("ld.global.v4.u32 {%r2,%r3,%r4,%r5}, [%rd1+8];", MisalignedError),
    "a write into an input": ("st.global.u32 [%rd1], %r1;", ForbiddenError),
    "a read of an output": ("ld.global.u32 %r2, [%rd2];", ForbiddenError),
    "no value": ("st.global.u32 [%rd2], %r7;", UninitialisedError),
    "a value in some threads": (
        "setp.eq.s32 %p1, %r1, 3; @%p1 bra $A; mov.u32 %r2, 1; $A: add.s32 %r3, %r2, 1;",
        UninitialisedError,
    ),
    "no condition": ("@%p5 bra $A; $A: mov.u32 %r2, 1;", UninitialisedError),
    "a special register that is not known": ("mov.u32 %r2, %laneid;", UnknownPtxError),
    "an endless loop": ("$A: mov.u32 %r2, 1; bra $A;", EndlessError),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name, monkeypatch) -> None:
    monkeypatch.setattr("plugin.ptx.interpreter._MOST_STEPS", 1000)
    body, error = ERRORS[name]
    with pytest.raises(error) as raised:
        run(ADDRESSES + body)
    # and the instruction is named
    assert error in (EndlessError, UnknownPtxError) or raised.match(r": (ld|st|add|@%p5 bra)\b")


def test_a_row_ends_where_the_next_begins() -> None:
    memory = Memory()
    starts = np.array([0, 24], np.uint64)
    memory.add("rows side by side", starts, np.zeros((2, 24), np.uint8), Use.READ)
    thread = np.ones(1, np.int32)
    with pytest.raises(OutOfBoundsError, match="16 bytes at 0x10"):
        memory.load(starts[:1] + np.uint64(16), np.dtype(np.uint32), 4, thread, read_only=False)


UNKNOWN = (
    *("mul.f32 %f1, %f2, %f3;", "add.f32 %f1, %f2, %f3;", "mul.rn.ftz.f32 %f1, %f2, %f3;"),
    *(
        "cvt.rz.f16.f32 %rs1, %f1;",
        "div.approx.f32 %f1, %f2, %f3;",
        "sqrt.approx.f32 %f1, %f2;",
        "atom.global.add.u32 %r1, [%rd1], %r2;",
        "bar.sync 1;",
    ),
    *("ld.shared.nc.u32 %r1, [%r1];", "ld.global.v8.u32 {%r1}, [%rd1];", "call f;"),
    *(".local .align 4 .b8 spilled[16];", "st.global.wt.u32 [%rd1], %r1;"),
)


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown_ptx_is_refused_although_it_is_not_reached(text) -> None:
    with pytest.raises(UnknownPtxError):
        kernel(f"ret; {text}")


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_conversions_round_as_torch(kind, dtype) -> None:
    """Every exponent, and what lies at, just beside and in the middle between two numbers."""
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    lower = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xF000, 0xFFFF])
    numbers = (upper | lower.astype(np.uint32)).ravel().view(np.float32)
    with np.errstate(all="ignore"):
        both = OPERATIONS[f"cvt.rn.{kind}x2.f32"].compute(numbers[::-1], numbers)
    narrow = torch.from_numpy(both.view(np.int16).reshape(-1, 2).copy()).view(dtype)
    for got, given in ((narrow[:, 0], numbers), (narrow[:, 1], numbers[::-1].copy())):
        want = torch.from_numpy(given).to(dtype)
        same = got.view(torch.int16) == want.view(torch.int16)
        assert bool((same | (got.isnan() & want.isnan())).all())


def test_products_and_sums_keep_denormals_and_round_to_even() -> None:
    product, add = (OPERATIONS[f"{name}.rn.f32"].compute for name in ("mul", "add"))

    def number(x: float) -> np.ndarray:
        return np.array([x], np.float32)

    tiny = 2.0**-149
    assert product(number(2.0**-126), number(0.5)) == 2.0**-127
    assert product(number(3 * tiny), number(0.5)) == 2 * tiny
    assert add(number(2.0**-126), number(-tiny)) == 2.0**-126 - tiny
    assert add(number(1.0), number(2.0**-24)) == 1.0
    assert add(number(1.0 + 2.0**-23), number(2.0**-24)) == 1.0 + 2.0**-22
    assert np.signbit(product(number(-0.0), number(1.0))[0])


def test_a_fused_multiply_add_rounds_once() -> None:
    fused = OPERATIONS["fma.rn.f32"].compute
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 3000)).astype(np.float32)
    c = (-(a.astype(np.float64) * b) * (1 + generator.integers(-2, 3, 3000) * 2.0**-24)).astype(
        "f4"
    )
    # sums just beside the middle of two numbers, by less than float64 can tell
    a[:3], b[:3], c[:3] = 1 + 2.0**-12, [1 + 2.0**-12, 1 - 2.0**-12, 1], [2.0**-60, -(2.0**-60), 1]
    a[3:5], b[3:5], c[3:5] = 2.0**-24, 1.0, 1.0
    a[4], c[4] = np.nextafter(np.float32(2.0**-24), np.float32(1)), 1.0
    for x, y, z, got in zip(a, b, c, fused(a, b, c), strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        error = abs(exact - Fraction(float(got)))
        for towards in (-np.inf, np.inf):
            other = np.nextafter(got, np.float32(towards))
            distance = abs(exact - Fraction(float(other)))
            is_even = int(got.view(np.uint32)) % 2 == 0
            assert error < distance or (error == distance and is_even)
    assert (fused(a, b, c) != (a * b + c)).any()
    with np.errstate(invalid="ignore"):
        infinite = fused(*np.array([[np.inf], [1.0], [-np.inf]], np.float32))
    assert np.isnan(infinite).all()
