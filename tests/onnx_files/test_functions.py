"""Functions of others in a file: those of other versions of operators stay calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from ropeexport.errors import ModelFileError
from ropeexport.onnx_files.onnx_file import load
from ropeexport.onnx_files.variants import float32_twin, float64_twin, inlined, whole_message
from ropeexport.parity.check import check_files
from ropeexport.parity.options import Options

# ReduceMax takes its axes as an input from opset 18 on, before as an attribute
OLD = """<ir_version: 10, opset_import: ["" : 23, "my" : 1]>
g (float[n, 4] x) => (float[n, 1] y) { y = my.Top(x) }
<domain: "my", opset_import: ["" : 17, "my" : 1]>
Top (x) => (z) { a = my.Third(x) z = ReduceMax<axes = [1]>(a) }
<domain: "my", opset_import: ["" : 23]>
Third (x) => (z) { t = Constant<value_float = 3.0>() z = Div(x, t) }"""


def written(path: Path, text: str = OLD) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_a_function_of_another_opset_stays_and_what_it_calls(tmp_path: Path) -> None:
    plain = inlined(load(written(tmp_path / "m.onnx")))
    assert {name for _, name, _ in plain.functions} == {"Top", "Third"}
    assert [node.op_type for node in plain.graph] == ["Top"]


def test_it_is_computed_in_float64_all_the_same(tmp_path: Path) -> None:
    twin = whole_message(float64_twin(load(written(tmp_path / "m.onnx"))))
    x = np.random.default_rng(0).standard_normal((5, 4))
    (y,) = ReferenceEvaluator(twin).run(None, {"x": x})
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, (x / 3).max(axis=1, keepdims=True))


def test_a_file_with_it_is_compared(tmp_path: Path) -> None:
    same = OLD.replace("ReduceMax<axes = [1]>", "Sigmoid").replace("[n, 1]", "[n, 4]")
    file = written(tmp_path / "m.onnx", same)  # onnxruntime inlines it, whatever its opset
    assert check_files(file, file, Options(count=2)).verdict == "PASS"


def test_a_type_that_a_call_gives_and_a_rounding_without_a_type_are_refused(tmp_path) -> None:
    given = OLD.replace("Top(x)", "Top<kind = 1>(x)").replace("Top (x)", "Top <kind> (x)")
    given = given.replace("z = ReduceMax", "b = Cast<to: int = @kind>(a) z = ReduceMax")
    given = given.replace("[1]>(a)", "[1]>(b)")
    with pytest.raises(ModelFileError, match=r"'to' is given by each call .* bring the function"):
        float64_twin(load(written(tmp_path / "given.onnx", given)))
    half = load(written(tmp_path / "half.onnx", OLD.replace("float[n", "bfloat16[n")))
    with pytest.raises(ModelFileError, match="rounding cannot be emulated"):
        float32_twin(half)


def test_a_function_of_the_models_opset_is_inlined(tmp_path: Path) -> None:
    model: ir.Model = load(written(tmp_path / "m.onnx", OLD.replace("17", "23")))
    assert not inlined(model).functions


def test_nodes_without_a_name_get_one_each_when_they_take_a_calls_place() -> None:
    """Looked for one by one, as onnx_ir does, names of 30,000 such nodes took three minutes."""
    count = 4
    nodes = " ".join(f"t{i + 1} = Neg(t{i})" for i in range(count))
    model = ir.from_proto(onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23, "my" : 1]>
        g (float[n] x) => (float[n] y) {{ h = my.Chain(x) y = my.Chain(h) }}
        <domain: "my", opset_import: ["" : 23]> Chain (t0) => (t{count}) {{ {nodes} }}"""
    ))  # fmt: skip
    names = [node.name for node in inlined(model).graph]
    assert len(set(names)) == len(names) == 2 * count
    assert names[:count] == [f"Chain_{i}" for i in range(count)]
    assert not any(node.name for body in model.functions.values() for node in body)


def test_what_nothing_calls_is_left_out(tmp_path: Path) -> None:
    model = load(written(tmp_path / "m.onnx"))
    node = next(iter(model.graph))
    node.op_type, node.domain = "Neg", ""
    assert not inlined(model).functions
