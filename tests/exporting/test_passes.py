"""Export and fuse: the same passes, over one model in memory."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import torch
from click.testing import CliRunner
from fusion.writings import WRITINGS
from torch import nn

from ropeexport import export, manifest
from ropeexport.cli.main import cli
from ropeexport.exporting import passes
from ropeexport.exporting.fuse_file import fuse_file
from ropeexport.models.example import Example
from ropeexport.onnx_files import onnx_file
from ropeexport.onnx_files.variants import float64_twin
from ropeexport.testing import assert_parity

AXES = {"x": {0: "b", 1: "l"}, "pos": {0: "b", 1: "l"}}


class Normed(nn.Module):
    """A norm that is written out, a rope, and a choice of booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.rope = WRITINGS["Half"]()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 16))

    def forward(self, x, pos):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        rotated = self.rope(x, pos)
        kept = torch.where(x[..., :1] > 0, x[..., 1:2] > 0, x[..., 2:3] > 0)
        return tuple(y * kept[:, None].to(x.dtype) for y in rotated)


def inputs(batch: int = 2, length: int = 6) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "x": torch.randn(batch, length, 16),
        "pos": torch.arange(length).repeat(batch, 1),
    }


def foreign(path: Path) -> Path:
    dims = {0: torch.export.Dim("b"), 1: torch.export.Dim("l")}
    with torch.no_grad():
        program = torch.onnx.export(
            Normed().eval(),
            kwargs=inputs(),
            dynamo=True,
            opset_version=23,
            verbose=False,
            dynamic_shapes={"x": dims, "pos": dims},
        )
    program.save(path)
    return path


def test_both_end_with_the_same_passes() -> None:
    after = [lst[lst.index(passes.ROPES) :] for lst in (passes.EXPORT, passes.FUSE)]
    assert after[0] == after[1]
    names = [step.name for step in (*passes.EXPORT, *passes.FUSE)]
    assert len(set(names)) == len({*passes.EXPORT, *passes.FUSE})


def test_every_pass_says_what_it_did(tmp_path) -> None:
    said: list[tuple[str, str]] = []
    example = Example(Normed().eval(), inputs(), AXES)
    export(example, out=tmp_path, say=lambda *line: said.append(line))
    assert [name for name, _ in said] == [step.name for step in passes.EXPORT]
    did = dict(said)
    assert "1 of 1 rotary applications replaced" in did["ropes"]
    assert "1 RMSNormalization" in did["norms"]
    assert "1 written in the way that onnxruntime has kernels for" in did["portable"]
    assert "ApplyRope" in did["bodies"]
    assert did["dynamic axes"].endswith("b, l")
    assert all("nodes" in text for text in did.values())


def test_fuse_finishes_a_file_as_export_does(tmp_path) -> None:
    """What it left out before: norms, what onnxruntime has no kernel for, and the last check."""
    path = foreign(tmp_path / "in.onnx")
    said: list[str] = []
    record, count = fuse_file(path, tmp_path / "out", say=lambda name, _: said.append(name))
    assert said == [step.name for step in passes.FUSE]
    assert (count.found, count.replaced) == (1, 1)
    assert record == manifest.read(tmp_path / "out")
    model = onnx_file.load(tmp_path / "out/model.onnx")
    kinds = {node.op_type for node in model.graph}
    assert "RMSNormalization" in kinds
    assert "Where" not in kinds
    feeds = {name: x.numpy() for name, x in inputs(3, 9).items()}
    ours = onnxruntime.InferenceSession(tmp_path / "out/model.onnx").run(None, feeds)
    original = onnx.reference.ReferenceEvaluator(ir.to_proto(float64_twin(onnx_file.load(path))))
    assert_parity(ours, lambda **wide: original.run(None, wide), inputs=feeds)


def test_nothing_that_was_written_is_read_again(tmp_path, monkeypatch) -> None:
    path = foreign(tmp_path / "in.onnx")
    loads = []
    load = onnx_file.load

    def counted(file: Path) -> ir.Model:
        loads.append(file.name)
        return load(file)

    monkeypatch.setattr(onnx_file, "load", counted)
    export(Example(Normed().eval(), inputs(), AXES), out=tmp_path / "exported")
    assert loads == []
    fuse_file(path, tmp_path / "fused")
    assert loads == ["in.onnx"]


def test_verbose_prints_each_pass(tmp_path) -> None:
    path = foreign(tmp_path / "in.onnx")
    sizes = ("--heads", "2", "--head-dim", "8", "--length", "8")
    for command, expected in (
        (("export", "flux-attention", "-o", tmp_path / "a", *sizes), passes.EXPORT),
        (("fuse", path, "-o", tmp_path / "b"), passes.FUSE),
    ):
        quiet = CliRunner().invoke(cli, [*map(str, command)])
        assert quiet.exit_code == 0, quiet.output
        assert quiet.stderr == ""
        told = CliRunner().invoke(cli, [*map(str, command), "--force", "--verbose"])
        lines = told.stderr.splitlines()
        assert [line[2:19].strip() for line in lines] == [step.name for step in expected]
        assert any("1 of 1 rotary applications replaced" in line for line in lines)
