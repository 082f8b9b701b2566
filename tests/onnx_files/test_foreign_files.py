"""Files of others: what is wrong with one is one line, wherever its tensors lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from ropeexport.axes import same
from ropeexport.errors import ModelFileError
from ropeexport.exporting.foreign import infer_shapes, name_dimensions
from ropeexport.exporting.fuse_file import fuse_file
from ropeexport.lint.lint import lint
from ropeexport.locate import taps
from ropeexport.manifest import RopeCount
from ropeexport.onnx_files.contract import input_specs, output_specs
from ropeexport.onnx_files.inspection import inspect, subject_of
from ropeexport.onnx_files.onnx_file import OnnxFile, load
from ropeexport.onnx_files.variants import whole_message
from ropeexport.parity.check import check_files
from ropeexport.parity.onnx_reference import manifest_of
from ropeexport.parity.options import Options
from ropeexport.runners.ort import OrtRunner

HEAD = '<ir_version: 10, opset_import: ["" : 23, "my" : 1]>\ng '
ROPE = """(float[batch, 2, length, 8] x, float[length, 8] cos, float[length, 8] sin)
=> (float[batch, 2, length, 8] y) {
  a = Slice(x, zero, half, last) b = Slice(x, half, end, last) c = Neg(b)
  turned = Concat<axis = -1>(c, a) left = Mul(x, cos) right = Mul(turned, sin)
  y = Add(left, right) }"""
WEIGHT = np.arange(4, dtype=np.float32)


def written(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(HEAD + text), path)
    return path


def tensor(name: str, **place: str) -> TensorProto:
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    made.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        made.external_data.add(key=key, value=value)
    return made


def with_constant(folder: Path, *, in_branch: bool = False, **place: str) -> Path:
    """Write a file with a Constant, or a branch's initializer, that lies in another file."""
    (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    path = written(folder / "m.onnx", "(float[4] x) => (float[4] y) { w = Neg(x) y = Add(x, w) }")
    model = onnx.load(path)
    weight, node = tensor("w", **place), model.graph.node[0]
    if in_branch:
        add = helper.make_node("Identity", ["w"], ["z"])
        out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4])]
        branch = helper.make_graph([add], "b", [], out, [weight])
        truth = numpy_helper.from_array(np.array(True), "truth")
        model.graph.initializer.append(truth)
        names = {"then_branch": branch, "else_branch": branch}
        node.CopyFrom(helper.make_node("If", ["truth"], ["w"], **names))
    else:
        node.CopyFrom(helper.make_node("Constant", [], ["w"], value=weight))
    onnx.save(model, path)
    return path


def summed(model: Path | bytes) -> np.ndarray:
    with OrtRunner(OnnxFile(model) if isinstance(model, Path) else model) as runner:
        return runner.run({"x": np.ones(4, np.float32)})["y"]


@pytest.mark.parametrize("in_branch", [False, True])
def test_a_tensor_in_an_attribute_or_a_branch_goes_with_the_graph(tmp_path, in_branch) -> None:
    file = OnnxFile(with_constant(tmp_path, in_branch=in_branch, location="w.bin"))
    expected = WEIGHT + 1
    np.testing.assert_array_equal(summed(whole_message(file.whole).SerializeToString()), expected)
    (tmp_path / "tapped").mkdir()
    taps.write(file, manifest_of(file), ["w"], tmp_path / "tapped")
    np.testing.assert_array_equal(summed(tmp_path / "tapped" / "model.onnx"), expected)


@pytest.mark.parametrize("in_branch", [False, True])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"location": "none.bin"}, "of at least 16 bytes, got no such file"),
        ({"location": "w.bin", "offset": "4"}, "of at least 20 bytes, got 16"),
        ({"location": "w.bin", "length": "8", "offset": "8"}, "of at least 24 bytes, got 16"),
        ({"location": "../w.bin"}, "in the model's folder, got ../w.bin"),
        ({"location": "/w.bin"}, "in the model's folder, got /w.bin"),
    ],
)
def test_a_tensor_that_is_not_there_is_named(tmp_path, in_branch, place, message) -> None:
    file = OnnxFile(with_constant(tmp_path, in_branch=in_branch, **place))
    with pytest.raises(ModelFileError, match=f"weight w: expected .*{message}"):
        _ = file.whole


def test_bytes_that_are_not_those_of_the_shape_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", "(float[2] x) => (float[2] y) { y = Add(x, w) }")
    model = onnx.load(path)
    model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[2], raw_data=b"abc")
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="weight w: expected 8 bytes, got 3"):
        _ = OnnxFile(path).whole


XY = "(float[n, 4] x) => (float[n, 4] y)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{XY} {{ y = Neg(a) a = Neg(x) }}", "reads 'a', which nothing before it makes"),
        (f"{XY} {{ a = Neg(b) b = Neg(a) y = Neg(b) }}", "reads 'b', which nothing"),
        (f"{XY} {{ y = Add(x, ghost) }}", "reads 'ghost', which nothing"),
        (f"{XY} {{ z = Neg(x) }}", "output 'y': nothing makes it"),
        ("(float[n] x) => () { y = Neg(x) }", "expected an output, got none"),
        ("(float[n] x, float[n] x) => (float[n] y) { y = Neg(x) }", "several called 'x'"),
        (f"{XY} {{ y = Gather(x) }}", "Gather: expected at least 2 inputs, got 1"),
        (f"{XY} {{ y = Transpose() }}", "Transpose: expected at least 1 inputs, got 0"),
        (f"{XY} {{ y = ropeexport.ApplyRope(x) }}", "ApplyRope: expected at least 3 inputs, got 1"),
        (
            f'{XY} {{ y = my.F(x) }} <domain: "my", opset_import: ["my" : 1]>'
            " F (a) => (b) { b = my.F(a) }",
            "function my::F calls itself",
        ),
    ],
)
def test_a_graph_that_is_not_sound_is_refused_where_it_is_read(tmp_path, text, message) -> None:
    with pytest.raises(ModelFileError, match=f"not a valid ONNX model: .*{message}"):
        load(written(tmp_path / "m.onnx", text))


def test_a_weight_without_a_type_is_refused_and_a_file_without_an_opset_is_read(tmp_path) -> None:
    path = written(tmp_path / "m.onnx", "(float[2] x) => (float[2] y) { y = Add(x, w) }")
    model = onnx.load(path)
    model.graph.initializer.add(name="w", dims=[2])
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="initializer 'w': expected values of a known type"):
        load(path)
    del model.graph.initializer[:], model.opset_import[:]
    model.opset_import.add(domain="my", version=1)
    model.graph.node[0].CopyFrom(helper.make_node("Twice", ["x"], ["y"], domain="my"))
    onnx.save(model, path)
    assert [node.op_type for node in load(path).graph] == ["Twice"]
    assert inspect(subject_of(path)).model.opset == 0
    assert [each.rule for each in lint(subject_of(path)).findings] == [
        "frozen-shapes", "ropes-not-sought",
    ]  # fmt: skip
    with pytest.raises(ModelFileError, match="opset 0: expected 11 or later"):
        fuse_file(path, tmp_path / "out")


def test_an_attribute_without_a_type_is_refused(tmp_path) -> None:
    """It has a value that no reader takes, and no writer writes again."""
    path = written(
        tmp_path / "m.onnx", "(float[2] x) => (float[2] y) { y = Elu <alpha = 2.0> (x) }"
    )
    model = onnx.load(path)
    model.graph.node[0].attribute[0].ClearField("type")
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="Elu: alpha: expected a type, got none"):
        load(path)


def test_a_constant_of_a_type_that_there_is_not_is_refused(tmp_path) -> None:
    text = (
        "(float[2] x) => (float[2] y) { c = Constant <value = float[2] {1, 2}> () y = Add(x, c) }"
    )
    path = written(tmp_path / "m.onnx", text)
    model = onnx.load(path)
    for number in (0, 99, -1):
        model.graph.node[0].attribute[0].t.data_type = number
        onnx.save(model, path)
        with pytest.raises(ModelFileError, match="value: expected values of a known type"):
            load(path)


def test_a_branch_sees_what_is_around_it(tmp_path: Path) -> None:
    text = "(float[n] x, bool c) => (float[n] y) { a = Neg(x) y = If (c) <then_branch = t () => "
    text += "(float[n] z) { z = Neg(a) }, else_branch = e () => (float[n] z) { z = Abs(x) }> }"
    assert len(load(written(tmp_path / "m.onnx", text)).graph) == 2


def test_a_size_below_zero_is_one_that_nobody_knows(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", "(float[n, 4] x) => (float[n, 4] y) { y = Neg(x) }")
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, path)
    assert [spec.shape for spec in input_specs(load(path))] == [("x_0", 4)]


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("seq(float[n])", "Sequence"), ("optional(float[n])", "Optional"), ("string[n]", "STRING")],
)
def test_what_is_no_tensor_of_numbers_says_so(tmp_path, kind: str, shown: str) -> None:
    path = written(tmp_path / "m.onnx", f"({kind} x) => ({kind} y) {{ y = Identity(x) }}")
    model: ir.Model = load(path)
    for specs in (input_specs, output_specs):
        with pytest.raises(ModelFileError, match=f"expected a tensor of numbers, got {shown}"):
            specs(model)


def test_text_in_a_graph_is_no_fault_of_folding(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", "(float[n] x) => (string[2] y) { y = Identity(w) }")
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"b"]))
    onnx.save(model, path)
    assert fuse_file(path, tmp_path / "out") == (None, RopeCount(found=0, replaced=0))


def with_rope(path: Path) -> onnx.ModelProto:
    """Write a file with a rotary application that is written out, and return it."""
    model = onnx.load(written(path, ROPE))
    numbers = {"zero": 0, "half": 4, "end": 8, "last": 3}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([number]), name) for name, number in numbers.items()
    )
    onnx.save(model, path)
    return model


def test_text_beside_a_rope_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = with_rope(path)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"b"]))
    model.graph.node.append(helper.make_node("Identity", ["w"], ["text"]))
    model.graph.output.append(helper.make_tensor_value_info("text", TensorProto.STRING, [2]))
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="text: expected a tensor of numbers, got STRING"):
        fuse_file(path, tmp_path / "out")


def test_a_damaged_file_is_refused_by_fuse(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", f"{XY} {{ y = Neg(a) a = Neg(x) }}")
    with pytest.raises(ModelFileError, match="not a valid ONNX model"):
        fuse_file(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NUMBERED = """(float[n, 6] x) => (float[n, 6] y) {
  shape = {shape}(x) size = Gather(shape, at) f = Cast<to: int = 1>(size) y = Mul(x, f) }
<domain: "my", opset_import: ["" : 23]> Shape (a) => (c) { b = Shape(a) c = Add(b, b) }"""


@pytest.mark.parametrize(("shape", "at", "known"), [("Shape", 1, 6), ("my.Shape", 1, None)])
def test_the_shape_of_another_domain_is_no_shape(tmp_path, shape, at, known) -> None:
    path = written(tmp_path / "m.onnx", NUMBERED.replace("{shape}", shape))
    assert folded(path, at) == known


def test_an_index_beyond_a_shape_is_left_to_the_runtime(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", NUMBERED.replace("{shape}", "Shape"))
    assert folded(path, 7) is None


def folded(path: Path, at: int) -> int | None:
    """Return the size that the first pass of fuse knows, None where it leaves the Gather."""
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array(at), "at"))
    onnx.save(model, path)
    read = load(path).clone()
    infer_shapes(read)
    if any(node.op_type == "Gather" for node in read.graph):
        return None
    (factor,) = (value for value in read.graph.initializers.values() if value.name != "at")
    return int(factor.const_value.numpy())


def test_operators_of_another_domain_neither_move_nor_add(tmp_path: Path) -> None:
    """A rope whose Add, Neg or table's Slice is another's function is no rope of ours."""
    path = tmp_path / "m.onnx"
    for op_type in ("Add", "Neg", "Concat", "Mul"):
        model = with_rope(path)
        next(node for node in model.graph.node if node.op_type == op_type).domain = "my"
        onnx.save(model, path)
        assert fuse_file(path, tmp_path / "out")[1].replaced == 0
    with_rope(path)
    assert fuse_file(path, tmp_path / "out")[1].replaced == 1


@pytest.mark.parametrize("op_type", ["Cast", "Slice"])
def test_a_foreign_operator_around_a_rope_stays(tmp_path: Path, op_type: str) -> None:
    path = tmp_path / "m.onnx"
    model = with_rope(path)
    for node in model.graph.node:
        node.input[:] = ["inner" if name == "x" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node(op_type, ["x"], ["inner"], domain="my"))
    body = [helper.make_node("Abs", ["a"], ["b"])]
    model.functions.append(
        helper.make_function("my", op_type, ["a"], ["b"], body, [helper.make_opsetid("", 23)])
    )
    onnx.save(model, path)
    fuse_file(path, tmp_path / "out")
    kept = load(tmp_path / "out" / "model.onnx")
    assert op_type in {node.op_type for node in kept.graph if node.domain == "my"}


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """Give the dimensions of a file's inputs and outputs other names."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    return model


@pytest.mark.parametrize(
    ("given", "written_as"),
    [
        ("batch-size", "batch_size"),
        ("batch size", "batch_size"),
        ("?", "axis"),
        ("2x", "axis_2x"),
        ("", "x_0"),
        ("a*b", "a_b"),
        ("x:0_dim0", "x_0_dim0"),
        ("-1", "x_0"),
        ("unk__1", "axis_1"),
        ("a.b", "a.b"),
        ("past + new", "past + new"),
        ("8*blocks", "8*blocks"),
    ],
)
def test_an_axis_of_any_name_is_fused_and_keeps_one_name(tmp_path, given, written_as) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(renamed(with_rope(path), {"batch": given}), path)
    made, count = fuse_file(path, tmp_path / "out")
    assert count.replaced == 1
    assert made is not None
    (x, *_), (y,) = made.model.inputs, made.model.outputs
    assert same(x.shape[0], written_as)
    assert same(y.shape[0], written_as)
    assert check_files(path, tmp_path / "out", Options(count=2)).verdict == "PASS"


def test_names_stay_apart_and_what_others_are_made_of_is_kept() -> None:
    text = "(float[l, m] x, float[a, b, c] z) => (float[a] y) { y = Squeeze(z) }"
    model = ir.from_proto(onnx.parser.parse_model(HEAD + text))
    model.graph.inputs[0].shape = ir.Shape(["l", "floor(l/2)"])
    model.graph.inputs[1].shape = ir.Shape(["a b", "a-b", "a_b"])
    model.graph.outputs[0].shape = ir.Shape(["a b"])
    name_dimensions(model)
    shapes = [[str(dim) for dim in value.shape] for value in model.graph.inputs]
    assert shapes == [["l", "floor(l/2)"], ["a_b_2", "a_b_3", "a_b"]]
    assert [str(dim) for dim in model.graph.outputs[0].shape] == ["a_b_2"]


def test_an_output_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = with_rope(path)
    model.graph.output.append(model.graph.output[0])
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="expected each output once, got 'y' twice"):
        fuse_file(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
