"""Nodes of the norm and the rotation in TensorRT-RTX: layers, shapes, an engine, and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from ropeexport.ops import names
from ropeexport.trt.child import child_environment
from ropeexport.trt.flavour import RTX, available_flavours

pytestmark = pytest.mark.trt
HERE = Path(__file__).parent
B, H, L, D = 2, 4, 6, 16
AS_IT_IS, TRANSPOSED = [0, 1, 2, 3], [0, 2, 1, 3]
TYPES = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
SUFFIXES = ["", "Single"]
SUFFIXES += [
    f"CosSin{pairs}{part}{tensors}"
    for pairs in ("", "Half")
    for part in ("", "Partial")
    for tensors in ("", "Single")
]


def norm_model(
    path: Path, suffix: str = "CosSinSingle", kind: str = "float16", scale: str = "", **given: Any
) -> Path:
    """Write a model of one node; ``given``: attributes, and ``scale_shape``."""
    scale_shape = given.pop("scale_shape", None)
    attributes = {"epsilon": 1e-6, "axis": -1, "perm": AS_IT_IS} | given
    data = ["q"] if suffix.endswith("Single") else ["q", "k"]
    shape = [B, L, H, D] if attributes["perm"] == TRANSPOSED else [B, H, L, D]
    pairs = D // 2 - 2 * ("Partial" in suffix)
    tables = {"cos": [1, L, pairs], "sin": [1, L, pairs]}
    if "CosSin" not in suffix:
        tables = {"pe": [1, 1, L, pairs, 2, 2]}
    else:
        attributes["pairing"] = "half" if "Half" in suffix else "interleaved"
    if "Partial" in suffix:
        attributes["rotary_embedding_dim"] = 2 * pairs
    scale_shape = scale_shape or ([H, D] if attributes["axis"] == -2 else [D])
    inputs = [helper.make_tensor_value_info(x, TYPES[kind], shape) for x in data]
    inputs += [helper.make_tensor_value_info(x, TYPES["float"], s) for x, s in tables.items()]
    inputs += [
        helper.make_tensor_value_info(f"{x}_scale", TYPES[scale or kind], scale_shape) for x in data
    ]
    outputs = [helper.make_tensor_value_info(f"{x}_out", TYPES[kind], [B, H, L, D]) for x in data]
    node = helper.make_node(
        *(f"NormRope{suffix}", [x.name for x in inputs], [x.name for x in outputs]),
        name="rope",
        domain=names.DOMAIN,
        **names.PLUGIN_ATTRIBUTES,
        **{name: value for name, value in attributes.items() if value is not None},
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(names.DOMAIN, 1)]
    graph = helper.make_graph([node], "rope", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def parsed(model: Path, library: Path, *steps: str) -> dict[str, Any]:
    """Return what TensorRT itself makes of a model."""
    environment = child_environment(RTX, available_flavours()[RTX])
    command = [sys.executable, HERE / "layer_types.py", model, library, *steps]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "ropeexport::" not in done.stderr  # messages go to the logger
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("axis", "perm"), [(-1, AS_IT_IS), (-1, TRANSPOSED), (-2, TRANSPOSED)])
def test_every_form_is_a_plugin_layer(library, tmp_path, suffix, axis, perm) -> None:
    model = norm_model(tmp_path / "rope.onnx", suffix, axis=axis, perm=perm)
    result = parsed(model, library)
    assert (result["layers"], result["errors"]) == (["PLUGIN_V3"], [])
    count = 1 if suffix.endswith("Single") else 2
    assert result["outputs"] == [[B, H, L, D]] * count


@pytest.mark.parametrize(("kind", "scale"), [("float", ""), ("float16", ""), ("float16", "float")])
@pytest.mark.parametrize(("axis", "perm"), [(-1, AS_IT_IS), (-2, TRANSPOSED)])
def test_an_engine(library, tmp_path, kind, scale, axis, perm) -> None:
    model = norm_model(tmp_path / "rope.onnx", "", kind, scale, axis=axis, perm=perm)
    result = parsed(model, library, "build")
    assert result["errors"] == []
    assert result["engine_bytes"] > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epsilon": -1.0}, "field epsilon: expected a finite number that is not negative, got -1"),
        ({"epsilon": float("nan")}, "field epsilon: expected a finite number"),
        ({"epsilon": None}, "expected attribute epsilon of the ONNX node, got none"),
        ({"axis": None}, "expected attribute axis of the ONNX node, got none"),
        ({"axis": 3}, "field axis: expected -1 or -2, got 3"),
        ({"axis": -2}, "field axis: expected -1 where the data is (B, H, L, D), got -2"),
        ({"perm": [0, 1, 3, 2]}, "expected [0, 1, 2, 3] or [0, 2, 1, 3], got [0, 1, 3, 2]"),
        ({"perm": [0, 1, 2]}, "field perm: expected 4 of int32 or int64, got 3 values"),
        ({"scale_shape": [D - 1]}, f"size of q_scale, the head size: expected {D}, got {D - 1}"),
        ({"scale_shape": [H, D]}, "q_scale: expected 1 axes, got 2"),
        ({"axis": -2, "perm": TRANSPOSED, "scale_shape": [D]}, "q_scale: expected 2 axes, got 1"),
        (
            {"axis": -2, "perm": TRANSPOSED, "scale_shape": [1, D]},
            f"heads of q_scale: expected {H}, got 1",
        ),
        ({"kind": "float", "scale": "float16"}, "type of q_scale: expected that of q"),
    ],
)
def test_a_refusal_is_in_tensorrts_log(library, tmp_path, given, words) -> None:
    result = parsed(norm_model(tmp_path / "rope.onnx", **given), library)
    assert result["layers"] is None
    assert words in result["errors"][0]
