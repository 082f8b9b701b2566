"""The plugin, its harness and its host walk, compiled once into build/plugin of the checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from plugin.host_walk import HostWalk

from ropeexport.trt import cache, plugin_build

ROOT = Path(__file__).parents[2]
# Machine code for two of the architectures, and PTX for newer GPUs: enough to read and to run.
ARCHITECTURES = "80-real;90"


def pytest_collection_modifyitems(items) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.plugin)


def _run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"


@pytest.fixture(scope="session")
def headers() -> Path:
    """TensorRT's headers; those of a wheel are kept in the checkout's build folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(ROOT / "build" / "cache"))
        return plugin_build.header_folder()


@pytest.fixture(scope="session")
def plugin_folder(headers) -> Path:
    """The folder that everything was compiled into."""
    folder = ROOT / "build" / "plugin"
    cmake, nvcc = plugin_build.find_cmake(), plugin_build.find_nvcc()
    assert cmake, f"the plugin's tests need cmake: {plugin_build.CMAKE_CURE}"
    assert nvcc, f"the plugin's tests need nvcc: {plugin_build.NVCC_CURE}"
    _run(
        *(cmake, "-S", ROOT / "plugins", "-B", folder, *plugin_build.cmake_generator()),
        f"-D{plugin_build.HEADER_VARIABLE}={headers}",
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={ARCHITECTURES}",
        "-DROPEEXPORT_WARNINGS_AS_ERRORS=ON",
        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
    )
    targets = ("ropeexport_plugin", "ropeexport_tests")
    _run(cmake, "--build", folder, "--target", *targets, "--parallel", 2)
    return folder


@pytest.fixture(scope="session")
def library(plugin_folder) -> Path:
    return plugin_folder / "libropeexport_plugin.so"


@pytest.fixture(scope="session")
def harness(plugin_folder) -> Path:
    return plugin_folder / "test" / "ropeexport_harness"


@pytest.fixture(scope="session")
def walk(plugin_folder) -> HostWalk:
    """The kernel's grid, walked on the host."""
    return HostWalk(plugin_folder / "test" / "libropeexport_host_walk.so")
