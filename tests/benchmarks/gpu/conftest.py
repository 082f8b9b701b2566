"""The measurements without a GPU: the CPU for the device, the kernel's grid walked on the host."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cpu_device import CpuDevice

from benchmarks.gpu.compiler import NATIVE, PLUGINS, ROOT, Compiler, find_compiler
from benchmarks.gpu.kernel import Kernel

HERE = Path(__file__).parent
BUILD = ROOT / "build" / "gpu-tests"


@pytest.fixture
def device() -> CpuDevice:
    return CpuDevice()


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    """nvcc for Hopper, with a folder of the tests own."""
    return replace(find_compiler("90"), folder=BUILD, carried=None)


Built = Callable[..., Path]


@pytest.fixture(scope="session")
def host_build(compiler) -> Built:
    """Compile sources for the host; nvcc knows where CUDA's headers are."""

    made: dict[tuple[object, ...], str] = {}

    def compiled(source: Path, options: tuple[str, ...]) -> str:
        key = (source, *options)
        if key not in made:
            made[key] = str(BUILD / f"{source.stem}-{len(made)}.o")
            command = [
                str(compiler.nvcc),
                "-std=c++17",
                "-c",
                f"-I{NATIVE}",
                f"-I{PLUGINS}/include",
                f"-I{PLUGINS}/test",
            ]
            command += ["-Xcompiler=-fPIC,-ffp-contract=off", *options, str(source)]
            _run([*command, "-o", made[key]])
        return made[key]

    def build(name: str, *sources: Path, options=(), define=(), link=("-shared",)) -> Path:
        """``define`` is for the first of the sources alone."""
        BUILD.mkdir(parents=True, exist_ok=True)
        target = BUILD / name
        objects = [compiled(sources[0], (*options, *define))]
        objects += [compiled(source, tuple(options)) for source in sources[1:]]
        # linked by the host compiler: CUDA's own runtime must stay outside
        _run(["g++", *link, *objects, "-o", str(target)])
        return target

    return build


@pytest.fixture(scope="session")
def host_kernel(host_build) -> Kernel:
    """The interface of the compiled kernel, on the host."""
    return Kernel(host_build("libhost.so", HERE / "native/host_launch.cpp", options=("-O1",)))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}{done.stderr}"
