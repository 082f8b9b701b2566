"""The table of floating types, held to what each library says of its own."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir.tensor_adapters import from_torch_dtype

from ropeexport.dtypes import EXPORTED, FLOATS, HALVES, float_type, is_float, short_name
from ropeexport.runners.torch_arrays import array_from, tensor_from
from ropeexport.testing import arrays

IDS = [kind.name for kind in FLOATS]


@pytest.mark.parametrize("kind", FLOATS, ids=IDS)
def test_a_row_is_what_the_libraries_say(kind) -> None:
    info = ml_dtypes.finfo(kind.numpy)
    assert kind.unit_roundoff == float(info.eps) / 2
    assert kind.smallest_normal == float(info.smallest_normal)
    assert kind.underflow == float(info.smallest_subnormal) / 2
    assert kind.torch == getattr(torch, kind.name)
    assert torch.finfo(kind.torch).eps == float(info.eps)
    assert kind.ir == from_torch_dtype(kind.torch) == ir.DataType.from_numpy(kind.numpy)
    assert kind.onnx_type == onnx.helper.np_dtype_to_tensor_dtype(kind.numpy) == int(kind.ir)
    assert float_type(kind.name) is kind
    assert is_float(kind.name)


@pytest.mark.parametrize("kind", FLOATS, ids=IDS)
def test_spacing_is_one_unit_in_the_last_place(kind) -> None:
    numbers = np.array([0.75, 1.0, 3.0, 100.0, kind.smallest_normal], kind.numpy)
    if kind.name in ("float16", "float32", "float64"):  # NumPy's own types
        expected = np.spacing(numbers).astype(np.float64)
        np.testing.assert_array_equal(kind.spacing(numbers.astype(np.float64)), expected)
    ones = kind.spacing(np.array([1.0]))
    assert ones[0] == 2 * kind.unit_roundoff


def test_groups() -> None:
    assert [kind.short for kind in HALVES] == ["fp16", "bf16"]
    assert list(EXPORTED) == ["fp32", "fp16", "bf16"]
    assert [short_name(name) for name in ("float16", "float64", "int64")] == [
        *("fp16", "float64", "int64")
    ]
    assert len({kind.short for kind in FLOATS}) == len(FLOATS)


def test_what_is_no_floating_type_is_compared_in_float64() -> None:
    assert float_type("int64").name == "float64"
    assert not is_float("bool")


@pytest.mark.parametrize("kind", FLOATS, ids=IDS)
def test_values_go_to_torch_and_back_bit_for_bit(kind) -> None:
    numbers = np.array([0.0, -0.0, 1.5, -3.0, np.inf, np.nan], kind.numpy).reshape(2, 3)
    tensor = tensor_from(numbers)
    assert tensor.dtype == kind.torch
    for found in (array_from(tensor), arrays.array(tensor)):
        assert found.dtype == kind.numpy
        assert found.astype(np.float64).tobytes() == numbers.astype(np.float64).tobytes()
