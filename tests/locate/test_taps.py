"""``check A.onnx B.onnx --locate``: tensors of the same name, and what has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import assert_one_line, ropeexport
from onnx_edits import make_causal, with_body

from ropeexport.errors import ModelFileError, UsageError
from ropeexport.locate.taps import check_shared, locate_files
from ropeexport.parity.check import check_files
from ropeexport.parity.onnx_reference import onnx_of
from ropeexport.parity.options import Options

FEW, STRICT = Options(count=4), Options(count=4, atol=1e-30)
GRAPH = """<ir_version: 10, opset_import: ["" : 23]>
g (float[batch, n] x) => (float[batch, n] y)
{{ {a} = Sigmoid(x) {b} = {op}({a}) {c} = Neg({b}) y = Exp({c}) }}"""


def located(reference, candidate, report):
    return locate_files(onnx_of(reference), onnx_of(candidate), report)


def plain(path: Path, names: str = "abc", op: str = "Identity") -> Path:
    text = GRAPH.format(op=op, **dict(zip("abc", names, strict=True)))
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def causal(folder: Path) -> Path:
    model = onnx.load(folder / "model.onnx")
    make_causal(model)
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_fault_between_two_files_is_located(exported, dtype: str) -> None:
    folder = exported("flux-self-attention", dtype)
    other = causal(folder)
    (location,) = located(folder, other, check_files(folder, other, FEW)).locations
    assert (location.runtime, location.tensor) == ("candidate", "scaled_dot_product_attention")
    assert location.op == "Attention"
    assert location.source.startswith("ropeexport/modules.py:")
    assert {"q_rotated_0", "k_rotated_0"} <= set(location.sound)
    assert location.compared >= 5


def test_types_that_a_file_does_not_say_are_inferred(tmp_path: Path) -> None:
    right, wrong = plain(tmp_path / "right.onnx"), plain(tmp_path / "wrong.onnx", op="Sin")
    (location,) = located(right, wrong, check_files(right, wrong, FEW)).locations
    assert (location.tensor, location.op, location.sound) == ("b", "Sin", ("a",))
    assert location.compared == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["right.onnx", "wrong.onnx"]


def test_names_that_one_file_has_alone_are_passed_over(tmp_path: Path) -> None:
    right, wrong = plain(tmp_path / "right.onnx"), plain(tmp_path / "wrong.onnx", "azc", "Sin")
    (location,) = located(right, wrong, check_files(right, wrong, FEW)).locations
    assert (location.tensor, location.not_compared) == ("c", ("z",))


def test_no_sound_tensor_is_accused(exported) -> None:
    folder = exported("flux-self-attention", "fp16")
    general = folder / "general.onnx"
    onnx.save(with_body(onnx.load(folder / "model.onnx"), "general"), general)
    strict = check_files(folder, general, STRICT)
    assert strict.verdict == "FAIL"
    (location,) = located(folder, general, strict).locations
    assert location.tensor == ""
    assert "each is within its derived bound" in location.reason
    passed = check_files(folder, general, FEW)
    assert located(folder, general, passed) == passed


def test_what_cannot_be_located_says_so_before_it_is_compared(tmp_path: Path) -> None:
    right, other = plain(tmp_path / "right.onnx"), plain(tmp_path / "other.onnx", "ijk")
    check_shared(right, right)
    with pytest.raises(UsageError, match=r"--locate: .*same name, type and rank, got none"):
        check_shared(right, other)
    with pytest.raises(ModelFileError, match="no such file"):
        check_shared(right, tmp_path / "none.onnx")
    np.savez(tmp_path / "saved.npz", x=np.zeros((1, 2)))
    done = ropeexport("check", right, tmp_path / "saved.npz", "--locate")
    assert_one_line(done, 2, "got saved arrays; leave --locate out")


def test_from_the_command_line_without_torch(exported) -> None:
    folder = exported()
    arguments = ["ropeexport", "check", str(folder), str(causal(folder)), "--cases", "4"]
    code = (
        "import sys; sys.modules.update(torch=None, onnxscript=None)\n"
        "from ropeexport.cli.main import main\n"
        f"sys.argv = {[*arguments, '--locate']!r}\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    text = " ".join(done.stdout.split())
    assert "candidate: departs first at scaled_dot_product_attention (Attention" in text
    assert "made by ropeexport/modules.py:" in text
    assert "1 runtime run again, tensor by tensor" in done.stderr
