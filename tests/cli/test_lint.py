"""``inspect --lint`` from the command line: exit code, lines, JSON."""

from __future__ import annotations

import json

import onnx
from command_line import ropeexport


def without_attributes(folder) -> None:
    model = onnx.load(folder / "model.onnx")
    node = next(n for n in model.graph.node if n.op_type == "ApplyRope")
    del node.attribute[:]
    onnx.save(model, folder / "model.onnx")


def test_an_export_is_in_order(export_once) -> None:
    done = ropeexport("inspect", export_once(), "--lint")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "lint: 0 errors, 0 warnings"


def test_an_error_exits_with_1_and_names_the_mend(exported) -> None:
    folder = exported()
    without_attributes(folder)
    done = ropeexport("inspect", folder / "model.onnx", "--lint")
    assert done.returncode == 1
    assert "✗ error    no-plugin-attributes: " in done.stdout
    assert "  mend: export or fuse the file again" in done.stdout


def test_as_json(exported) -> None:
    folder = exported()
    without_attributes(folder)
    done = ropeexport("inspect", folder, "--lint", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["ropes"][0]["op"] == "ropeexport::ApplyRope"
    assert found["findings"][0] == {
        "rule": "no-plugin-attributes",
        "severity": "error",
        "text": found["findings"][0]["text"],
        "mend": "export or fuse the file again with ropeexport",
        "nodes": ["ApplyRope_0"],
    }
