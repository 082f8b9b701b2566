"""Dimensions that anybody has written: read within a bound, or not at all."""

from __future__ import annotations

import time

import onnx_ir as ir
import pytest
import sympy
import torch.utils._sympy.functions as of_torch

from ropeexport.fusion.evaluation import Trial, UnevaluableError
from ropeexport.onnx_files.dimensions import size_at, without_functions

SIZES = {"a": 6, "b": 4}
GOOD = {
    "a": 6, "a + b": 10, "2*a - b": 8, "floor(a/4)": 1, "a//4": 1, "Max(a, b)": 6, "Mod(a, 4)": 2,
    " + ".join(["Mod(a, 4)*(b//2)"] * 20): 80,  # as padded grids have it
}  # fmt: skip
NO_SIZE = (
    "", "a b", "a*", "max(a", "c", "1/0", "a % 0", "a // 0", "9**9**9", "a**b", "pow(9, 99999999)",
    "a/4", "__import__('os')", "(" * 2000 + "a", "+".join("a" * 3000),
    f"Max(a, {' + '.join('ab' * 40)})",
    f"Max({', '.join(f'x{i}' for i in range(64))})", "\x1b[31m",
)  # fmt: skip


@pytest.mark.parametrize(("text", "size"), GOOD.items())
def test_an_expression_of_axes_has_a_size(text: str, size: int) -> None:
    assert size_at(text, SIZES) == size


@pytest.mark.parametrize("text", NO_SIZE)
def test_what_says_no_size_gives_none_at_once(text: str) -> None:
    start = time.process_time()
    assert size_at(text, SIZES) is None
    assert time.process_time() - start < 2  # else minutes, or the memory of this machine


@pytest.mark.parametrize("text", [text for text in NO_SIZE if text])
def test_a_graph_with_such_a_dimension_is_tried_without_it(text: str) -> None:
    x = ir.Input("x", ir.Shape([text, 2]), ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Neg", [x])
    node.outputs[0].shape = ir.Shape([text, 2])
    trial = Trial(ir.Graph([x], [], nodes=[node]), 23)
    if text == "c":  # the name of an axis
        assert trial.sizes(x)[1] == 2
    else:
        with pytest.raises(UnevaluableError, match="a dimension of x is not known"):
            trial.sizes(x)


A = sympy.Symbol("a", integer=True, nonnegative=True)
FUNCTIONS = (
    A + of_torch.PythonMod(-A, 8),
    of_torch.FloorDiv(A + of_torch.PythonMod(-A, 8), 8),
    2 * of_torch.CeilToInt(of_torch.IntTrueDiv(A, 4)),
    of_torch.CeilToInt(of_torch.FloatTrueDiv(of_torch.ToFloat(A), sympy.Float(4))),
    of_torch.FloorToInt(of_torch.IntTrueDiv(A, 3)) + 1,
    of_torch.TruncToInt(of_torch.IntTrueDiv(A + 5, 3)),
    of_torch.ModularIndexing(A, 2, 3),
    of_torch.PowByNatural(A, 2),
    of_torch.CeilDiv(A, 5),
    of_torch.Mod(A, 5),
    of_torch.FloorDiv(-A - of_torch.PythonMod(-A, 4), 4),
)


@pytest.mark.parametrize("expression", FUNCTIONS, ids=str)
def test_what_torch_writes_by_functions_is_written_by_operators(expression: sympy.Expr) -> None:
    text = without_functions(str(expression))
    for size in (0, 1, 7, 8, 9, 64, 1001):
        assert size_at(text, {"a": size}) == int(expression.subs(A, size)), text


def test_a_row_of_strides_stays_short() -> None:
    """Each convolution of a codec pads up to its stride: torch writes thousands of characters."""
    size: sympy.Expr = A
    for stride in (4, 5, 6, 8, 2):
        size = -of_torch.FloorDiv(-size - of_torch.PythonMod(-size, stride), stride)
    text = without_functions(str(size))
    assert len(text) < 100 < len(str(size))
    for samples in (1, 1919, 1920, 1921, 100_000):
        assert size_at(text, {"a": samples}) == -(-samples // 1920)
