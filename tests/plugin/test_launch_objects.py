"""Libraries of kernels that were compiled elsewhere: the same ones, without another run of nvcc."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from plugin import sass
from plugin.test_registries import OURS, holds

from ropeexport.trt import plugin_build

SOURCES = Path(__file__).parents[2] / "plugins"
KINDS = ("matrices", "neighbours", "halves")
NAMES = (*KINDS, *(f"norm_{kind}" for kind in KINDS))


def configure(folder: Path, headers: Path, objects: list[Path]) -> subprocess.CompletedProcess[str]:
    command = [plugin_build.find_cmake(), "-S", SOURCES, "-B", folder]
    command += plugin_build.cmake_generator()
    command += [f"-D{plugin_build.HEADER_VARIABLE}={headers}"]
    command += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", "-DROPEEXPORT_WARNINGS_AS_ERRORS=ON"]
    command += [f"-DROPEEXPORT_LAUNCH_OBJECTS={';'.join(map(str, objects))}"]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> list[Path]:
    """The sources, compiled by hand for one architecture."""
    folder = tmp_path_factory.mktemp("objects")
    nvcc = [plugin_build.find_nvcc(), "-std=c++17", "-O3", "-Xcompiler=-fPIC", "-arch=sm_90"]
    nvcc += ["-I", str(SOURCES / "include"), "-c"]
    made = [folder / f"{name}.o" for name in NAMES]
    commands = [
        [*nvcc, str(SOURCES / "src" / f"launch_{name}.cu"), "-o", str(path)]
        for name, path in zip(NAMES, made, strict=True)
    ]
    with ThreadPoolExecutor(2) as pool:
        done = [*pool.map(lambda command: subprocess.run(command, check=False), commands)]
    assert [process.returncode for process in done] == [0] * len(NAMES)
    return made


@pytest.fixture(scope="module")
def linked(objects, headers, tmp_path_factory) -> Path:
    """The build folder of a plugin library that links them."""
    folder = tmp_path_factory.mktemp("linked")
    done = configure(folder, headers, objects)
    assert done.returncode == 0, done.stderr
    build = [plugin_build.find_cmake(), "--build", str(folder), "--target", "ropeexport_plugin"]
    done = subprocess.run([*build, "--parallel", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_nothing_is_compiled_with_nvcc(linked) -> None:
    assert ".cu" not in (linked / "compile_commands.json").read_text()
    assert "CMAKE_CUDA_COMPILER" not in (linked / "CMakeCache.txt").read_text()


def test_it_registers(linked) -> None:
    assert holds("lean", "load,unload", linked / "libropeexport_plugin.so") == [OURS, []]


def test_its_kernels_are_the_plugins(linked, library) -> None:
    own = [kernel for kernel in sass.kernels(library) if kernel.architecture == "sm_90"]
    got = sass.kernels(linked / "libropeexport_plugin.so")
    assert len(got) == 72 + 54  # that rotate, and that norm first
    assert sorted(got, key=str) == sorted(own, key=str)


def test_an_object_that_is_not_there(headers, tmp_path) -> None:
    for path in (tmp_path / "nowhere.o", Path("relative.o")):
        done = configure(tmp_path / "build", headers, [path])
        assert done.returncode != 0
        assert f"ROPEEXPORT_LAUNCH_OBJECTS: {path}: expected" in " ".join(done.stderr.split())
