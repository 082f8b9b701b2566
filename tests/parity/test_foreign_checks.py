"""Anybody's file against itself and against a wrong one: inputs of any rank and use, any result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import ropeexport

from ropeexport.errors import NotComparableError
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.parity.check import check_files
from ropeexport.parity.onnx_reference import OnnxOracle, manifest_of
from ropeexport.parity.options import Options

FEW = Options(count=6)
HEAD = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\ng '


def written(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(HEAD + text), path)
    return path


def checked(folder: Path, text: str, wrong: str | None = None, options: Options = FEW):
    """Return the report of a file with itself, or with one that has a change."""
    right = written(folder / "right.onnx", text)
    if wrong is None:
        return check_files(right, right, options)
    old, _, new = wrong.partition(" -> ")
    assert old in text
    return check_files(right, written(folder / "wrong.onnx", text.replace(old, new)), options)


TABLES = "float[b, 2, n, 8] x, float[50, 4] cos, float[50, 4] sin, int64[b, n] i"
# a file, and a change that must be found
FILES = {
    "a number alone": (
        "(float[n, 4] x, int64 i) => (float[n, 4] y) "
        "{ a = Cast<to = 1>(i) b = Sqrt(a) y = Mul(x, b) }", "Mul(x, b) -> Mul(x, a)",
    ),
    "positions in a row": (
        "(int64[n] i, float[4] f) => (float[n, 4] y) <int64[1] last = {-1}> "
        "{ a = Cast<to = 1>(i) b = Unsqueeze(a, last) c = Mul(b, f) y = Cos(c) }",
        "Cos(c) -> Sin(c)",
    ),
    "tables that are inputs": (
        f"({TABLES}) => (float[b, 2, n, 8] y) {{ y = RotaryEmbedding(x, cos, sin, i) }}",
        "RotaryEmbedding(x, cos -> RotaryEmbedding(x, sin",
    ),
    "tables that are inputs, onnxruntime's operator": (
        f"({TABLES}) => (float[b, 2, n, 8] y) "
        "{ y = com.microsoft.RotaryEmbedding(x, i, cos, sin) }",
        "RotaryEmbedding( -> RotaryEmbedding<interleaved = 1>(",
    ),
    "a constant without a value": (
        "(float[n, 4] x) => (float[n, 4] y) { s = Shape(x) z = ConstantOfShape(s) "
        "c = Concat<axis = 0>(x, z) h, t = Split<num_outputs = 2>(c) y = Add(h, t) }",
        "Add(h, t) -> Sub(t, h)",
    ),
    "not a number in places": (
        "(float[n, 4] x) => (float[n, 4] y) { y = Sqrt(x) }", "Sqrt(x) -> Abs(x)",
    ),
    "infinite in places": (
        "(float[n, 4] x) => (float[n, 4] y) { r = Relu(x) y = Log(r) }", "Log(r) -> Abs(r)",
    ),
    "an output that is empty, beside one that is not": (
        "(float[n, 4] x) => (float[a, 4] e, float[n, 4] y) <int64[1] one = {1}> "
        "{ e = Slice(x, one, one) y = Neg(x) }", "Neg(x) -> Abs(x)",
    ),
    "a sum of all elements": (
        "(float[n, 8, 9, 10] x) => (float y) { s = Mul(x, x) y = ReduceSum<keepdims = 0>(s) }",
        "Mul(x, x) -> Abs(x)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_passes_against_itself_and_a_wrong_one_fails(tmp_path, name: str) -> None:
    text, wrong = FILES[name]
    right = checked(tmp_path, text)
    assert right.verdict == "PASS", right.reason
    assert right.notes == ()
    assert checked(tmp_path, text, wrong).verdict == "FAIL"


def test_what_is_not_finite_is_said_and_no_number_is_of_it(tmp_path) -> None:
    report = checked(tmp_path, FILES["not a number in places"][0])
    found = next(c for c in report.comparisons if c.numbers and c.numbers.nans)
    assert found.reason.endswith("elements, as expected")
    assert 0 < found.numbers.nans < found.numbers.elements
    assert found.numbers.max_abs < 1e-6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(seq(float[n]) s, int64 i) => (float[n] y) { y = SequenceAt(s, i) }", "s: .* sequence"),
        ("(string[n] x) => (string[n] y) { y = Identity(x) }", "x: .*; got string"),
        ("(float[n] x) => (float8e4m3fn[n] y) { y = Cast<to = 17>(x) }", "y: .*; got float8_e4m3"),
        ("(float[n] x) => (float[n] y) { a = Relu(x) b = Neg(a) c = Abs(x) d = Sub(b, c) "
         "y = Sqrt(d) }", "empty or not finite"),
        ("(float[5] x, int64[n] i) => (float[n] y) <int64 far = {7}> "
         "{ j = Add(i, far) y = Gather(x, j) }",
         "the inputs that were drawn for it are refused: onnxruntime: "),
        ("(float[n] x) => (int32[n] y) { y = BitCast<to = 6>(x) }", "no kernel|its BitCast"),
    ],
)  # fmt: skip
def test_what_has_nothing_to_compare_is_one_line_and_no_failure(tmp_path, text, words) -> None:
    if "BitCast" in text:
        text = text.replace("g ", "")
        path = tmp_path / "right.onnx"
        head = HEAD.replace("23", "26")
        onnx.save(onnx.parser.parse_model(head + text), path)
    else:
        path = written(tmp_path / "right.onnx", text)
    done = ropeexport("check", path, path)
    assert done.returncode == 3
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    assert "Traceback" not in done.stderr
    with pytest.raises(Exception, match=words) as raised:
        check_files(path, path, FEW)
    assert raised.value.exit_code == 3


def test_cases_that_the_runtime_refuses_are_left_out_and_said(tmp_path) -> None:
    # a table of 40 rows, of which a sequence of up to 128 takes its own
    text = """(float[b, n, 1] x) => (float[b, n, 1] y)
      <float[40, 1] w, int64 zero = {0}, int64 step = {1}> {
      s = Shape<start = 1, end = 2>(x) last = Squeeze(s)
      i = Range(zero, last, step) t = Gather(w, i) y = Add(x, t) }"""
    weight = f"w = {{{','.join(map(str, range(40)))}}}"
    report = checked(tmp_path, text.replace("w,", f"{weight},", 1), options=Options())
    assert report.verdict == "PASS"
    (note,) = report.notes
    assert note.startswith("cases SKIPPED: ")
    assert "onnxruntime: the run failed" in note
    skipped = {c.case.name for c in report.comparisons if c.status == "SKIPPED"}
    assert skipped
    assert skipped.isdisjoint(report.cases)


def test_onnxruntimes_attention_over_a_cache_is_compared(tmp_path) -> None:
    text = """(float[b, sequence_length, 64] q, float[b, sequence_length, 32] k,
      float[b, sequence_length, 32] v, int64[b, total_sequence_length] attention_mask,
      float[b, 2, past_sequence_length, 16] pk, float[b, 2, past_sequence_length, 16] pv)
      => (float[b, sequence_length, 64] y, float[b, 2, total_sequence_length, 16] k2,
      float[b, 2, total_sequence_length, 16] v2) <int64[1] one = {1}, int64 at = {1}> {
      count = ReduceSum<keepdims = 0>(attention_mask, one) less = Sub(count, one)
      last = Cast<to = 6>(less) shape = Shape(attention_mask) size = Gather(shape, at)
      total = Cast<to = 6>(size) y, k2, v2 = com.microsoft.GroupQueryAttention
      <num_heads = 4, kv_num_heads = 2, scale = 0.3>(q, k, v, pk, pv, last, total) }"""
    path = written(tmp_path / "right.onnx", text)
    specs = {spec.name: spec for spec in manifest_of(OnnxFile(path)).model.inputs}
    assert specs["attention_mask"].role == "mask"
    assert specs["attention_mask"].shape[1] == "past_sequence_length + sequence_length"
    assert checked(tmp_path, text).verdict == "PASS"
    assert checked(tmp_path, text, "scale = 0.3 -> scale = 0.31").verdict == "FAIL"


def test_the_constant_of_a_shape_is_wide_where_its_graph_is(tmp_path) -> None:
    text = FILES["a constant without a value"][0]
    oracle = OnnxOracle(OnnxFile(written(tmp_path / "m.onnx", text)))
    (found,) = oracle.in_a_row([{"x": np.full((3, 4), 0.1, np.float32)}])
    assert (found["y"] == np.float64(np.float32(0.1))).all()


def test_an_oracle_says_which_operator_it_cannot_run(tmp_path) -> None:
    path = written(tmp_path / "m.onnx", "(float[2, 3] x) => (float[4] y) { y = Expand(x, s) }")
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4]), "s"))
    onnx.save(model, path)
    with pytest.raises(NotComparableError, match=r"cannot run its Expand \(y\) in float64$"):
        OnnxOracle(OnnxFile(path)).in_a_row([{"x": np.zeros((2, 3), np.float32)}])
