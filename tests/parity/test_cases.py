"""Which cases are chosen, and what their arrays are."""

from __future__ import annotations

import numpy as np
import pytest

from ropeexport import manifest
from ropeexport.axes import shape_at
from ropeexport.dtypes import largest_whole, numpy_type
from ropeexport.errors import UsageError
from ropeexport.manifest import TensorSpec
from ropeexport.parity.cases import Case, select, space_of
from ropeexport.parity.inputs import LONG_LIMIT, flux_ids, make_inputs


@pytest.fixture
def record(exported):
    return manifest.read(exported(dtype="fp32"))


def test_corners_odd_lengths_one_and_broadcasts_both_ways(record) -> None:
    cases = select(record).cases
    space = space_of(record)
    lengths = {case.sizes["length"] for case in cases}
    for point in ("min", "opt", "max"):
        assert space.at(point)["length"] in lengths
    assert {1, 3, 7, 17} <= lengths
    assert {case.kind for case in cases} == {
        "flux positions", "random rotations", "random matrices",
    }  # fmt: skip
    full = {c.sizes["pe_batch"] == c.sizes["batch"] for c in cases if c.sizes["batch"] > 1}
    heads = {case.sizes["pe_heads"] for case in cases}
    assert full == {True, False}
    assert heads == {1, 2}


def test_ids_are_checked_at_long_positions(exported) -> None:
    record = manifest.read(exported("flux-self-attention-ids", "fp32"))
    kinds = {"flux positions", "long positions", "positions beyond the tables"}
    assert {case.kind for case in select(record).cases} == kinds
    case = next(c for c in select(record).cases if c.kind == "long positions")
    ids = make_inputs(case, record.model.inputs)["ids"]
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() < LONG_LIMIT


def test_the_same_seed_gives_the_same_arrays(record) -> None:
    for seed in (0, 1):
        first, second = (select(record, seed=seed, count=60).cases for _ in range(2))
        assert first == second
    case = first[-1]
    one, two = (make_inputs(case, record.model.inputs) for _ in range(2))
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    other = make_inputs(select(record, seed=7, count=60).cases[-1], record.model.inputs)
    assert one["q"].tobytes() != other["q"].tobytes()


def test_a_count_is_kept_and_every_size_is_in_the_profile(record) -> None:
    space = space_of(record)
    cases = select(record, count=200).cases
    assert len(cases) == len({case.name for case in cases}) == 200
    for case in cases:
        for name in ("batch", "length"):
            assert space.axes[name].min <= case.sizes[name] <= space.axes[name].max
        assert case.sizes["pe_batch"] in (1, case.sizes["batch"])
        for spec in record.model.inputs:
            assert shape_at(spec, case.sizes)


def test_lengths_beyond_the_profile_are_refused(record) -> None:
    top = record.axes["length"].max
    assert {c.sizes["length"] for c in select(record, lengths=(5, top)).cases} == {5, top}
    with pytest.raises(UsageError, match=rf"--lengths: axis 'length': expected 1 to {top}"):
        select(record, lengths=(top + 1,))


def test_matrices_are_what_their_kind_says(record) -> None:
    def pe_of(kind) -> np.ndarray:
        sizes = {"batch": 2, "length": 9, "pe_batch": 2, "pe_heads": 1}
        return make_inputs(Case("x", kind, sizes, 3), record.model.inputs)["pe"]

    for kind in ("flux positions", "random rotations"):
        pe = pe_of(kind)
        assert pe.dtype == np.float32
        assert np.array_equal(pe[..., 0, 0], pe[..., 1, 1])
        assert np.array_equal(pe[..., 1, 0], -pe[..., 0, 1])
    assert not np.array_equal(pe_of("flux positions")[0], pe_of("flux positions")[1])
    pe = pe_of("random matrices")
    assert not np.array_equal(pe[..., 0, 0], pe[..., 1, 1])


def test_flux_ids_are_text_then_a_grid() -> None:
    ids = flux_ids(4608)
    assert (ids[:512] == 0).all()
    assert (ids[512:, 0] == 0).all()
    assert ids[512:, 1:].tolist() == [[row, column] for row in range(64) for column in range(64)]


def test_ids_without_a_batch_have_a_length_in_front() -> None:
    from ropeexport.manifest import Axis, TensorSpec
    from ropeexport.parity.cases import Space

    specs = (
        TensorSpec(name="x", dtype="float32", shape=("batch", "length", 64)),
        TensorSpec(name="ids", dtype="int64", shape=("length", 3), role="positions"),
    )
    axes = {name: Axis(min=1, opt=2, max=4) for name in ("batch", "length")}
    space = Space(specs, axes, ("random data",))
    assert (space.batches, space.lengths) == (("batch",), ("length",))


@pytest.mark.parametrize(("dtype", "limit"), [("float32", LONG_LIMIT), ("float16", 2048)])
def test_float_positions_are_whole_numbers_that_their_type_holds(dtype: str, limit: int) -> None:
    spec = TensorSpec(name="img_ids", dtype=dtype, shape=("length", 3), role="positions")
    for kind in ("flux positions", "long positions"):
        ids = make_inputs(Case("one", kind, {"length": 500}, 0), [spec])["img_ids"]
        assert ids.dtype == dtype
        np.testing.assert_array_equal(ids, np.rint(ids))
        assert ids.max() < limit
    assert ids.max() > limit / 2, "long positions are long"


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint4", "int64"])
@pytest.mark.parametrize("axes", [0, 1, 3])
@pytest.mark.parametrize("kind", ["flux positions", "long positions"])
def test_positions_are_of_any_type_and_of_any_number_of_axes(dtype: str, axes: int, kind) -> None:
    """A file may call anything so: a mask, or ids of no axis at all."""
    spec = TensorSpec(name="ids", dtype=dtype, shape=("length", axes), role="positions")
    ids = make_inputs(Case("", kind, {"length": 9}, seed=0), [spec])["ids"]
    assert (ids.dtype, ids.shape) == (numpy_type(dtype), (9, axes))
    if ids.size:
        assert int(ids.min()) >= 0
        assert int(ids.max()) <= min(largest_whole(dtype), LONG_LIMIT)
