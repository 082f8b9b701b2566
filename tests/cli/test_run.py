"""``ropeexport run``: an exported folder once, on files or on random inputs."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import ropeexport

import ropeexport as package


@pytest.fixture(scope="module")
def folder(export_once):
    return export_once(dtype="fp32")


def test_a_first_look_needs_no_files(folder) -> None:
    done = ropeexport("run", folder, "--random", "--shapes", "length=8,batch=1", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("ran in onnxruntime, CPUExecutionProvider, cpu: ")
    assert [line.split()[:2] for line in lines] == [
        ["in", "q"], ["in", "k"], ["in", "v"], ["in", "pe"], ["out", "out"],
    ]  # fmt: skip
    assert "float32   (1, 8, 128)  min -" in lines[-1]


def test_files_in_and_out(folder, tmp_path) -> None:
    with package.load(folder, device="cpu") as model:
        given = model.random_inputs({"length": 5})
        wanted = model.run(given)["out"]
    np.save(tmp_path / "mine.npy", given.pop("q"))
    np.savez(tmp_path / "others.npz", **given)
    words = ["--input", f"q={tmp_path / 'mine.npy'}", "--input", tmp_path / "others.npz"]
    done = ropeexport("run", folder, *words, "-o", tmp_path / "y.npz", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'y.npz'}"
    with np.load(tmp_path / "y.npz") as found:
        assert np.array_equal(found["out"], wanted)
    again = ropeexport("run", folder, *words, "-o", tmp_path / "y.npz")
    assert again.returncode == 2
    assert "exists already; add --force" in again.stderr


def test_what_is_not_given_is_drawn_to_fit(folder, tmp_path) -> None:
    np.save(tmp_path / "q.npy", np.full((1, 2, 3, 64), np.nan, np.float32))
    words = ["--input", f"q={tmp_path / 'q.npy'}", "--random", "--device", "cpu"]
    done = ropeexport("run", folder, *words)
    assert done.returncode == 0, done.stderr
    _, _, k, _, _, out = done.stdout.splitlines()
    assert "(1, 2, 3, 64)" in k
    assert out.endswith("384 of 384 are not finite")


WRONG = {
    "nothing given": ([], "expected --input NAME=FILE.npy, or --random"),
    "no such file": (["--input", "q=none.npy"], "expected a .npy or .npz file that is there"),
    "no array": (
        ["--input", "q={tmp}/text.npy"],
        "expected arrays as numpy.save and numpy.savez write",
    ),
    "no such input": (["--input", "x={tmp}/a.npy"], "'x': no input of the file, which has q, k"),
    "no name": (["--input", "{tmp}/a.npy"], "expected NAME=FILE.npy or FILE.npz"),
    "a name too many": (["--input", "q={tmp}/a.npz"], "expected NAME=FILE.npy or FILE.npz"),
    "another type": (["--input", "q={tmp}/a.npy", "--random"], "q: expected float32, got float64"),
    "another axis": (["--random", "--shapes", "heads=3"], "'heads': expected an axis"),
    "a negative size": (["--random", "--shapes", "length=-1"], "expected length=128,batch=2 or"),
    "a negative seed": (["--random", "--seed", "-1"], "seed: expected a whole number"),
    "no shapes": (["--random", "--shapes", "length="], "expected length=128,batch=2 or"),
    "not numpy's": (["--random", "-o", "{tmp}/y.txt"], "output: expected FILE.npz"),
    "no engine": (["--random", "--runtime", "tensorrt"], "no engine was built"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line(folder, tmp_path, what: str) -> None:
    words, message = WRONG[what]
    third = np.full((1, 2, 3, 64), 1 / 3)  # of which no float32 has the value
    np.save(tmp_path / "a.npy", third)
    np.savez(tmp_path / "a.npz", q=third)
    (tmp_path / "text.npy").write_text("no array")
    done = ropeexport("run", folder, *(word.format(tmp=tmp_path) for word in words))
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "y.txt").exists()
