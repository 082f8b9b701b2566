"""Graphs that ask for more than any machine has, or that are no graphs: one line, in bounds.

Each command is a fork of one process that has imported everything, under a bound on memory; what
hangs ends at its deadline.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from attack.worker import Ended, Worker
from ropeexport.errors import NotComparableError
from ropeexport.onnx_files import budget
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.shapes import infer
from ropeexport.parity.onnx_reference import OnnxOracle

pytestmark = pytest.mark.hostile

_DEADLINE = 300  # seconds: of a loaded machine
_MOST_MEGABYTES = 1024  # in use at once
_FLOAT = TensorProto.FLOAT
_PRELOADED = (
    "ropeexport.cli.making",
    "ropeexport.cli.reading",
    "ropeexport.api.making",
    "ropeexport.lint",
    "ropeexport.exporting",
    "onnx.reference",
    "onnxruntime",
    "rich.table",
    "sympy",
)

Made = Callable[[], onnx.ModelProto]


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, object] | None = None,
    functions: tuple[onnx.FunctionProto, ...] = (),
    opset: int = 20,
    shape: tuple[object, ...] = ("n", 1),
) -> onnx.ModelProto:
    """Return a model from x to y; the product of something and x, where a rope may be sought."""
    x = helper.make_tensor_value_info("x", _FLOAT, shape)
    y = helper.make_tensor_value_info("y", _FLOAT, None)
    values = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y], values)
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def with_product(op: str, inputs: list[str], constants: dict[str, object], **given: object) -> Made:
    """Return what makes a model whose x is multiplied by what an operator makes of constants."""
    nodes = [
        helper.make_node(op, inputs, ["k"], **given),
        helper.make_node("Cast", ["k"], ["f"], to=_FLOAT),
        helper.make_node("Mul", ["x", "f"], ["m"]),
        helper.make_node("Add", ["m", "x"], ["y"]),
    ]
    return lambda: model(nodes, constants)


def doubled() -> onnx.ModelProto:
    """Functions that each call the next one twice: 2^40 nodes, put where they are called."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    functions = []
    for number in range(40):
        calls = [
            helper.make_node(f"f{number + 1}", ["a"], ["b"], domain="own"),
            helper.make_node(f"f{number + 1}", ["b"], ["c"], domain="own"),
        ]
        functions.append(helper.make_function("own", f"f{number}", ["a"], ["c"], calls, imports))
    relu = helper.make_node("Relu", ["a"], ["c"])
    functions.append(helper.make_function("own", "f40", ["a"], ["c"], [relu], imports))
    call = helper.make_node("f0", ["x"], ["y"], domain="own")
    return model([call], functions=tuple(functions))


def squared(rounds: int = 60) -> onnx.ModelProto:
    """A size that is multiplied by itself: whole numbers of 2^60 digits."""
    names = ["s", *(f"s{number}" for number in range(rounds))]
    nodes = [helper.make_node("Shape", ["x"], ["s"])]
    nodes += [helper.make_node("Mul", [a, a], [b]) for a, b in itertools.pairwise(names)]
    nodes += [
        helper.make_node("Reshape", ["x", names[-1]], ["m"]),
        helper.make_node("Add", ["m", "x"], ["y"]),
    ]
    return model(nodes, shape=("n", 4))


def joined(rounds: int = 40) -> onnx.ModelProto:
    """A vector that is joined to itself: 2^42 numbers."""
    names = ["v", *(f"v{number}" for number in range(rounds))]
    nodes = [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in itertools.pairwise(names)]
    nodes += [
        helper.make_node("ConstantOfShape", [names[-1]], ["k"]),
        helper.make_node("Mul", ["x", "k"], ["m"]),
        helper.make_node("Add", ["m", "x"], ["y"]),
    ]
    return model(nodes, {"v": np.ones(4, np.int64)})


def named(text: str) -> Made:
    """Return what makes a model with an axis of a name."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["m"]),
        helper.make_node("Add", ["m", "x"], ["y"]),
    ]
    return lambda: model(nodes, shape=(text, 4))


def endless() -> onnx.ModelProto:
    """A loop of 2^60 rounds."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["a"], ["b"])],
        "body",
        [
            scalar("i", TensorProto.INT64, []),
            scalar("go", TensorProto.BOOL, []),
            scalar("a", _FLOAT, None),
        ],
        [scalar("on", TensorProto.BOOL, []), scalar("b", _FLOAT, None)],
    )
    nodes = [helper.make_node("Loop", ["count", "go0", "x"], ["y"], body=body)]
    return model(nodes, {"count": np.int64(1 << 60), "go0": np.array(True)})


def chained(length: int = 100_000) -> onnx.ModelProto:
    """A chain of cheap nodes without anything that rotates."""
    names = ["x", *(f"t{number}" for number in range(length - 1)), "y"]
    return model([helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)])


one = np.ones(1, np.float32)
NOTHING_TO_FUSE = {
    "range of 2^40": with_product(
        "Range", ["a", "b", "d"], {"a": np.int64(0), "b": np.int64(1 << 40), "d": np.int64(1)}
    ),
    "constant of 2^40": with_product("ConstantOfShape", ["s"], {"s": np.array([1 << 20] * 2)}),
    "constant of 2^30": with_product("ConstantOfShape", ["s"], {"s": np.array([1 << 30])}),
    "expand to 2^30": with_product("Expand", ["v", "s"], {"v": one, "s": np.array([1 << 30])}),
    "tile to 2^40": with_product("Tile", ["v", "s"], {"v": one, "s": np.array([1 << 40])}),
    "pad to 2^31": with_product("Pad", ["v", "s"], {"v": one, "s": np.array([0, 1 << 31])}),
    "one hot of 2^32": with_product(
        "OneHot",
        ["v", "s", "o"],
        {"v": np.zeros(4, np.int64), "s": np.int64(1 << 32), "o": np.array([0, 1], np.float32)},
    ),
    "window of 2^32": with_product("HannWindow", ["s"], {"s": np.int64(1 << 32)}),
    "squares of sizes": squared,
    "a vector joined to itself": joined,
    "a power of powers": named("9**9**9**9"),
    "a sum of 5000 axes": named(" + ".join(f"a{number}" for number in range(5000))),
    "a loop of 2^60 rounds": endless,
    "a chain of 100,000 nodes": chained,
}


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(tmp_path_factory.mktemp("worker"), preloaded=_PRELOADED) as worker:
        yield worker


@pytest.fixture
def run(worker: Worker) -> Run:
    """Return what runs a verb on a model in a folder of its own, and sees that it ends."""

    def run(made: onnx.ModelProto | bytes, *verb: str) -> Ended:
        worker.clear()
        data = made if isinstance(made, bytes) else made.SerializeToString()
        (worker.work / "x.onnx").write_bytes(data)
        ended = worker.run([verb[0], "x.onnx", *verb[1:]], _DEADLINE)
        assert not ended.hung
        assert ended.megabytes < _MOST_MEGABYTES
        assert "Traceback" not in ended.errors
        return ended

    return run


@pytest.mark.parametrize("name", NOTHING_TO_FUSE)
def test_what_asks_for_too_much_is_read_in_bounds(name: str, run: Run, worker: Worker) -> None:
    ended = run(NOTHING_TO_FUSE[name](), "fuse", "-o", "out")
    assert ended.code == 0, ended.errors
    assert "0 found, 0 replaced, 0 refused" in ended.output
    assert not (worker.work / "out").exists()


def test_shapes_are_inferred_beside_a_vector_too_long_to_follow() -> None:
    made = ir.from_proto(NOTHING_TO_FUSE["range of 2^40"]())
    for value in (value for node in made.graph for value in node.outputs):
        value.shape = None
    infer(made)
    assert made.graph.node(0).outputs[0].shape == (1 << 40,)
    assert all(value.shape is not None for node in made.graph for value in node.outputs)


def test_a_rope_too_large_to_be_tried_is_not_judged(run: Run) -> None:
    """Its size is the file's own, and no trial size: the proof would hold a dozen such tensors."""

    def node(op: str, inputs: str, outputs: str, **given: object) -> onnx.NodeProto:
        return helper.make_node(op, inputs.split(), outputs.split(), **given)

    nodes = [
        node("Split", "x", "a b", axis=-1, num_outputs=2),
        *(node("Mul", f"{x} {y}", f"{x}{y}") for x, y in itertools.product("ab", "cs")),
        node("Sub", "ac bs", "p"),
        node("Add", "as bc", "q"),
        node("Concat", "p q", "y", axis=-1),
    ]

    def rope(length: int) -> onnx.ModelProto:
        made = model(nodes, shape=(1, 6, length, 8))
        for name in "cs":
            made.graph.input.append(helper.make_tensor_value_info(name, _FLOAT, (length, 4)))
        return made

    assert "1 found, 1 replaced, 0 refused" in run(rope(5), "fuse", "-o", "out").output
    ended = run(rope(543_926), "fuse", "-o", "out")
    assert ended.code == 0, ended.errors
    assert "0 found, 0 replaced, 0 refused, 1 not judged" in ended.output
    assert "x of (1, 6, 543926, 8) is too large to be tried" in ended.output
    assert run(rope(543_926), "inspect", "--lint").code == 0


@pytest.mark.parametrize(
    "steps", [1 << 10, pytest.param(budget._MOST_STEPS, marks=pytest.mark.tools)]
)
def test_an_endless_loop_has_nothing_to_compare(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_MOST_STEPS", steps)
    path = tmp_path / "x.onnx"
    onnx.save(endless(), path)
    oracle = OnnxOracle(OnnxFile(path))
    with pytest.raises(NotComparableError, match="Loop"):
        oracle.truth({"x": np.ones((1, 1), np.float32)}, seed=0)


def test_functions_that_double_are_refused(run: Run) -> None:
    for verb in (("inspect",), ("inspect", "--lint"), ("fuse", "-o", "out")):
        ended = run(doubled(), *verb)
        assert ended.code == 1
        assert "expected at most 1,048,576 nodes" in ended.errors
        assert ended.errors.count("\n") == 1


@pytest.mark.parametrize("opset", [0, -1, 1 << 62])
def test_an_opset_that_is_none_is_refused(opset: int, run: Run) -> None:
    ended = run(model([helper.make_node("Relu", ["x"], ["y"])], opset=opset), "inspect")
    assert ended.code == 1
    assert f"expected an opset of 1 or more of '', got {opset}" in ended.errors


def test_a_node_that_makes_nothing_is_refused(run: Run) -> None:
    made = endless()
    made.graph.node.append(made.graph.node[0])
    del made.graph.node[-1].output[:]
    for verb in ("inspect", "fuse"):
        ended = run(made, verb, *(["-o", "out"] if verb == "fuse" else []))
        assert ended.code == 1
        assert "Loop: expected an output, got none" in ended.errors


def test_names_that_are_no_text_are_refused(run: Run) -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()
    ended = run(made.replace(b"Relu", b"\xff\xfe\x80u"), "inspect")
    assert ended.code == 1
    assert "expected names in UTF-8" in ended.errors
