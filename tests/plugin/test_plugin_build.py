"""``ropeexport plugin build``: from nothing to a build that takes the plugin by itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import ropeexport
from plugin import sass

from ropeexport import manifest
from ropeexport.errors import MissingError, PluginError
from ropeexport.trt import plugin_build, plugin_library


@pytest.fixture(autouse=True)
def local_headers(headers, monkeypatch) -> None:
    monkeypatch.setenv(plugin_build.HEADER_VARIABLE, str(headers))


def architectures(library: Path) -> list[str]:
    return [
        line.split(".")[-2] for line in sass.dump(library, "--list-elf").split() if "sm_" in line
    ]


@pytest.mark.trt
def test_a_user_compiles_once_and_builds(exported, own_cache) -> None:
    done = ropeexport("plugin", "build", "--arch", "80-real")
    library = own_cache / plugin_library.FILE_NAME
    assert done.returncode == 0, done.stderr
    assert f"✓ plugin   {library}" in done.stdout
    assert "ropeexport::ApplyRope version 1 in tensorrt-rtx" in done.stdout
    assert set(architectures(library)) == {"sm_80"}

    folder = exported()
    assert ropeexport("build", folder).returncode == 0
    engine = manifest.read(folder).engine
    assert engine is not None
    assert engine.ropes == {"ApplyRope_0": "plugin"}

    # another choice replaces the first, and the cache holds what is compiled in half the time
    assert ropeexport("plugin", "build", "--arch", "90-real").returncode == 0
    assert set(architectures(library)) == {"sm_90"}


def test_a_checkout_elsewhere_has_a_build_of_its_own(tmp_path, monkeypatch) -> None:
    """CMake refuses a build folder that was made for other sources."""
    folders = []

    def run(command: list[str], _: object) -> None:
        if "--build" in command:
            folders.append(Path(command[command.index("--build") + 1]))
            (folders[-1] / plugin_library.FILE_NAME).write_bytes(b"a library")

    monkeypatch.setattr(plugin_build, "_run", run)
    for place in ("first", "second", "first"):
        sources = tmp_path / place
        monkeypatch.setattr(plugin_build, "source_folder", lambda sources=sources: sources)
        plugin_build.compile_plugin()
    assert folders[0] != folders[1]
    assert folders[0] == folders[2]


@pytest.mark.parametrize(
    ("tool", "cure"), [("find_cmake", "pip install 'cmake"), ("find_nvcc", "nvidia-cuda-toolkit")]
)
def test_a_missing_tool_names_the_command_that_brings_it(monkeypatch, tool, cure) -> None:
    monkeypatch.setattr(plugin_build, tool, lambda: None)
    with pytest.raises(MissingError, match=cure):
        plugin_build.compile_plugin()


def test_a_folder_without_headers(tmp_path) -> None:
    done = ropeexport("plugin", "build", "--tensorrt-include", tmp_path)
    assert done.returncode == 3
    assert f"{tmp_path}: expected TensorRT's headers" in done.stderr


def test_sources_that_do_not_compile(headers, tmp_path) -> None:
    for header in headers.glob("*.h"):
        shutil.copy(header, tmp_path)
    (tmp_path / "NvInferRuntime.h").write_text("#error a header of another world\n")
    seen: list[str] = []
    with pytest.raises(PluginError, match="a header of another world"):
        plugin_build.compile_plugin(["80-real"], tmp_path, seen.append)
    assert seen
    assert not plugin_library.cached_library().exists()


def test_an_installation_without_sources(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(plugin_build, "__file__", str(tmp_path / "a" / "b" / "plugin_build.py"))
    with pytest.raises(MissingError, match="clone the repository"):
        plugin_build.source_folder()


def test_an_unknown_architecture_is_one_line(own_cache) -> None:
    done = ropeexport("plugin", "build", "--arch", "12")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1].startswith("error: ")
    assert "Traceback" not in done.stderr
