"""The norm and the rotation on the host: against float64 within a bound, and bit for bit."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from plugin.host_norm import Call, HostNorm, Seen
from plugin.host_walk import DEFAULT_TUNING, INVALID_VALUE
from plugin.norm_calls import FORMS, LAYOUTS, Sizes, again, beside, make, numbers
from plugin.norm_reference import DTYPES, bit_by_bit, exact, most_additions, unit_elements

PLUGINS = Path(__file__).parents[2] / "plugins"
HEAD_SIZES = (64, 72, 80, 96, 128, 256)


@pytest.fixture(scope="session")
def norm(plugin_folder) -> HostNorm:
    """The grid of the norm, walked on the host."""
    return HostNorm(plugin_folder / "test" / "libropeexport_host_norm.so")


def same_bits(a: NDArray, b: NDArray) -> bool:
    """Say whether two arrays have the same bits, any NaN equal to any NaN."""
    kind = f"u{a.itemsize}"
    equal = np.ascontiguousarray(a).view(kind) == np.ascontiguousarray(b).view(kind)
    both_nan = np.isnan(a) & np.isnan(b)
    return a.dtype == b.dtype and bool((equal.reshape(a.shape) | both_nan).all())


def expected(call: Call, seen: Seen) -> list[NDArray]:
    """Return every bit of the outputs."""
    heads = max(x.shape[1] for x in call.data)
    width = seen.access_bytes // call.data[0].itemsize
    return [
        bit_by_bit(call.op, x, scale, call.matrices, width, heads)
        for x, scale in zip(call.data, call.scales, strict=True)
    ]


def assert_same(norm: HostNorm, call: Call, tuning: tuple[int, ...] = DEFAULT_TUNING) -> Seen:
    """Compare with what every bit must be."""
    wanted = None
    if call.out[0] is call.data[0]:
        _, seen = norm.status(again(call).params(), halves=call.op.halves, tuning=tuning)
        wanted = expected(call, seen)
    seen = norm(call, tuning)
    for got, want in zip(call.out, wanted or expected(call, seen), strict=True):
        assert same_bits(got, want)
    return seen


def assert_near(call: Call, seen: Seen) -> None:
    """Compare with float64."""
    size, heads = call.data[0].shape[-1], max(x.shape[1] for x in call.data)
    width = seen.access_bytes // call.data[0].itemsize
    additions = most_additions(call.op, size, width, heads)
    for x, scale, got in zip(call.data, call.scales, call.out, strict=True):
        want, bound = exact(call.op, x, scale, call.matrices, additions)
        assert (np.abs(got.astype(np.float64) - want) <= bound).all()


VARIANTS = [
    (layout, across_heads, scale)
    for layout, across_heads in (("BHLD", False), ("BLHD", False), ("BLHD", True))
    for scale in ("", "float32")
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_forms(norm, dtype, form, head_size) -> None:
    sizes = [
        Sizes(heads=heads, k_heads=k_heads, length=length, head_size=head_size)
        for (heads, k_heads), length in itertools.product(((1, 1), (3, 1), (3, 0)), (1, 7))
    ]
    for size, (layout, across_heads, scale) in itertools.product(sizes, VARIANTS):
        call = make(form, dtype, size, scale=scale, layout=layout, across_heads=across_heads)
        seen = assert_same(norm, call)
        assert_near(call, seen)
        second = again(call)
        norm(second)
        assert all(same_bits(a, b) for a, b in zip(call.out, second.out, strict=True))
        unit = 16 * (2 if call.op.halves else 1)
        rotary = call.op.rotary_size or head_size
        itemsize = DTYPES[dtype].itemsize
        whole = head_size * itemsize % unit == 0 and rotary * itemsize % unit == 0
        assert (seen.access_bytes == 16) == whole
        units = len(unit_elements(call.op, head_size, seen.access_bytes // itemsize))
        is_span = across_heads or units > 32
        assert (seen.row_units, seen.heads_per_thread == 0) == (units, is_span)


def test_heads_by_the_dozen(norm) -> None:
    """FLUX's heads, grouped ones, and all heads of a token that no thread keeps in registers."""
    for sizes in (
        Sizes(1, 24, 24, 7, 128),
        Sizes(1, 32, 8, 9, 128),
        Sizes(1, 40, 40, 2, 128),
        Sizes(1, 70, 1, 2, 256),
        Sizes(1, 1, 70, 2, 256),
    ):
        for dtype, across_heads in itertools.product(DTYPES, (False, True)):
            call = make("matrices", dtype, sizes, layout="BLHD", across_heads=across_heads)
            assert_near(call, assert_same(norm, call))


def test_a_token_of_more_units_than_its_block_keeps(norm) -> None:
    for form in ("matrices", "tables, halves, partial"):
        call = make(form, "float16", Sizes(1, 72, 3, 2, 128), layout="BLHD", across_heads=True)
        seen = assert_same(norm, call)
        unit = 16 if FORMS[form][1] else 8
        assert seen.threads == 512
        assert seen.threads * unit * (1 if FORMS[form][1] else 2) < 72 * 128
        assert_near(call, seen)


def test_the_norm_of_rows_and_of_tokens_is_the_same_for_one_head(norm) -> None:
    rows = make("tables", "bfloat16", Sizes(heads=1, k_heads=0, head_size=128))
    tokens = make("tables", "bfloat16", Sizes(heads=1, k_heads=0, head_size=128), across_heads=True)
    norm(rows)
    norm(tokens)
    assert same_bits(rows.out[0], tokens.out[0])


def test_each_tensor_has_the_type_of_its_scale(norm) -> None:
    sizes = Sizes(heads=3, k_heads=3)
    call = make("tables", "float16", sizes)
    call.scales[1] = call.scales[1].astype(np.float32)
    assert_same(norm, call)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("across_heads", [False, True])
@pytest.mark.parametrize("which", ["data", "out", "tables", "scales"])
@pytest.mark.parametrize("offset", [0, 1, 2, 8])
def test_unaligned_arrays(norm, dtype, across_heads, which, offset) -> None:
    for form, scale in itertools.product(("matrices", "tables, halves"), ("", "float32")):
        call = make(form, dtype, Sizes(), scale=scale, across_heads=across_heads)
        aligned = {name: [beside(x, 0) for x in getattr(call, name)] for name in _ARRAYS}
        aligned[which][-1] = beside(aligned[which][-1], offset)
        call = replace(call, **aligned)
        seen = assert_same(norm, call)
        moved = aligned[which][-1].itemsize * offset
        itemsize = DTYPES[dtype].itemsize
        pair = 16 if which == "tables" and form == "matrices" else 2 * aligned[which][-1].itemsize
        widths = [(16, 16), (pair, 2 * itemsize), (1, itemsize)]
        assert seen.access_bytes == next(w for need, w in widths if moved % need == 0)


_ARRAYS = ("data", "out", "tables", "scales")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("across_heads", [False, True])
def test_views(norm, dtype, across_heads) -> None:
    """A slice of a fused projection, to rows of (B, L, H, D)."""
    call = make("matrices", dtype, Sizes(2, 4, 4, 5, 32), across_heads=across_heads)
    fused = numbers((2, 9, 3, 4, 32), DTYPES[dtype], 5).transpose(2, 0, 3, 1, 4)
    call.data[:] = [fused[0][:, :, 2:7], fused[1][:, :, 2:7]]
    call.out[:] = [np.zeros((2, 5, 4, 32), DTYPES[dtype]).swapaxes(1, 2) for _ in range(2)]
    assert assert_same(norm, call).access_bytes == 16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("across_heads", [False, True])
def test_in_place(norm, dtype, across_heads) -> None:
    for form in FORMS:
        call = make(form, dtype, Sizes(heads=9), across_heads=across_heads)
        call.out[:] = call.data
        first = again(replace(call, data=[x.copy() for x in call.data]))
        norm(first)
        norm(call)
        assert all(same_bits(a, b) for a, b in zip(call.out, first.out, strict=True))


@pytest.mark.parametrize("across_heads", [False, True])
@pytest.mark.parametrize("head_size", [22, 64, 72, 512])
def test_nothing_around_the_outputs_is_written(norm, across_heads, head_size) -> None:
    for form in FORMS:
        call = make(form, "float16", Sizes(head_size=head_size), across_heads=across_heads)
        rooms = [np.full(x.size + 128, -7.0, x.dtype) for x in call.data]
        call.out[:] = [
            room[64:-64].reshape(x.shape) for room, x in zip(rooms, call.data, strict=True)
        ]
        assert_same(norm, call)
        for room in rooms:
            assert (room[:64] == -7).all()
            assert (room[-64:] == -7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 1.0])
def test_extreme_values(norm, dtype, epsilon) -> None:
    kind = np.dtype(DTYPES[dtype])
    info = np.finfo(kind) if kind.kind == "f" else None
    most = float(info.max) if info else 3.38e38
    values = [0.0, -0.0, most, -most, 1e-7, 6e-8, 1e-38, np.inf, -np.inf, np.nan, 1.0]
    for across_heads, form in itertools.product((False, True), ("tables", "matrices")):
        sizes = Sizes(heads=2, k_heads=1, length=len(values) + 1)
        call = make(form, dtype, sizes, across_heads=across_heads, epsilon=epsilon)
        for x in call.data:
            for row, value in enumerate(values):
                x[:, :, row, row % 5 :: 7] = value
            x[:, :, -1] = 0  # with epsilon 0 a NaN, else 0
        assert_same(norm, call)
        is_zero = [bool((out[:, :, -1] == 0).all()) for out in call.out]
        assert is_zero == [epsilon > 0] * 2


def test_epsilon_is_in_the_sum(norm) -> None:
    call = make("tables", "float32", Sizes(), epsilon=0.5)
    seen = assert_same(norm, call)
    assert_near(call, seen)
    call.op = replace(call.op, epsilon=0.0)
    with pytest.raises(AssertionError):
        assert_near(call, seen)


@pytest.mark.parametrize("most_heads", [1, 2, 3, 4, 5, 12, 100])
@pytest.mark.parametrize("enough_blocks", [1, 8])
def test_any_number_of_heads_a_thread(norm, most_heads, enough_blocks) -> None:
    for form in ("tables", "matrices of each head"):
        call = make(form, "bfloat16", Sizes(2, 13, 5, 9, 32))
        seen = assert_same(norm, call, (1 << 30, enough_blocks, most_heads))
        assert seen.heads_per_thread <= most_heads


@pytest.mark.parametrize("most_columns", [1, 16, 40, 100, 1000])
@pytest.mark.parametrize("across_heads", [False, True])
def test_more_columns_than_a_launch_holds(norm, most_columns, across_heads) -> None:
    for form, head_size in itertools.product(("tables", "matrices of each head"), (40, 72)):
        sizes = Sizes(3, 4, 2, 5, head_size, table_batch=3)
        call = make(form, "float16", sizes, layout="BLHD", across_heads=across_heads)
        seen = assert_same(norm, call, (most_columns, *DEFAULT_TUNING[1:]))
        assert seen.launches >= 1 + (most_columns < 10)


@pytest.mark.parametrize("axis", range(4))
def test_no_elements_are_no_launch(norm, axis) -> None:
    sizes = [2, 3, 4, 8]
    sizes[axis] = 0
    batch, heads, length, size = sizes
    call = make("tables", "float32", Sizes(batch, heads, heads, length, size))
    if not call.data:
        call.data = call.out = [np.zeros(sizes, np.float32)]
        call.scales = [np.zeros(8, np.float32)]
    assert norm(call).launches == 0


def test_disagreeing_sizes_are_invalid(norm) -> None:
    call = make("tables", "float16", Sizes(heads=4, k_heads=2, head_size=8))

    def status(**changes) -> int:
        params = call.params()
        for name, value in changes.items():
            holder, *fields = name.split("__")
            target = params
            for part in [holder, *fields][:-1]:
                target = getattr(target, part)
            setattr(target, [holder, *fields][-1], value)
        return norm.status(params)[0]

    assert status() == 0
    wrong = [{"epsilon": value} for value in (-1.0, float("inf"), float("nan"))]
    wrong += [{"q_scale__values": None}, {"k_scale__values": None}]
    wrong += [{"q_scale__type": 2}, {"k_scale__type": 9}, {"rope__type": 9}]
    wrong += [{"rope__head_size": 7}, {"rope__q__in_": None}, {"rope__pe__first": None}]
    wrong += [{"rope__q__heads": 1 << 16, "rope__head_size": 1 << 10, "across_heads": True}]
    assert [status(**changes) for changes in wrong] == [INVALID_VALUE] * len(wrong)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_the_data_changes_no_bit(norm, layout) -> None:
    call = make("tables, halves", "float16", Sizes(), layout=layout)
    dense = make("tables, halves", "float16", Sizes())
    norm(call)
    norm(dense)
    assert all(same_bits(a, b) for a, b in zip(call.out, dense.out, strict=True))


UNIT, COLUMN, SPAN = (f"include/ropeexport/norm_{name}.cuh" for name in ("unit", "column", "span"))
DISPATCH = "include/ropeexport/norm_dispatch.cuh"
SHUFFLES = "test/host_norm.cpp"
# file, what is there once, what takes its place, whether it is of all heads
FAULTS = {
    "the stride of the output for the input": (
        "include/ropeexport/column.cuh",
        "heads.in_stride = x.in_strides.head",
        "heads.in_stride = x.out_strides.head",
        False,
    ),
    "the length's stride of the output for the input": (
        "include/ropeexport/column.cuh",
        "row_offset(x.in_strides, at, head)",
        "row_offset(x.out_strides, at, head)",
        False,
    ),
    "a lane that is not in the sum": (
        COLUMN,
        "squares[i] = add_squares<V>(0.0F, data_[i]);",
        "squares[i] = at_.unit == 3 ? 0.0F : add_squares<V>(0.0F, data_[i]);",
        False,
    ),
    "a warp that is not in the sum": (SHUFFLES, "std::size_t warp = 1;", "int warp = 2;", True),
    "the first step of the butterfly": (SHUFFLES, "step = kLanes / 2;", "step = kLanes / 4;", True),
    "the rounding before the scale where there is none": (
        COLUMN,
        "!norm().scale_is_wide",
        "norm().scale_is_wide",
        False,
    ),
    "the rounding before the scale, of all heads": (
        SPAN,
        "!norm().scale_is_wide",
        "norm().scale_is_wide",
        True,
    ),
    "epsilon left out": (UNIT, "rounded_sum(mean, epsilon)", "mean", False),
    "epsilon in the sum, not in the mean": (
        UNIT,
        "rounded_quotient(squares, count)",
        "rounded_quotient(rounded_sum(squares, epsilon), count)",
        False,
    ),
    "the count of a row for all heads": (
        DISPATCH,
        "p.rope.head_size * (p.across_heads ? x.heads : 1)",
        "p.rope.head_size",
        True,
    ),
    "the scale of the first head for all": (
        SPAN,
        "head * norm().scale_stride",
        "0",
        True,
    ),
    "the scale of q for k": (
        DISPATCH,
        "p.rope.k, p.k_scale);\n  work",
        "p.rope.k, p.q_scale);\n  work",
        False,
    ),
    "units that are read again left out of the sum": (
        SPAN,
        "      find(u).load(0, data);\n      squares = add_squares<V>(squares, data);",
        "      find(u).load(0, data);",
        True,
    ),
}


# what no planted fault needs, and a compiler takes its time for
LEFT_OUT = (
    *(
        (
            DISPATCH,
            f"return run_widest_norm<{kind}, Form, Pairing>(p, tuning, executor);",
            "return cudaErrorInvalidValue;",
        )
        for kind in ("float", "__nv_bfloat16")
    ),
    *(
        (
            SHUFFLES,
            f"dispatch_norm<{policies}>(*params, *tuning, executor)",
            "cudaErrorInvalidValue",
        )
        for policies in ("Matrices, Interleaved", "Tables, Half")
    ),
)


@pytest.fixture(scope="module")
def edited(plugin_folder, tmp_path_factory):
    """Return a function that compiles the host walk with an edit of the kernel's sources."""

    def compiled(file: str, old: str, new: str) -> HostNorm:
        folder = tmp_path_factory.mktemp("edited")
        for path in (*PLUGINS.glob("include/**/*.cuh"), PLUGINS / "test" / "host_norm.cpp"):
            text, name = path.read_text(), str(path.relative_to(PLUGINS))
            for place, before, after in ((file, old, new), *LEFT_OUT):
                if name == place:
                    assert text.count(before) == 1, (
                        f"{name}: {before!r}, {text.count(before)} times"
                    )
                    text = text.replace(before, after)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        commands = json.loads((plugin_folder / "compile_commands.json").read_text())
        (command,) = (one["command"] for one in commands if one["file"].endswith("/host_norm.cpp"))
        words = [word.replace(str(PLUGINS), str(folder)) for word in shlex.split(command)]
        words[words.index("-o") + 1] = str(folder / "libhost_norm.so")
        words.remove("-c")
        words = ["-O0" if word == "-O1" else word for word in words if word != "-Werror"]
        done = subprocess.run([*words, "-shared"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return HostNorm(folder / "libhost_norm.so")

    return compiled


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(norm, edited, name) -> None:
    file, old, new, across_heads = FAULTS[name]
    sizes = Sizes(1, 72, 72, 3, 128)
    call = make("tables", "float16", sizes, layout="BLHD", across_heads=across_heads, epsilon=0.1)
    many_heads = (1 << 30, 1, 12)  # a thread
    assert_same(norm, call, many_heads)
    with pytest.raises(AssertionError):
        assert_same(edited(file, old, new), again(call), many_heads)
