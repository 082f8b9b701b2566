"""Models that end on no input, or make gigabytes of constants: refused before a runtime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import endless_models as endless
import numpy as np
import onnx
import pytest
from onnx import helper

from ropeexport.errors import ModelFileError
from ropeexport.onnx_files.ending import require_ending
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.runners.registry import Opening, find

X = {"x": np.zeros((1, 4), np.float32)}

ENDLESS = {
    "no count": (endless.loop(), "its Loop (y) goes on for 9e+18 rounds"),
    "a count": (endless.loop(count=1 << 40), "its Loop (y) goes on for 1e+12 rounds"),
    "in each other": (
        endless.loop(count=1 << 20, inner=endless.loop(count=1 << 20)),
        "its Loop (y) goes on for 1e+12 rounds",
    ),
    "a range": (endless.range_of(1 << 40), "its Range (r) makes 1e+12 numbers"),
    "a tile": (
        endless.made_by("Tile", np.ones(4, np.float32), np.array([1 << 28])),
        "its Tile (made) makes 1,073,741,824 numbers",
    ),
}
ENDING = {
    "it ends by what it computes": endless.loop(until="r < z"),
    "a caller gives the count": endless.loop(count="n"),
    "it does not begin": endless.loop(begins=False),
    "a count of some": endless.loop(count=3),
    "a range of some": endless.range_of(1 << 10),
}


@pytest.mark.parametrize(("model", "said"), ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_does_not_end_is_refused_by_name(
    tmp_path: Path, model: onnx.ModelProto, said: str, runtime: str
) -> None:
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="so it is not run") as error:
        find(runtime).open(Opening(OnnxFile(tmp_path / "model.onnx")))
    assert said in str(error.value)
    assert error.value.code == "RX324"


@pytest.mark.parametrize("model", ENDING.values(), ids=ENDING)
def test_what_ends_on_some_input_is_run(tmp_path: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, tmp_path / "model.onnx")
    file = OnnxFile(tmp_path / "model.onnx")
    require_ending(file)
    given: dict[str, Any] = {value.name: np.array(2) for value in model.graph.input[1:]}
    with find("onnxruntime").open(Opening(file)) as runner:
        assert runner.run(X | given)["y"].shape == (1, 4)


@pytest.mark.parametrize("part", ["attribute", "output"])
def test_a_loop_that_is_none_is_left_to_the_runtime(tmp_path: Path, part: str) -> None:
    model = endless.loop()
    (node,) = model.graph.node
    parts = {"attribute": node.attribute, "output": node.attribute[0].g.output}
    del parts[part][:]
    onnx.save(model, tmp_path / "model.onnx")
    require_ending(OnnxFile(tmp_path / "model.onnx"))


def test_a_loop_in_a_function_and_in_a_branch_is_found(tmp_path: Path) -> None:
    model = endless.loop()
    (node,) = model.graph.node
    shape = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    bare = helper.make_node("Identity", ["x"], ["y"])
    branches = {
        "then_branch": helper.make_graph([node], "then", [], [shape]),
        "else_branch": helper.make_graph([bare], "else", [], [shape]),
    }
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["t"], ["y"], **branches))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="its Loop"):
        require_ending(OnnxFile(tmp_path / "model.onnx"))
