"""What is wrong with a library or a file: one clear line and exit code 1 each, never an abort."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from command_line import assert_one_line, ropeexport

from ropeexport.trt import plugin_library

pytestmark = pytest.mark.trt


def assert_refused(folder: Path, words: str, *options: object) -> None:
    """Hold a build to one line, and to leaving no engine."""
    assert_one_line(ropeexport("build", folder, *options), 1, words)
    assert not (folder / "model.engine").exists()


def test_missing(exported, tmp_path) -> None:
    folder = exported()
    path = tmp_path / "nowhere.so"
    assert_refused(folder, f"--plugins: {path}: no such file", "--plugins", path)
    done = ropeexport("build", folder, "--impl", "plugin")
    assert_one_line(done, 3, "compile one with 'ropeexport plugin build'")


def test_another_version(exported, plugin_folder) -> None:
    library = plugin_folder / "test" / "libropeexport_plugin_of_version_2.so"
    words = (
        "of another version: expected ropeexport::ApplyRope version 1, "
        "got ropeexport::ApplyRope version 2"
    )
    assert_refused(exported(), words, "--plugins", library)


def test_another_plugin(exported, plugin_folder) -> None:
    library = plugin_folder / "test" / "libropeexport_plugin_of_another_name.so"
    words = (
        "a library of other plugins: expected ropeexport::ApplyRope version 1, "
        "got ropeexport::AnotherOp version 1"
    )
    assert_refused(exported(), words, "--plugins", library)


def test_a_library_of_another_kind(exported, plugin_folder) -> None:
    library = plugin_folder / "test" / "libropeexport_host_walk.so"
    assert_refused(exported(), f"{library}: TensorRT cannot load it", "--plugins", library)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_truncated(exported, library, tmp_path, part) -> None:
    path = tmp_path / "libtruncated.so"
    whole = library.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    words = "expected a 64-bit shared library" if part == 0 else "truncated: expected"
    assert_refused(exported(), words, "--plugins", path)


def test_no_library_at_all(exported, tmp_path) -> None:
    path = tmp_path / "libtext.so"
    path.write_text("#!/bin/sh\necho no library\n")
    assert_refused(exported(), "expected a 64-bit shared library (ELF)", "--plugins", path)


def test_damaged_in_the_middle(exported, library, tmp_path) -> None:
    """A whole file by its header whose dynamic section leads nowhere."""
    content = bytearray(library.read_bytes())
    content[64:4096] = bytes(4096 - 64)
    path = tmp_path / "libdamaged.so"
    path.write_bytes(content)
    assert_refused(exported(), str(path), "--plugins", path)


def _attribute(name: str, value: str) -> Callable[[onnx.NodeProto], None]:
    def change(node: onnx.NodeProto) -> None:
        found = next(attribute for attribute in node.attribute if attribute.name == name)
        found.s = value.encode()

    return change


def _without(name: str) -> Callable[[onnx.NodeProto], None]:
    def change(node: onnx.NodeProto) -> None:
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_attribute("plugin_version", "2"), "plugin_version: expected '1'"),
        (_attribute("plugin_namespace", "other"), "plugin_namespace: expected 'ropeexport'"),
        (_without("plugin_version"), "got none"),
        (_without("plugin_namespace"), "got none"),
    ],
)
def test_an_attribute_changed_in_the_file(exported, library, change, words) -> None:
    folder = exported()
    model = onnx.load(folder / "model.onnx")
    change(next(node for node in model.graph.node if node.op_type == "ApplyRope"))
    onnx.save(model, folder / "model.onnx")
    done = ropeexport("build", folder, "--plugins", library)
    assert_one_line(done, 1, words)
    assert "ApplyRope_0" in done.stderr


def test_a_broken_cached_library_is_not_passed_over(exported, library, own_cache) -> None:
    """``auto`` takes what is there or says what is wrong with it; it never falls back silently."""
    content = library.read_bytes()
    (own_cache / plugin_library.FILE_NAME).write_bytes(content[: len(content) // 2])
    assert_refused(exported(), "truncated")


def test_the_former_engine_stays(exported, library, plugin_folder) -> None:
    folder = exported()
    assert ropeexport("build", folder, "--plugins", library).returncode == 0
    before = (folder / "model.engine").read_bytes()
    other = shutil.copy(
        plugin_folder / "test" / "libropeexport_plugin_of_version_2.so", folder / "other.so"
    )
    done = ropeexport("build", folder, "--plugins", other, "--force")
    assert_one_line(done, 1, "of another version")
    assert (folder / "model.engine").read_bytes() == before
