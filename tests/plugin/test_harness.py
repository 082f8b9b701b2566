"""The library driven through its own interface, as TensorRT does it; the errors of the harness."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from plugin import enqueue_cases

from ropeexport.ops.forms import PLUGIN_FORMS


def run(harness: Path, *arguments: object) -> tuple[int, str]:
    command = [str(harness), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    return done.returncode, done.stdout + done.stderr


def test_every_check_holds(harness, library) -> None:
    status, output = run(harness, library)
    assert status == 0, output
    assert "FAIL" not in output
    passed, failed = re.search(r"(\d+) passed, (\d+) failed", output).groups()
    assert (int(passed), int(failed)) == (output.count("ok   "), 0)
    assert int(passed) > 90 * len(PLUGIN_FORMS)  # shapes, types, formats, fields, contexts


def test_another_name_is_noticed(harness, plugin_folder) -> None:
    other = plugin_folder / "test" / "libropeexport_plugin_of_another_name.so"
    status, output = run(harness, other)
    assert status == 3
    assert "no creator of an IPluginV3 ApplyRope" in output


def test_usage(harness) -> None:
    assert run(harness)[0] == 2
    assert run(harness, "lib.so", "--enqueue")[0] == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot open shared object"), (b"no library", "too short|invalid ELF")],
)
def test_what_is_no_library(harness, tmp_path, content, said) -> None:
    path = tmp_path / "lib.so"
    if content is not None:
        path.write_bytes(content)
    status, output = run(harness, path)
    assert status == 3
    assert any(part in output for part in said.split("|")), output


def test_a_library_of_another_kind(harness, plugin_folder) -> None:
    status, output = run(harness, plugin_folder / "test" / "libropeexport_host_walk.so")
    assert status == 3
    assert "no plugin library: it has no setLoggerFinder" in output


def test_a_tensorrt_of_an_unknown_version(plugin_folder, library) -> None:
    """Its registry and its logger are left alone: each place of their tables would be a guess."""
    status, output = run(plugin_folder / "test" / "ropeexport_unknown", library)
    assert status == 0, output
    registry, refusal = output.splitlines()
    assert "unknown generation: load the library with IPluginRegistry::loadLibrary" in registry
    assert refusal.startswith("ropeexport plugin: ")
    assert "expected" in refusal


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "cases.txt: cannot be read"),
        ("", "no cases"),
        ("a float32 1 2\n", "expected NAME TYPE B Hq Hk L D Bp Hp OFFSET"),
        ("a float64 1 2 2 3 4 1 1 0\n", "expected float32, float16 or bfloat16, got float64"),
        ("a float32 1 2 2 3 4 1 1 0\n", "a.q: cannot be read"),
    ],
)
def test_cases_that_cannot_be_read(harness, library, tmp_path, lines, said) -> None:
    if lines is not None:
        (tmp_path / "cases.txt").write_text(lines)
    status, output = run(harness, library, "--enqueue", tmp_path)
    assert status == 3
    assert said in output


def test_an_array_of_another_size(harness, library, tmp_path) -> None:
    enqueue_cases.write(tmp_path, enqueue_cases.small())
    name = (tmp_path / "cases.txt").read_text().split()[0]
    array = tmp_path / f"{name}.k_out"
    array.write_bytes(array.read_bytes()[:-1])
    status, output = run(harness, library, "--enqueue", tmp_path)
    assert status == 3
    assert f"{name}.k_out: expected" in output


def test_without_a_gpu_it_says_so(harness, library, tmp_path) -> None:
    if enqueue_cases.has_gpu():
        pytest.skip("this machine has a GPU")
    enqueue_cases.write(tmp_path, enqueue_cases.small())
    status, output = run(harness, library, "--enqueue", tmp_path)
    assert status == 3
    assert "no GPU" in output


@pytest.mark.gpu
def test_enqueue_on_the_gpu(harness, library, tmp_path) -> None:
    if not enqueue_cases.has_gpu():
        pytest.skip("needs an NVIDIA GPU: the plugin enqueues on it")
    enqueue_cases.write(tmp_path, enqueue_cases.sweep())
    status, output = run(harness, library, "--enqueue", tmp_path)
    assert status == 0, output
