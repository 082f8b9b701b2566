"""``ropeexport plugin build``: from nothing to a build that takes the plugin by itself."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
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


@pytest.fixture
def tools(monkeypatch, tmp_path) -> Path:
    """A path of links to what a build needs, of which a test takes some away."""
    nvcc = plugin_build.find_nvcc()
    assert nvcc is not None
    monkeypatch.setenv("CUDACXX", str(Path(nvcc).resolve()))
    monkeypatch.delenv("CMAKE_GENERATOR", raising=False)
    folder = tmp_path / "tools"
    folder.mkdir()
    compilers = ["sh", "uname", "cc", "c++", "gcc", "g++", "as", "ld", "ar", "ranlib", "strip"]
    for name in ("cmake", "ninja", "make", *compilers):
        path = shutil.which(name)
        assert path is not None, name
        (folder / name).symlink_to(path)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_without_make_ninja_compiles(tools, own_cache) -> None:
    (tools / "make").unlink()
    library = plugin_build.compile_plugin(["90-real"])
    assert set(architectures(library)) == {"sm_90"}
    (cached,) = own_cache.rglob("CMakeCache.txt")
    assert "CMAKE_GENERATOR:INTERNAL=Ninja" in cached.read_text()


@pytest.fixture
def configured(tools, tmp_path) -> Callable[[], list[list[str]]]:
    """Return a function that tells what CMake was asked for; it writes a library, and no more."""
    log = tmp_path / "asked"
    log.touch()
    (tools / "cmake").unlink()
    (tools / "cmake").write_text(
        f"""#!/bin/sh
printf '%s\\n' "$*" >> {log}
[ "$1" != --build ] || : > "$2/{plugin_library.FILE_NAME}"
"""
    )
    (tools / "cmake").chmod(0o700)
    return lambda: [line.split() for line in log.read_text().splitlines()]


def test_a_checkout_elsewhere_has_a_build_of_its_own(configured, tmp_path, monkeypatch) -> None:
    """CMake refuses a build folder that was made for other sources."""
    for place in ("first", "second", "first"):
        sources = tmp_path / place
        monkeypatch.setattr(plugin_build, "source_folder", lambda sources=sources: sources)
        plugin_build.compile_plugin()
    first, second, again = (words[words.index("-B") + 1] for words in configured() if "-B" in words)
    assert first != second
    assert first == again


def test_make_and_a_chosen_generator_are_left_to_cmake(tools, configured, monkeypatch) -> None:
    plugin_build.compile_plugin()
    monkeypatch.setenv("CMAKE_GENERATOR", "Unix Makefiles")
    (tools / "make").unlink()
    plugin_build.compile_plugin()
    assert not [command for command in configured() if "-G" in command]


def test_ninja_of_an_environment_that_was_not_entered(tools, configured, monkeypatch) -> None:
    for name in ("make", "ninja"):
        (tools / name).unlink()
    environment = tools.parent / "environment"
    environment.mkdir()
    (environment / "ninja").touch()
    (environment / "python").symlink_to(sys.executable)
    monkeypatch.setattr(plugin_build.sys, "executable", str(environment / "python"))
    plugin_build.compile_plugin()
    assert f"-DCMAKE_MAKE_PROGRAM={environment / 'ninja'}" in configured()[0]


def test_a_build_of_make_is_not_given_to_ninja(tools, configured) -> None:
    """CMake refuses a build folder that was made for another generator."""
    plugin_build.compile_plugin()
    (tools / "make").unlink()
    plugin_build.compile_plugin()
    folders = [command[command.index("-B") + 1] for command in configured() if "-B" in command]
    assert len(set(folders)) == 2


@pytest.mark.parametrize(
    ("tool", "cure"), [("find_cmake", "pip install 'cmake"), ("find_nvcc", "nvidia-cuda-toolkit")]
)
def test_a_missing_tool_names_the_command_that_brings_it(monkeypatch, tool, cure) -> None:
    monkeypatch.setattr(plugin_build, tool, lambda: None)
    with pytest.raises(MissingError, match=cure):
        plugin_build.compile_plugin()


@pytest.fixture
def wheel(monkeypatch, tmp_path) -> Path:
    """The only wheel that pip finds, with a header, on a system that has none."""
    monkeypatch.delenv(plugin_build.HEADER_VARIABLE)
    monkeypatch.setattr(plugin_build, "_SYSTEM_PLACES", ())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    path = tmp_path / "kernel_lens-2.0.1-py3-none-any.whl"
    about = "kernel_lens-2.0.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kernel_lens/include/tensorrt/NvInferRuntime.h", "// a header\n")
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: kernel-lens\nVersion: 2.0.1\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def test_headers_of_another_wheel_are_refused(wheel, own_cache) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(MissingError) as caught:
        plugin_build.header_folder()
    (line,) = str(caught.value).splitlines()
    assert re.search(f"expected sha256 07cc714e[0-9a-f]{{56}}, got {found}", line)
    assert "name their folder with --tensorrt-include DIR" in line
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []


def test_headers_of_the_wheel_of_that_hash(wheel, own_cache, monkeypatch) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(plugin_build, "_HEADER_WHEEL_SHA256", found)
    folder = plugin_build.header_folder()
    assert own_cache in folder.parents
    assert [path.name for path in folder.iterdir()] == ["NvInferRuntime.h"]


def test_no_wheel_to_be_found(wheel, own_cache) -> None:
    wheel.unlink()
    with pytest.raises(MissingError, match=r"cannot be downloaded .*No matching dist") as caught:
        plugin_build.header_folder()
    assert len(str(caught.value).splitlines()) == 1


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
