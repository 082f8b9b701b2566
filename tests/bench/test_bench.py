"""``bench`` on a small export: who is timed, who is wrong, who is missing and who fails."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from command_line import ropeexport
from onnx_edits import in_blocks, make_causal

from ropeexport import export
from ropeexport.artifact import Artifact
from ropeexport.bench import show
from ropeexport.bench.bench import BenchOptions, bench
from ropeexport.bench.records import Bench, Timing
from ropeexport.cli.proving import render, schema
from ropeexport.errors import UsageError
from ropeexport.manifest import CacheRecord

pytestmark = pytest.mark.tools  # beside other tools, in processes of their own

ROOT = Path(__file__).parents[2]
QUICK = {"rounds": 2, "repeats": 1, "threads": 1, "device": "cpu"}
NO_GPU = "no NVIDIA GPU: a TensorRT engine runs on one only"


@pytest.fixture(scope="module")
def found(export_once) -> Bench:
    against = ("plain", "without-rope", "tensorrt", "optimum")
    return bench(
        Artifact.read(export_once()), BenchOptions(against=against, lengths=(8, 16), **QUICK)
    )


def status(found: Bench) -> dict[str, str]:
    return {record.name: record.status for record in found.contenders}


def test_every_contender_is_timed_at_every_length_or_says_why(found: Bench) -> None:
    timed = ["eager", "ropeexport", "plain", "without-rope"]
    engines = [f"tensorrt-{name}" for name in ("plugin", "native", "decomposed", "plain")]
    skipped = dict.fromkeys((*engines, "optimum"), "SKIPPED")
    assert status(found) == dict.fromkeys(timed, "TIMED") | skipped
    peer = next(r.reason for r in found.contenders if r.name == "optimum")
    assert "make optimum" in peer or "whole models of transformers and diffusers" in peer
    reasons = {r.reason for r in found.contenders if r.name in engines}
    assert reasons == {NO_GPU}
    assert found.device == "cpu"
    assert [group.sizes["length"] for group in found.groups] == [8, 16]
    assert [group.tokens for group in found.groups] == [8, 16]
    for group in found.groups:
        assert [timing.contender for timing in group.timings] == timed
        for timing in group.timings:
            assert len(timing.turns_ms) == QUICK["rounds"]
            assert min(timing.turns_ms) > 0
            assert timing.peak_mb > 10
    by_name = {record.name: record for record in found.contenders}
    assert by_name["plain"].prepare_seconds > 0
    assert by_name["ropeexport"].file_mb > 0


def test_what_computes_something_else_is_not_timed(exported) -> None:
    folder = exported()
    model = onnx.load(folder / "model.onnx")
    make_causal(model)
    onnx.save(model, folder / "model.onnx")
    made = bench(Artifact.read(folder), BenchOptions(against=("eager",), **QUICK))
    assert status(made) == {"eager": "TIMED", "ropeexport": "WRONG"}
    assert [t.contender for t in made.groups[0].timings] == ["eager"]
    assert "bound" in next(r.reason for r in made.contenders if r.name == "ropeexport")


def test_what_is_wrong_at_a_length_of_another_kernel_is_not_timed_there(tmp_path) -> None:
    folder = tmp_path / "out"
    export("flux-attention", out=folder, heads=2, head_dim=64, length=64, dtype="fp16")
    model = in_blocks(onnx.load(folder / "model.onnx"))
    node = next(n for n in model.graph.node if n.op_type == "AttentionInBlocks")
    next(a for a in node.attribute if a.name == "blocks_from").i = 96  # beyond the first check
    body = next(f for f in model.functions if f.name == "AttentionInBlocks")
    choice = next(n for n in body.node if n.op_type == "If")
    blocks = next(a.g for a in choice.attribute if a.name == "then_branch")
    next(n for n in blocks.node if n.op_type == "MultiHeadAttention").input[2] = "k_rows"
    onnx.save(model, folder / "model.onnx")
    made = bench(
        Artifact.read(folder), BenchOptions(against=("eager",), lengths=(80, 128), **QUICK)
    )
    assert status(made) == {"eager": "TIMED", "ropeexport": "WRONG"}
    assert [[t.contender for t in group.timings] for group in made.groups] == [
        ["eager", "ropeexport"], ["eager"],
    ]  # fmt: skip


def test_a_contender_that_fails_leaves_the_others(exported) -> None:
    folder = exported()
    (folder / "model.onnx").write_bytes(b"no model")
    done = ropeexport("bench", folder, "--against", "eager", "--rounds", "1", "--repeats", "1")
    assert done.returncode == 1
    assert "ropeexport, onnxruntime: ModelFileError" in done.stderr
    written = Bench.model_validate_json((folder / "bench.json").read_text())
    assert status(written) == {"eager": "TIMED", "ropeexport": "FAILED"}


def test_a_module_without_our_op_has_no_floor(tmp_path) -> None:
    import torch

    import ropeexport as package

    class Double(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    package.export(Double(), {"x": torch.ones(2, 4)}, tmp_path)
    factory = tmp_path / "made.py"
    factory.write_text(
        "import torch\n"
        "class Double(torch.nn.Module):\n"
        "    def forward(self, x):\n        return 2 * x\n"
        "def make():\n    return Double(), {'x': torch.ones(2, 4)}, {}\n"
    )
    options = BenchOptions(against=("without-rope",), module=f"{factory}:make", **QUICK)
    assert status(bench(Artifact.read(tmp_path), options))["without-rope"] == "SKIPPED"


def test_a_cache_is_timed_against_the_plain_export(tmp_path: Path) -> None:
    factory = f"{ROOT / 'tests' / 'user_models.py'}:growing_cache"
    folder = tmp_path / "out"
    assert ropeexport("export", factory, "-o", folder).returncode == 0
    made = bench(
        Artifact.read(folder), BenchOptions(against=("eager", "plain"), module=factory, **QUICK)
    )
    assert status(made) == dict.fromkeys(("eager", "ropeexport", "plain"), "TIMED")


def test_a_length_that_the_export_is_not_for_is_refused(export_once, built_once) -> None:
    for folder in (export_once(), built_once):
        with pytest.raises(UsageError, match="axis 'length': expected 1 to 64, got 65"):
            bench(Artifact.read(folder), BenchOptions(against=("eager",), lengths=(8, 65), **QUICK))


def test_a_cache_is_measured_elsewhere(export_once) -> None:
    made = Artifact.read(export_once())
    cache = CacheRecord(form="grow", capacity=8, pairs=(("past", "present"),))
    with pytest.raises(UsageError, match=r"python -m benchmarks\.decoding"):
        bench(made.updated(cache=cache), BenchOptions(**QUICK))


def test_the_command_writes_records_and_a_chart(exported) -> None:
    folder = exported()
    done = ropeexport(
        *("bench", folder, "--device", "cpu", "--against", "plain", "--lengths", "8"),
        *("--rounds", "2", "--repeats", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert "plain torch.onnx.export, onnxruntime" in done.stdout
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "bench.json").read_text())
    jsonschema.validate(record, schema("bench"))
    assert record["command"].endswith(
        "--device cpu --against plain --lengths 8 --rounds 2 --repeats 1 "
        f"--threads {record['threads']} --seed 0"
    )
    assert ropeexport("check", folder, "--cases", "4").returncode == 0
    page = folder / "page.html"
    assert ropeexport("report", folder, "--html", page).returncode == 0
    assert "data:image/png;base64," in page.read_text()


def test_an_unknown_contender_is_a_usage_error(export_once) -> None:
    done = ropeexport("bench", export_once(), "--against", "nobody")
    assert done.returncode == 2
    assert "--against: expected names among eager, ropeexport" in done.stderr
    with pytest.raises(UsageError, match="nobody"):
        BenchOptions(against=("nobody",))


def test_the_published_schema_is_current() -> None:
    published = (ROOT / "docs/bench.schema.json").read_text()
    assert published == render("bench"), "ropeexport bench --schema > docs/bench.schema.json"


def test_statistics_of_turns() -> None:
    timing = Timing(contender="eager", turns_ms=(4.0, 1.0, 2.0, 3.0, 5.0), peak_mb=1.0)
    assert (timing.best, timing.median) == (1.0, 3.0)
    assert timing.spread == pytest.approx((4.0 - 2.0) / 3.0 / 2)
    pair = Timing(contender="eager", turns_ms=(1.0, 3.0), peak_mb=1.0)
    assert pair.spread == pytest.approx(0.5)


def test_the_fastest_comes_first_and_the_floor_last(found: Bench) -> None:
    group = found.groups[0]
    quick = group.timings[0].model_copy(update={"turns_ms": (1e-3, 1e-3)})
    changed = group.model_copy(update={"timings": (*group.timings[1:], quick)})
    rows = list(show.rows(found, changed))
    assert rows[0][0] == "eager torch"
    assert rows[-1][0] == "without any rope, onnxruntime"
    assert next(row for row in rows if row[0].startswith("ropeexport"))[-1] == "1.00"


def test_plain_programs_compute_the_same(export_once) -> None:
    import torch

    from ropeexport import manifest
    from ropeexport.bench.peers import plain_program
    from ropeexport.models import sources

    folder = export_once("flux-self-attention-ids", "fp32")
    example = sources.rebuild_example(Artifact(folder, manifest.read(folder)))
    program = plain_program(example)
    assert "ropeexport" not in str(program.graph)
    inputs = {n: x.repeat_interleave(2, 0)[:2] for n, x in example.inputs.items()}
    with torch.no_grad():
        ours, plain = example.module(**inputs), program.module()(**inputs)
    assert np.abs((ours - plain).numpy()).max() < 1e-5
