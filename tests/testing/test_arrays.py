"""assert_parity passes what is right in its type, and fails whatever hides in other comparisons."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from ropeexport.testing import assert_parity, log

SEED = 0


def product(a, b):
    return a @ b


def inputs(dtype="float32", terms=256):
    shapes = {"a": (8, terms), "b": (terms, 8)}
    rng = np.random.default_rng(SEED)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def rounded(data):
    """The product as a runtime computes it: summed in float32, rounded to the data's type."""
    wide = {name: x.astype(np.float32) for name, x in data.items()}
    return product(**wide).astype(data["a"].dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("terms", [1, 64, 4096])
def test_right_arrays_pass(dtype, terms: int) -> None:
    data = inputs(dtype, terms)
    assert_parity(rounded(data), product, inputs=data)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_a_sum_in_the_data_type_fails(dtype) -> None:
    data = inputs(dtype, 4096)
    total = np.zeros((8, 8), dtype)
    for k in range(4096):
        total = (total + np.outer(data["a"][:, k], data["b"][k]).astype(dtype)).astype(dtype)
    with pytest.raises(AssertionError, match="out: "):
        assert_parity(total, product, inputs=data)


def wrong_element(x):
    x[3, 5] += 0.01


def nan(x):
    x[1, 2] = np.nan


def infinite(x):
    x[1, 2] = np.inf


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_element, r"worst: out\[3, 5\]: got .*expected.*\n.*relative L2 .*cosine .*ULP"),
        (nan, r"not finite: 1 NaN of 64 elements, the first at \(1, 2\)"),
        (infinite, "not finite: 1 infinite"),
    ],
)
def test_one_bad_element_fails(spoil, message: str) -> None:
    data = inputs()
    got = rounded(data)
    spoil(got)
    with pytest.raises(AssertionError, match=message):
        assert_parity(got, product, inputs=data)


def test_what_broadcasts_or_is_missing_fails() -> None:
    data = inputs()
    got = rounded(data)
    for wrong, message in [
        (got[:1], r"shape: expected \(8, 8\), got \(1, 8\)"),
        (None, "missing output"),
        ({"out": got, "more": got}, "more: not an expected output"),
    ]:
        with pytest.raises(AssertionError, match=message):
            assert_parity(wrong, product, inputs=data)
    with pytest.raises(AssertionError, match="nothing to compare"):
        assert_parity({}, {})
    with pytest.raises(AssertionError, match="empty: no elements"):
        assert_parity(np.zeros((0, 3), np.float32), np.zeros((0, 3)))


def test_nan_fails_a_bound_of_ones_own() -> None:
    with pytest.raises(AssertionError, match="not finite"):
        assert_parity(np.array([np.nan], np.float32), np.zeros(1), atol=1e9)
    assert_parity(np.array([1.25], np.float32), np.ones(1), atol=0.25)
    with pytest.raises(AssertionError, match="largest error"):
        assert_parity(np.array([1.25], np.float32), np.ones(1), rtol=0.24)


def test_an_array_is_a_reference_too() -> None:
    exact = np.random.default_rng(SEED).standard_normal((3, 100))
    assert_parity(exact.astype(np.float16), exact)
    with pytest.raises(AssertionError, match="out: "):
        assert_parity((exact * 1.01).astype(np.float16), exact, terms=1)


def test_names_of_several_outputs() -> None:
    x = np.random.default_rng(SEED).standard_normal(5)
    assert_parity({"y": x.astype("f4"), "z": -x.astype("f4")}, {"y": x, "z": -x})
    with pytest.raises(AssertionError, match=r"^out\[1\]: "):
        assert_parity((x.astype("f4"), x.astype("f4")), (x, -x))


def test_eager_is_a_second_yardstick() -> None:
    data = inputs("float16")
    off = (product(**{k: x.astype("f8") for k, x in data.items()}) * 1.003).astype(np.float16)
    with pytest.raises(AssertionError, match="out: "):
        assert_parity(off, product, inputs=data)
    assert_parity(off, product, inputs=data, eager=off)


def test_tensors_of_any_type() -> None:
    x = torch.randn(4, 4, dtype=torch.bfloat16)

    def double(x):
        return torch.from_numpy(x) * 2

    assert_parity(x * 2, double, inputs={"x": x})
    with pytest.raises(AssertionError, match="out: "):
        assert_parity(x * 2.125, double, inputs={"x": x})
    assert_parity(torch.nn.Parameter(torch.ones(2)), np.ones(2))


def test_a_function_needs_inputs() -> None:
    with pytest.raises(TypeError, match="inputs: expected"):
        assert_parity(np.ones(2), product)
    with pytest.raises(TypeError, match="expected an array"):
        assert_parity(object(), np.ones(2))


def test_a_note_is_kept_of_each() -> None:
    log.take()
    assert_parity(np.ones(2, "f4"), np.ones(2))
    with pytest.raises(AssertionError):
        assert_parity(np.ones(2, "f4"), np.zeros(2))
    first, second = log.take()
    assert (first.status, first.share) == ("PASS", 0.0)
    assert second.status == "FAIL"
    assert second.share > 1
    assert not log.take()


def counts_its_calls():
    calls = []

    def function(a, b):
        calls.append(1)
        return product(a, b) + len(calls)

    return function


def draws(a, b):
    return product(a, b) + np.random.default_rng().standard_normal()


def draws_with_torch(a, b):
    return torch.nn.functional.dropout(torch.from_numpy(product(a, b)), 0.5)


def changes_its_input(a, b):
    a += 1
    return product(a, b)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (counts_its_calls(), "out changes by up to 1 between two calls on the same inputs: make"),
        (draws, "no function of its inputs"),
        (draws_with_torch, "no function of its inputs"),
        (changes_its_input, "changes its input 'a' in place"),
    ],
)
def test_a_reference_with_state_or_randomness_fails(function, message: str) -> None:
    data = inputs()
    with pytest.raises(AssertionError, match=message):
        assert_parity(rounded(data), function, inputs=data)


def ill_conditioned(x):
    return np.sin(1e6 * x)


def test_a_bound_larger_than_the_output_fails_unless_it_is_ones_own() -> None:
    x = np.linspace(1, 2, 300, dtype=np.float16)
    got = ill_conditioned(x.astype(np.float64)).astype(np.float16)
    with pytest.raises(AssertionError, match=r"larger than the output itself \(largest 1\)"):
        assert_parity(got, ill_conditioned, inputs={"x": x})
    assert_parity(got, ill_conditioned, inputs={"x": x}, atol=2.0**-11)


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16, "int64", "bool"])
def test_zeros_are_no_output_that_nothing_can_be_proven_of(dtype) -> None:
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    zeros = np.zeros(64, dtype)
    assert_parity(zeros, lambda x: 0 * x, inputs={"x": x})
    with pytest.raises(AssertionError, match="out: "):
        assert_parity(zeros + np.ones(64, dtype), lambda x: 0 * x, inputs={"x": x})
