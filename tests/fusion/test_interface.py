"""Inputs and outputs keep their names, types and shapes, also where a rope's own result is one."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from fusion.graphs import ROPE, SUMMED, TURNED, X, Y, again, assert_same, graph, ops

from ropeexport.errors import ExportError
from ropeexport.exporting.model_writer import check_interface
from ropeexport.fusion.fuse import fuse

TABLES = "float[length, 8] cos, float[length, 8] sin"
BLHD = "float[batch, length, 2, 8]"
HALF = "float16[batch, 2, length, 8]"
WHOLE = "float[batch, 2, length, 12]"
READ = "scores = Relu(present_key)"
KEY = ROPE.replace("y = ", "present_key = ")
KINDS = {
    "as it is": (KEY + READ, f"{X}, {TABLES}", "float[batch, 2, length, 8]"),
    "in another order": (
        "cos = Unsqueeze(c_1, one) sin = Unsqueeze(s_1, one)" + KEY + READ,
        f"{BLHD} x, {TABLES.replace(' cos', ' c_1').replace(' sin', ' s_1')}",
        BLHD,
    ),
    "cast back": (
        "x = Cast<to = 1>(given)" + ROPE + "present_key = Cast<to = 10>(y)" + READ,
        f"{HALF} given, {TABLES}",
        HALF,
    ),
    "before it is cast back": (
        "x = Cast<to = 1>(given)" + KEY + "back = Cast<to = 10>(present_key) " + READ,
        f"{HALF} given, {TABLES}",
        "float[batch, 2, length, 8]",
    ),
    "with the rest of a head": (
        "x, rest = Split<axis = -1>(given, parts)"
        + ROPE
        + "present_key = Concat<axis = -1>(y, rest)"
        + READ,
        f"{WHOLE} given, {TABLES}",
        WHOLE,
    ),
    "without the rest of a head": (
        "x, rest = Split<axis = -1>(given, parts)"
        + KEY
        + "more = Concat<axis = -1>(present_key, rest)"
        + READ,
        f"{WHOLE} given, {TABLES}",
        "float[batch, 2, length, 8]",
    ),
    "by an operator": (
        "present_key = RotaryEmbedding(x, cos, sin)" + READ,
        f"{X}, float[batch, length, 4] cos, float[batch, length, 4] sin",
        "float[batch, 2, length, 8]",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_result_that_is_an_output_keeps_its_name(name: str) -> None:
    nodes, inputs, key = KINDS[name]
    outputs = f"{key} scores, {key} present_key"
    fused = fuse(graph(nodes, inputs, outputs, "int64[2] parts = {8, 4}"))
    assert len(ops(fused)) == 1
    assert [value.name for value in fused.model.graph.outputs] == ["scores", "present_key"]
    check_interface(fused.before, fused.model)
    assert_same(fused)


def test_both_of_a_pair_are_outputs() -> None:
    second = "float[batch, 3, length, 8]"
    inputs, outputs = f"{X}, {second} x_2, {TABLES}", f"{Y}, {second} y_2"
    fused = fuse(graph(ROPE + again(ROPE, "x"), inputs, outputs))
    assert ops(fused) == ["ApplyRopeHalf"]
    assert [value.name for value in fused.model.graph.outputs] == ["y", "y_2"]
    assert_same(fused)


def test_a_slice_that_is_written_twice_stays_an_output() -> None:
    nodes = (
        """
      x = Slice(given, zero, end, last) again = Slice(given, zero, end, last)
    """
        + TURNED.replace("(x", "(again")
        + SUMMED
    )
    outputs = f"{Y}, float[batch, 2, length, 8] again, float[batch, 2, length, 8] x"
    fused = fuse(graph(nodes, f"{WHOLE} given, {TABLES}", outputs))
    assert len(ops(fused)) == 1
    assert [value.name for value in fused.model.graph.outputs] == ["y", "again", "x"]
    assert_same(fused)


def with_output(name: str, dtype: ir.DataType, *shape: int | str) -> ir.Model:
    model = graph(ROPE)
    value = model.graph.outputs[0]
    value.name, value.dtype, value.shape = name, dtype, ir.Shape(shape)
    return model


FLOAT = ir.DataType.FLOAT
OTHERS = {
    "outputs: expected y, the rewritten graph has val_1": ("val_1", FLOAT, "batch", 2, "length", 8),
    "output 'y': expected FLOAT": ("y", ir.DataType.FLOAT16, "batch", 2, "length", 8),
    "the rewritten graph has y FLOAT [batch,4,length,8]": ("y", FLOAT, "batch", 4, "length", 8),
    "the rewritten graph has y FLOAT [batch,2,rows,8]": ("y", FLOAT, "batch", 2, "rows", 8),
    "the rewritten graph has y FLOAT [batch,length,16]": ("y", FLOAT, "batch", "length", 16),
}


@pytest.mark.parametrize("words", OTHERS)
def test_another_interface_is_a_fault(words: str) -> None:
    with pytest.raises(ExportError) as raised:
        check_interface(graph(ROPE), with_output(*OTHERS[words]))
    assert words in str(raised.value)
    assert "report it with the model" in str(raised.value)


def test_an_input_that_is_gone_is_a_fault() -> None:
    less = graph("y = Relu(x)", X)
    with pytest.raises(ExportError, match="inputs: expected x, cos, sin, the rewritten graph has"):
        check_interface(graph(ROPE), less)


def test_an_unknown_dimension_may_be_known_later() -> None:
    before = graph(ROPE)
    before.graph.outputs[0].shape = ir.Shape([None, 2, None, 8])
    check_interface(before, graph(ROPE))
