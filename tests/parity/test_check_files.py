"""Files alone: an ONNX file against another or saved arrays, with an oracle made of the graph."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import assert_one_line, ropeexport
from onnx_edits import make_causal, with_body

from ropeexport import manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import ManifestError, ModelFileError, NotComparableError, UsageError
from ropeexport.models import sources
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.parity.cases import select
from ropeexport.parity.check import check_files
from ropeexport.parity.inputs import make_inputs
from ropeexport.parity.onnx_reference import OnnxOracle, manifest_of
from ropeexport.parity.options import Options
from ropeexport.parity.oracle import Oracle
from ropeexport.runners.eager import EagerRunner

FEW = Options(count=8)
MODELS = ("flux-attention", "flux-self-attention", "flux-self-attention-ids")


def status(report, name: str = "candidate") -> str:
    return next(r.status for r in report.runtimes if r.name == name)


def changed(folder: Path, edit) -> Path:
    model = onnx.load(folder / "model.onnx")
    edit(model)
    path = folder / "other.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_graph_in_float64_is_the_module_in_float64(exported, model: str, dtype: str) -> None:
    folder = exported(model, dtype)
    record = manifest.read(folder)
    by_torch = Oracle(sources.rebuild_example(Artifact(folder, record)).module, ["out"])
    by_onnx = OnnxOracle(OnnxFile(folder / "model.onnx"))
    # a table of positions is rounded to float32 by contract in torch, and within 2^-23 in the graph
    tolerance = 2.0**-20 if model.endswith("ids") else 2.0**-45
    for case in select(record, count=6).cases:
        inputs = make_inputs(case, record.model.inputs)
        expected, got = (oracle.truth(inputs, case.seed) for oracle in (by_torch, by_onnx))
        error = np.abs(got.outputs["out"] - expected.outputs["out"]).max()
        assert error <= tolerance * max(1.0, expected.sizes["out"].largest)
        assert got.sensitivity["out"].rms == pytest.approx(expected.sensitivity["out"].rms, rel=0.1)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_another_right_file_passes_and_a_wrong_one_fails(exported, dtype: str) -> None:
    folder = exported(dtype=dtype)
    general = folder / "general.onnx"
    onnx.save(with_body(onnx.load(folder / "model.onnx"), "general"), general)
    report = check_files(folder / "model.onnx", general, FEW)
    assert (report.verdict, status(report), status(report, "reference")) == ("PASS",) * 3
    wrong = check_files(folder / "model.onnx", changed(folder, make_causal), FEW)
    assert (wrong.verdict, status(wrong), status(wrong, "reference")) == ("FAIL", "FAIL", "PASS")
    assert wrong.command.startswith(f"ropeexport check {folder}/model.onnx {folder}/other.onnx")


def test_bfloat16_files_are_emulated_alike_and_that_is_no_pass(exported) -> None:
    folder = exported(dtype="bf16")
    report = check_files(folder, folder / "model.onnx", FEW)
    assert (report.verdict, status(report)) == ("FAIL", "EMULATED")
    assert "no runtime's own PASS" in report.reason
    wrong = check_files(folder, changed(folder, make_causal), FEW)
    assert status(wrong) == "FAIL"


def test_a_manifest_of_other_outputs_is_refused(exported) -> None:
    folder = exported(dtype="fp32")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"name": "out"', '"name": "other"'))
    with pytest.raises(ManifestError, match=r"output 'out': expected .* in the manifest"):
        check_files(folder / "model.onnx", folder / "model.onnx", FEW)


def test_a_file_without_a_manifest_says_enough_of_itself(exported, tmp_path) -> None:
    alone = Path(shutil.copy(exported() / "model.onnx", tmp_path / "alone.onnx"))
    axes = manifest_of(OnnxFile(alone)).axes
    assert axes["pe_heads"].broadcasts_to == 2
    assert axes["pe_batch"].broadcasts_to == "batch"
    assert (axes["batch"].max, axes["length"].max) == (2, 128)
    report = check_files(alone, alone, FEW)
    assert report.verdict == "PASS"
    kinds = {c.case.kind for c in report.comparisons if c.case}
    assert kinds == {"flux positions", "random rotations", "random matrices"}


def test_a_model_that_knows_no_rope_is_compared_too(tmp_path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[batch, n] x) => (float[batch, n] y) {{ h = Sigmoid(x)  y = {op}(h) }}"""
    right, wrong = tmp_path / "right.onnx", tmp_path / "wrong.onnx"
    onnx.save(onnx.parser.parse_model(text.format(op="Exp")), right)
    onnx.save(onnx.parser.parse_model(text.format(op="Identity")), wrong)
    assert check_files(right, right, FEW).verdict == "PASS"
    assert check_files(right, wrong, FEW).verdict == "FAIL"


def saved(folder: Path, path: Path, **changes: object) -> Path:
    """Save inputs and eager's outputs of one case."""
    record = manifest.read(folder)
    inputs = make_inputs(select(record, count=5).cases[-1], record.model.inputs)
    with EagerRunner(
        sources.rebuild_example(Artifact(folder, record)).module, ["out"], device="cpu"
    ) as eager:
        arrays = {**inputs, **eager.run(inputs)}
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name])
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x, None),
        (lambda x: x.astype(np.float64), None),  # the very same numbers in a wider type
        (lambda x: x * np.float16(1.1), "root mean square"),
        (lambda x: x.astype(np.float64) * (1 + 2.0**-30), "type: expected float16, got float64"),
        (lambda x: x[..., :-1], "shape"),
        (None, "missing output"),
    ],
)
def test_saved_arrays_are_held_to_the_file(exported, tmp_path, change, reason) -> None:
    folder = exported(dtype="fp16")
    arrays = saved(folder, tmp_path / "saved.npz", out=change)
    report = check_files(folder / "model.onnx", arrays)
    candidate = next(c for c in report.comparisons if c.runtime == "candidate")
    assert candidate.status == ("FAIL" if reason else "PASS")
    assert (reason or "") in candidate.reason
    assert candidate.case is not None
    assert candidate.case.name == "saved arrays"


def test_bfloat16_is_saved_as_its_bits_or_wider(exported, tmp_path) -> None:
    folder = exported(dtype="bf16")
    for change in (lambda x: x, lambda x: x.astype(np.float32)):
        arrays = saved(folder, tmp_path / "saved.npz", out=change)
        # the arrays ran in eager torch, so they are no emulation; the yardstick is
        assert status(check_files(folder, arrays)) == "PASS"


def test_what_cannot_be_set_up_says_why(exported, tmp_path) -> None:
    folder = exported()
    model = folder / "model.onnx"
    with pytest.raises(UsageError, match="lacks pe"):
        check_files(model, saved(folder, tmp_path / "saved.npz", pe=None))
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(UsageError, match=r"numpy\.savez"):
        check_files(model, tmp_path / "text.npz")
    with pytest.raises(ModelFileError, match="no such file"):
        check_files(model, tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="axis length is"):
        check_files(model, saved(folder, tmp_path / "saved.npz", k=lambda x: x[:, :, :-1]))
    with pytest.raises(UsageError, match="expected an array of shape"):
        check_files(model, saved(folder, tmp_path / "saved.npz", k=lambda x: x[0]))

    def renamed(proto: onnx.ModelProto) -> None:
        for value in [*proto.graph.node, proto.graph]:
            names = value.input
            for i, one in enumerate(names):
                if one == "q" or getattr(one, "name", "") == "q":
                    if isinstance(one, str):
                        names[i] = "query"
                    else:
                        one.name = "query"

    with pytest.raises(UsageError, match=r"expected the inputs q .*, got query"):
        check_files(model, changed(folder, renamed))


def test_a_graph_that_has_no_reference_is_a_clear_error(tmp_path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\n'
        "g (float[n] x) => (float[n] y) { y = com.microsoft.Gelu(x) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    words = r"nothing to compare with: .* cannot run its com\.microsoft::Gelu \(y\) in float64$"
    with pytest.raises(NotComparableError, match=words):
        check_files(tmp_path / "m.onnx", tmp_path / "m.onnx", FEW)


def test_no_torch_is_needed(exported) -> None:
    model = exported() / "model.onnx"
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ropeexport.cli.main import main\n"
        f"sys.argv = ['ropeexport', 'check', {str(model)!r}, {str(model)!r}, '--cases', '3']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PASS: 3 cases" in done.stdout


def test_the_command_line_names_its_usage(exported, tmp_path) -> None:
    folder = exported()
    done = ropeexport("check", folder / "model.onnx")
    assert (done.returncode, "expected a second file" in done.stderr) == (2, True)
    done = ropeexport("check", folder, folder / "model.onnx", "--require", "onnxruntime")
    assert (done.returncode, "not for a comparison of files" in done.stderr) == (2, True)
    assert_one_line(ropeexport("check", folder, tmp_path / "none.onnx"), 1, "no such file")
    done = ropeexport("check", folder, changed(folder, make_causal), "--cases", "2")
    assert done.returncode == 1
    assert "candidate: " in done.stdout


def test_a_file_that_draws_random_numbers_is_no_reference(tmp_path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[batch, n] x) => (float[batch, n] y) {{ h = {op}(x)  y = Add(x, h) }}"""
    noisy, sound = tmp_path / "noisy.onnx", tmp_path / "sound.onnx"
    onnx.save(onnx.parser.parse_model(text.format(op="RandomNormalLike")), noisy)
    onnx.save(onnx.parser.parse_model(text.format(op="Identity")), sound)
    with pytest.raises(NotComparableError, match=r"draws random numbers \(RandomNormalLike h\)"):
        check_files(noisy, sound, FEW)
    assert check_files(sound, noisy, FEW).verdict == "FAIL"
    resting = sound.with_name("resting.onnx")
    onnx.save(onnx.parser.parse_model(text.format(op="Dropout")), resting)
    assert check_files(resting, resting, FEW).verdict == "PASS"


def test_a_bound_larger_than_the_output_fails_though_the_files_are_the_same(tmp_path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[batch, n] x) => (float[batch, n] y) {
        big = Constant<value_float = 1e9>()  h = Mul(x, big)  y = Sin(h) }"""
    path = tmp_path / "chaotic.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    report = check_files(path, path, FEW)
    reasons = {c.reason for c in report.comparisons if c.runtime == "candidate"}
    assert report.verdict == "FAIL"
    assert all("is larger than the output itself (largest " in reason for reason in reasons)
    own = check_files(path, path, Options(count=3, atol=2.0))
    assert own.verdict == "PASS", "a bound of the user's own is the user's to choose"
