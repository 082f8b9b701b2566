"""Attention in blocks, made where onnxruntime loads a file, and files that have it written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_edits import in_blocks
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import ropeexport
from ropeexport.artifact import Artifact
from ropeexport.bench.peers import export_plain
from ropeexport.models.example import Example
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.parity.cases import Case, space_of
from ropeexport.parity.inputs import make_inputs
from ropeexport.runners.ort import OrtRunner

SMALL = {"heads": 2, "head_dim": 64}
CHANGE = 1024  # of float16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model with weights, in a file of their own."""
    made = tmp_path_factory.mktemp("made")
    ropeexport.export("flux-self-attention", out=made, dtype="fp16", **SMALL)
    model = onnx.load(made / "model.onnx")
    onnx.save(model, made / "model.onnx", save_as_external_data=True, location="apart")
    return made


def inputs(folder: Path, length: int) -> dict[str, np.ndarray]:
    record = Artifact.read(folder).manifest
    space = space_of(record)
    sizes = space.with_length(space.broadcasts({**space.at("opt"), "batch": 1})[0], length)
    return make_inputs(Case("blocks", space.kinds[0], sizes, 0), record.model.inputs, None)


def both(folder: Path, length: int) -> tuple[np.ndarray, np.ndarray]:
    given, file = inputs(folder, length), OnnxFile(folder / "model.onnx")
    with OrtRunner(file) as best, OrtRunner(file, as_written=True) as bare:
        assert best.facts.made_of == "function body, attention in blocks"
        assert bare.facts.made_of == "function body"
        return best.run(given)["out"], bare.run(given)["out"]


def test_short_sequences_are_as_they_were(folder: Path) -> None:
    best, bare = both(folder, CHANGE - 1)
    assert np.array_equal(best, bare)


def test_long_ones_are_computed_by_another_kernel(folder: Path) -> None:
    best, bare = both(folder, CHANGE)
    assert not np.array_equal(best, bare)  # it rounds elsewhere
    largest = np.abs(bare.astype(np.float32)).max()
    assert np.abs(best.astype(np.float32) - bare.astype(np.float32)).max() <= 2**-9 * largest


def test_a_file_that_has_blocks_runs_everywhere(tmp_path: Path) -> None:
    ropeexport.export("flux-attention", out=tmp_path, attention="blocks", **SMALL)
    written = onnx.load(tmp_path / "model.onnx")
    assert [n.op_type for n in written.graph.node if n.domain] == ["ApplyRope", "AttentionInBlocks"]
    with OrtRunner(OnnxFile(tmp_path / "model.onnx"), as_written=True) as bare:
        assert bare.run(inputs(tmp_path, 16))["out"].shape == (1, 16, 128)
    report = ropeexport.check(tmp_path, cases=4, require=["onnxruntime", "openvino"])
    assert report.verdict == "PASS", report.reason


@pytest.mark.trt
def test_tensorrt_gets_the_standards_attention_of_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = {"dtype": "fp16", "length": 32, "attention": "blocks", **SMALL}
    made = ropeexport.export("flux-attention", out=tmp_path, **options)
    assert made.build(impl="decomposed").attention == "fused"


class Halves(nn.Module):
    """A rope as Llama writes it, and attention without a mask."""

    def forward(self, q, v, cos, sin):
        first, second = q.chunk(2, dim=-1)
        rotated = q * cos + torch.cat((-second, first), dim=-1) * sin
        return scaled_dot_product_attention(rotated, rotated, v)


def test_a_fused_file_has_blocks_where_they_are_asked_for(tmp_path: Path) -> None:
    heads, table = torch.randn(1, 2, 6, 16), torch.randn(6, 8).repeat(1, 2)
    axes = {"q": {2: "length"}, "v": {2: "length"}, "cos": {0: "length"}, "sin": {0: "length"}}
    inputs = {"q": heads, "v": heads.clone(), "cos": table.cos(), "sin": table.sin()}
    export_plain(Example(Halves().eval(), inputs, axes), tmp_path / "plain.onnx")
    made = ropeexport.fuse(tmp_path / "plain.onnx", tmp_path / "fused", attention="blocks")
    assert made.artifact is not None
    ops = [n.op_type for n in onnx.load(made.artifact.model_path).graph.node if n.domain]
    assert "AttentionInBlocks" in ops


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ropeexport.UsageError, match="attention: expected standard or blocks or gqa"
    ):
        ropeexport.export("flux-attention", out=tmp_path / "out", attention="flash")
    assert not (tmp_path / "out").exists()


def test_the_bodies_of_other_ops_stay_the_files_own(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    rope = next(f for f in model.functions if f.name == "ApplyRope")
    rope.doc_string = "edited"
    changed = {f.name: f for f in in_blocks(model).functions}
    assert changed["ApplyRope"].doc_string == "edited"
    assert changed["AttentionInBlocks"].doc_string.startswith("AttentionInBlocks(q, k, v)")
