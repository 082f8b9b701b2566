"""nvcc on what the GPU will run, and the sanitizer's driver on the host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from plugin import sass

from benchmarks.gpu import compiler as module
from benchmarks.gpu.compiler import KERNELS, NATIVE, Compiler, find_compiler
from benchmarks.gpu.kernel import Kernel
from ropeexport.errors import MissingError, PluginError
from ropeexport.machine import find_gpu
from ropeexport.trt import plugin_build

HOST = Path(__file__).parent / "native"
# -O0: the driver takes a second, its optimised compilation a minute
SANITIZE = ("-O0", "-Xcompiler=-fsanitize=address")


def run(*command: object, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    return done.returncode, done.stdout + done.stderr


def has_nvcc(monkeypatch, *places: str) -> None:
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join(places))


def test_a_missing_nvcc_is_named(monkeypatch, tmp_path) -> None:
    has_nvcc(monkeypatch, str(tmp_path))
    monkeypatch.setattr(plugin_build, "_DEFAULT_HOME", str(tmp_path))
    with pytest.raises(MissingError, match="nvcc is not installed"):
        find_compiler("90")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert find_compiler("90").nvcc == tmp_path / "bin" / "nvcc"


@pytest.mark.plugin
def test_the_kernels_library(compiler) -> None:
    path = compiler.kernel()
    Kernel(path)  # its parameters have the size that Python describes
    _, symbols = run("nm", "--dynamic", "--defined-only", path)
    names = {line.split()[-1] for line in symbols.splitlines()}
    assert names == {
        *("ropeexport_launch", "ropeexport_launch_norm", "ropeexport_copy"),
        *("ropeexport_params_bytes", "ropeexport_norm_params_bytes", "ropeexport_error_text"),
    }


@pytest.fixture
def counted(tmp_path, compiler) -> Compiler:
    """A compiler with a folder of its own, whose nvcc keeps a list of what it compiled."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || echo "$*" >> {tmp_path}/compiled\n'
        f'exec {compiler.nvcc} "$@"\n'
    )
    nvcc.chmod(0o755)
    return Compiler(nvcc, "90", tmp_path / "kept", tmp_path / "carried")


def compiled(counted: Compiler) -> list[str]:
    path = counted.folder.with_name("compiled")
    return path.read_text().splitlines() if path.is_file() else []


def made(compiler: Compiler) -> list[Path]:
    return [compiler.kernel(), compiler.driver(), *compiler.plugin()]


@pytest.mark.plugin
def test_kernels_are_compiled_once_for_all_and_on_all_machines(
    counted, tmp_path, monkeypatch
) -> None:
    """On another machine the checkout, and so every path of a command, is another."""
    beforehand = replace(counted, folder=counted.carried, carried=None)
    before = made(beforehand)
    for source in KERNELS:
        assert sum(f"{source}.cu" in line for line in compiled(counted)) == 1
    commands = compiled(counted)
    assert len(commands) == len(KERNELS) + 2
    library, plugins = (
        set(re.findall(r"Function (\S+):", sass.dump(path, "-res-usage")))
        for path in (before[0], before[2])
    )
    assert len(plugins) == 72 + 54  # that rotate; that norm first
    assert {name for name in library if "copy_kernel" not in name} == plugins
    before[1].chmod(0o644)  # as a copy may come
    for name in ("NATIVE", "PLUGINS"):
        elsewhere = tmp_path / "elsewhere" / name
        shutil.copytree(getattr(module, name), elsewhere)
        monkeypatch.setattr(module, name, elsewhere)
    found = made(counted)
    assert compiled(counted) == commands
    assert [path.relative_to(counted.folder) for path in found] == [
        path.relative_to(beforehand.folder) for path in before
    ]
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in before]
    assert all(os.access(path, os.X_OK) for path in found)
    header = elsewhere / "include" / "ropeexport" / "work.cuh"
    header.write_text("#error another header\n")
    with pytest.raises(PluginError, match="another header"):
        counted.objects()


@pytest.mark.plugin
def test_a_launch_without_a_gpu_is_an_error_not_a_crash(compiler) -> None:
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    status, output = run(compiler.driver())
    assert status == 3
    assert "error: no GPU" in output


@pytest.fixture(scope="module")
def host_driver(host_build):
    """Return the driver on the host, under the address sanitizer, with a fault if one is named."""
    sources = (HOST / "host_cuda.cpp", NATIVE / "driver.cpp")

    def build(name: str, *define: str) -> Path:
        options = {"options": SANITIZE, "define": define, "link": ("-fsanitize=address",)}
        return host_build(f"driver-{name}", HOST / "host_launch.cpp", *sources, **options)

    return build


@pytest.mark.plugin
def test_the_driver_holds_and_stays_within_its_arrays(host_driver) -> None:
    status, output = run(host_driver("good"))
    assert status == 0, output
    assert re.search(r"(?m)^189 launches, 0 wrong$", output)
    assert run(host_driver("good"), ROPEEXPORT_NO_GPU="1")[0] == 3


@pytest.mark.plugin
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("ROPEEXPORT_FAULT_LAST_ELEMENT", "189 launches, 189 wrong"),
        ("ROPEEXPORT_FAULT_TOO_LONG", "heap-buffer-overflow"),
    ],
)
def test_the_driver_finds_faults(host_driver, fault, said) -> None:
    status, output = run(host_driver(fault, f"-D{fault}"))
    assert status != 0
    assert said in output


def test_flashinfers_own_cccl_goes_first(compiler_without_nvcc, tmp_path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "cccl" / "cub").mkdir(parents=True)
    with pytest.raises(PluginError) as caught:
        compiler_without_nvcc.flashinfer(tmp_path)
    said = str(caught.value)
    assert said.index(f"-I{tmp_path}/cccl/cub") < said.index(f"-I{tmp_path}/include")
    assert "libcudacxx" not in said


@pytest.fixture
def compiler_without_nvcc(tmp_path):
    """A compiler whose nvcc fails and prints its command line."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "error: $*" >&2; exit 1; }\n')
    nvcc.chmod(0o755)
    return Compiler(nvcc, "90", tmp_path / "build", carried=None)


def test_the_architecture_is_the_gpus(compiler_without_nvcc) -> None:
    for architecture in ("89", "120"):
        with pytest.raises(PluginError, match=f"compute_{architecture},code=sm_{architecture}"):
            replace(compiler_without_nvcc, architecture=architecture).kernel()
    assert [*(compiler_without_nvcc.folder).rglob("*.so")] == []


def test_headers_that_are_not_there_are_named(monkeypatch, tmp_path, compiler) -> None:
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path))
    with pytest.raises(MissingError, match="expected TensorRT's headers"):
        replace(compiler, folder=tmp_path).plugin()
