"""An ONNX file whose maker chose every name in it, from inspection to every report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from command_line import ropeexport

pytestmark = pytest.mark.hostile

NAME = "[/y]\x1b[31m\x9b\u202e\n✓ check: PASS $x{`|<b>:smile:\x7f"
SHOWN = r"[/y]\x1b[31m\x9b\u202e\n✓ check: PASS $x{`|<b>:smile:\x7f"
HALVES = """
<ir_version: 10, opset_import: ["" : 23]>
rotary (float[batch, 2, length, 8] x, float[length, 8] cos, float[length, 8] sin)
=> (float[batch, 2, length, 8] y)
<int64[1] zero = {0}, int64[1] half = {4}, int64[1] end = {8}, int64[1] last = {3}>
{
    a = Slice(x, zero, half, last)
    b = Slice(x, half, end, last)
    c = Neg(b)
    turned = Concat<axis = 3>(c, a)
    left = Mul(x, cos)
    right = Mul(turned, sin)
    y = Add(left, right)
}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    model = onnx.parser.parse_model(HALVES)
    graph = model.graph
    for node in graph.node:
        node.name = f"{NAME}{node.output[0]}"
        node.input[:] = [NAME + name for name in node.input]
        node.output[:] = [NAME + name for name in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = NAME + value.name
    path = tmp_path_factory.mktemp("hostile") / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def folder(file, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("fused") / "out"
    done = ropeexport("fuse", file, "-o", made, "-v")
    assert done.returncode == 0, done.stderr
    assert_clean(done.stdout + done.stderr)
    return made


def assert_clean(text: str) -> None:
    assert not [line for line in text.split("\n") if not line.isprintable()]
    assert not re.search("^✓ check: PASS", text, re.MULTILINE)  # a line that a name has forged


@pytest.mark.parametrize("arguments", [("inspect",), ("inspect", "--lint")])
def test_a_file_is_shown(file, arguments) -> None:
    done = ropeexport(*arguments, file)
    assert done.returncode == 0
    assert_clean(done.stdout + done.stderr)
    assert SHOWN in done.stdout


@pytest.mark.parametrize(
    "arguments", [("inspect",), ("run", "--random"), ("check", "--cases", "2")]
)
def test_a_folder_is_shown(folder, arguments) -> None:
    done = ropeexport(*arguments, folder)
    assert done.returncode == 0, done.stderr
    assert_clean(done.stdout + done.stderr)
    assert SHOWN in done.stdout


@pytest.mark.parametrize("arguments", [("inspect",), ("check", "--cases", "1")])
def test_json_has_the_name_as_it_is_and_no_character_that_a_terminal_obeys(
    folder, arguments
) -> None:
    done = ropeexport(*arguments, folder, "--json")
    assert done.returncode == 0
    assert_clean(done.stdout)
    found = json.loads(done.stdout)
    outputs = found["model"]["outputs"] if "ropes" in found else found["comparisons"]
    assert f"{NAME}y" in [one.get("name", one.get("output")) for one in outputs]


def test_an_error_is_one_line(folder) -> None:
    done = ropeexport("run", folder, "--random", "--shapes", "x:1")
    assert done.returncode == 2
    assert_clean(done.stderr)
    assert SHOWN in done.stderr
    assert done.stderr.count("\n") == 1
