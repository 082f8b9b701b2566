"""What older exporters write: operators of older opsets, functions, outer products, fixed grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from ropeexport.errors import ModelFileError
from ropeexport.exporting.foreign import bring_to_opset
from ropeexport.exporting.fuse_file import fuse_file
from ropeexport.exporting.outer_products import write_products
from ropeexport.onnx_files.onnx_file import OnnxFile, with_shapes

Feed = dict[str, NDArray[np.generic]]
ROTATED = """
  x1, x2 = Split<axis = -1>(x) n2 = Neg(x2) r = Concat<axis = -1>(n2, x1)
  a = Mul(x, cos) b = Mul(r, sin) rotated = Add(a, b)"""
INPUTS = "float[batch, 2, length, 8] x, float[length, 8] cos, float[length, 8] sin"


def written(path: Path, text: str, opset: int = 17) -> Path:
    head = f'<ir_version: 8, opset_import: ["" : {opset}, "my" : 1, "com.microsoft" : 1]>\n'
    onnx.save(onnx.parser.parse_model(head + text), path)
    return path


def tables(length: int) -> Feed:
    angles = np.arange(length)[:, None] * 10.0 ** -np.arange(4)
    both = np.concatenate([angles, angles], axis=-1)
    x = np.random.default_rng(0).standard_normal((3, 2, length, 8))
    feed = {"x": x, "cos": np.cos(both), "sin": np.sin(both)}
    return {name: array.astype(np.float32) for name, array in feed.items()}


def run(path: Path, feed: Feed) -> list[NDArray[np.generic]]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)


def assert_fused(path: Path, out: Path, feed: Feed) -> None:
    _, count = fuse_file(path, out, require_rope=1)
    assert (count.found, count.refused) == (1, ())
    for new, old in zip(run(out / "model.onnx", feed), run(path, feed), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=2e-6 * np.abs(old).max())


OLDER = {
    "reduced": "s = Mul(rotated, rotated) y = ReduceMean<axes = [-1], keepdims = 1>(s)",
    "split": "y, z = Split<axis = 2>(rotated)",
    "normalised": "y = SimplifiedLayerNormalization<axis = -1>(rotated, one)",
    "in a branch": """t = Constant<value = bool {1}>()
      y = If(t) <
        then_branch = g1 () => (float[batch, 2, length, 1] p) {
          p = ReduceMax<axes = [-1]>(rotated) },
        else_branch = g2 () => (float[batch, 2, length, 1] m) {
          m = ReduceMin<axes = [-1]>(rotated) }>""",
}


@pytest.mark.parametrize("name", OLDER)
def test_an_operator_of_opset_17_is_converted(tmp_path: Path, name: str) -> None:
    weight = "<float[8] one = {1, 1, 1, 1, 1, 1, 1, 2}>"
    text = f"g ({INPUTS}) => (float[a, b, c, d] y) {weight} {{ {ROTATED} {OLDER[name]} }}"
    assert_fused(written(tmp_path / "in.onnx", text), tmp_path / "out", tables(6))


PICKED = {
    "axis 1": "y = Hardmax<axis = 1>(rotated)",
    "the usual axis": "y = Hardmax(rotated)",
    "the last axis": "y = Hardmax<axis = -1>(rotated)",
    "softmax": "y = Softmax<axis = 2>(rotated)",
    "normalised": "y = BatchNormalization(rotated, two, two, two, two)",
    "in a branch": """t = Constant<value = bool {1}>()
      y = If(t) <then_branch = g1 () => (float[a, b, c, d] p) { p = Hardmax(rotated) },
                 else_branch = g2 () => (float[a, b, c, d] m) { m = Neg(rotated) }>""",
    "in a function": "y = my.pick(rotated)",
}


@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("name", PICKED)
def test_what_an_operator_meant_before_opset_13_is_kept(
    tmp_path: Path, name: str, opset: int
) -> None:
    text = f"""g ({INPUTS}) => (float[a, b, c, d] y) <float[2] two = {{1, 2}}> {{
      {ROTATED} {PICKED[name]} }}"""
    if "my." in text:
        text += f"""<domain: "my", opset_import: ["" : {opset}]> pick (x) => (y) {{
          y = Hardmax<axis = 1>(x) }}"""
    assert_fused(written(tmp_path / "in.onnx", text, opset), tmp_path / "out", tables(6))


def test_what_has_no_later_form_is_refused(tmp_path: Path) -> None:
    text = f"g ({INPUTS}) => (y) {{ {ROTATED} y = Neg<wrong = 1>(rotated) }}"
    with pytest.raises(ModelFileError, match=r"Neg '.*': opset 18 could not be brought to 23"):
        fuse_file(written(tmp_path / "in.onnx", text, 18), tmp_path / "out")
    assert not (tmp_path / "out").exists()


FUNCTION = f"""<domain: "my", opset_import: ["" : {{opset}}]>
turn (x, cos, sin) => (rotated) {{{{ {ROTATED.replace("Split<", "Split<num_outputs = 2, ")} }}}}"""


def test_a_rope_in_a_function_is_found(tmp_path: Path) -> None:
    text = f"g ({INPUTS}) => (float[b, h, l, d] y) {{ z = my.turn(x, cos, sin) y = Relu(z) }}"
    path = written(tmp_path / "in.onnx", text + FUNCTION.format(opset=23), 23)
    assert_fused(path, tmp_path / "out", tables(5))


def test_a_function_of_another_opset_stays(tmp_path: Path) -> None:
    text = f"g ({INPUTS}) => (float[b, h, l, d] y) {{ z = my.turn(x, cos, sin) y = Relu(z) }}"
    model = OnnxFile(written(tmp_path / "in.onnx", text + FUNCTION.format(opset=20), 23)).whole
    bring_to_opset(model, "in.onnx")
    assert [node.op_type for node in model.graph] == ["turn", "Relu"]


@pytest.mark.parametrize("body", ["q = Softmax<axis = 1>(p)", "s = Mul(p, p) q = Add(s, p)"])
def test_a_function_of_another_opset_than_an_older_file_is_refused(
    tmp_path: Path, body: str
) -> None:
    text = f"""g ({INPUTS}) => (float[b, h, l, d] y) {{ {ROTATED} y = my.other(rotated) }}
      <domain: "my", opset_import: ["" : 12]> other (p) => (q) {{ {body} }}"""
    with pytest.raises(ModelFileError, match=r"my::other: .* ai.onnx 17, .*got ai.onnx 12; export"):
        fuse_file(written(tmp_path / "in.onnx", text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_behind_a_link_are_read(tmp_path: Path) -> None:
    text = f"g ({INPUTS}) => (float[b, h, l, d] y) {{ {ROTATED} y = Mul(rotated, w) }}"
    model = onnx.load(written(tmp_path / "plain.onnx", text))
    weight = onnx.numpy_helper.from_array(np.arange(8, dtype=np.float32), "w")
    model.graph.initializer.append(weight)
    for folder in ("blobs", "snapshots"):
        (tmp_path / folder).mkdir()
    blob = tmp_path / "blobs" / "graph"
    onnx.save(model, tmp_path / "plain.onnx")
    onnx.save(model, blob, save_as_external_data=True, location="data", size_threshold=0)
    names = {"model.onnx": "graph", "data": "data"}
    for name, target in names.items():
        (tmp_path / "snapshots" / name).symlink_to(tmp_path / "blobs" / target)
    fuse_file(tmp_path / "snapshots" / "model.onnx", tmp_path / "out", require_rope=1)
    feed = tables(4)
    (new,), (old,) = (run(tmp_path / at, feed) for at in ("out/model.onnx", "plain.onnx"))
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-5)


FREQUENCIES = "<float[1, 4, 1] f = {1, 0.1, 0.01, 0.001}, float[1, 1, 4] r = {1, 0.1, 0.01, 0.001}>"
OUTER = {
    "a row": ("float[batch, length, 1] p", "y = MatMul(p, r)", 1),
    "a column": ("float[batch, 1, length] p", "o = MatMul(f, p) y = Transpose<perm=[0,2,1]>(o)", 1),
    "not transposed": ("float[batch, 1, length] p", "y = MatMul(f, p)", 0),
    "an inner size of 3": ("float[batch, length, 3] p", "y = MatMul(p, s)", 0),
}


@pytest.mark.parametrize("name", OUTER)
def test_an_outer_product_is_written_as_a_product(tmp_path: Path, name: str) -> None:
    given, body, expected = OUTER[name]
    shared = FREQUENCIES[:-1] + ", float[1, 3, 2] s = {1, 2, 3, 4, 5, 6}>"
    text = f"g ({given}) => (float[batch, a, b] y) {shared} {{ {body} }}"
    path = written(tmp_path / "in.onnx", text, 23)
    model = with_shapes(OnnxFile(path).whole)
    assert write_products(model) == expected
    onnx.save(onnx_of(model), tmp_path / "out.onnx")
    shape = {"p": (2, 5, 1) if "1] p" in given else (2, 5, 3)}
    shape["p"] = (2, 1, 5) if "1, length" in given else shape["p"]
    feed = {"p": np.random.default_rng(0).standard_normal(shape["p"]).astype(np.float32)}
    (new,), (old,) = run(tmp_path / "out.onnx", feed), run(path, feed)
    np.testing.assert_array_equal(new, old)


def onnx_of(model):
    import onnx_ir as ir

    return ir.to_proto(model)


GRID = (
    """g (float[batch, 2, tokens, 8] x, float[batch, 3, height, width] image)
=> (float[batch, 2, tokens, 8] y) <float[4] f = {1, 0.1, 0.01, 0.001}, int64 zero = {0},
  int64 one = {1}, int64[1] last = {-1}>
{
  size = Shape<start = 3, end = 4>(image) n = Squeeze(size) steps = Range(zero, n, one)
  p = Cast<to = 1>(steps) column = Unsqueeze(p, last) angles = Mul(column, f)
  both = Concat<axis = -1>(angles, angles) cos = Cos(both) sin = Sin(both)
"""
    + ROTATED.replace("Split<", "Split<num_outputs = 2, ").replace("rotated", "y")
    + " }"
)


def test_static_writes_tables_of_fixed_positions_as_constants(tmp_path: Path) -> None:
    path = written(tmp_path / "in.onnx", GRID, 23)
    axes = {"width": (6, 6, 6), "height": (2, 2, 2), "tokens": (6, 6, 6)}
    record, _ = fuse_file(path, tmp_path / "out", require_rope=1, axes=axes, static=True)
    assert record is not None
    assert list(record.axes) == ["batch"]
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["ApplyRopeCosSinHalfSingle"]
    rng = np.random.default_rng(1)
    feed = {"x": rng.standard_normal((3, 2, 6, 8)), "image": rng.standard_normal((3, 3, 2, 6))}
    feed = {name: array.astype(np.float32) for name, array in feed.items()}
    (new,), (old,) = run(tmp_path / "out" / "model.onnx", feed), run(path, feed)
    np.testing.assert_allclose(new, old, rtol=0, atol=2e-6 * np.abs(old).max())
