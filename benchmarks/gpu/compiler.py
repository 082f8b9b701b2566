"""What nvcc and CMake make for one GPU, kept under a hash of what it is made of.

The kernels are compiled once, as the three objects that the plugin consists of; the library that
Python calls, the sanitizer's driver and the plugin link the same ones.  The hash covers the texts
of all sources, the architecture and nvcc's release, and no path: a run that is cut into several
calls compiles once, and what was compiled on one machine is found on another.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ropeexport import atomic
from ropeexport.errors import MissingError, PluginError
from ropeexport.trt import plugin_build

ROOT = Path(__file__).parents[2]
NATIVE = Path(__file__).parent / "native"
PLUGINS = ROOT / "plugins"
BUILD = ROOT / "build" / "gpu"
CARRIED = ROOT / ".gpu" / "compiled"  # what benchmarks.gpu.prepare compiled to be taken along

_ROTATIONS = ("launch_matrices", "launch_neighbours", "launch_halves")
KERNELS = (*_ROTATIONS, *(name.replace("launch", "launch_norm") for name in _ROTATIONS))

_HIDDEN = "-Xcompiler=-fPIC,-fvisibility=hidden"
_SHARED = ("-shared", _HIDDEN, "-Xlinker", "--exclude-libs=ALL")
_WARNINGS = ("--Werror=all-warnings", "-Xcompiler=-Wall,-Wextra")
# in CMake's folder; the harness loads the last, which lies beside it
_PLUGIN = ("libropeexport_plugin.so", "test/ropeexport_harness", "test/libropeexport_stand_in.so")


@dataclass(frozen=True)
class Compiler:
    """nvcc for one GPU.

    Parameters
    ----------
    nvcc : Path
        The compiler.
    architecture : str
        Compute capability without the dot: ``90``.
    folder : Path
        Where the results are kept.
    carried : Path or None
        Where results of another machine are looked for.
    """

    nvcc: Path
    architecture: str
    folder: Path = BUILD / "compiled"
    carried: Path | None = CARRIED

    def objects(self) -> list[Path]:
        """Return the kernels, an object for each of the plugin's launch_*.cu."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._object, KERNELS))

    def kernel(self) -> Path:
        """Return the kernels as a library with the interface of ``native/kernel.h``."""
        return self._linked("libropeexport_launch.so", "launch.cpp", "copy.cu", options=_SHARED)

    def driver(self) -> Path:
        """Return the program that the sanitizer runs."""
        sources = ("launch.cpp", "copy.cu", "driver.cpp")
        # two roundings on the host stay two
        return self._linked("sanitizer_driver", *sources, options=["-Xcompiler=-ffp-contract=off"])

    def flashinfer(self, data: Path) -> Path:
        """Return FlashInfer's kernel as a library, from its headers in ``data/include``."""
        # its own CCCL goes before the toolkit's, as in its own build
        bundled = [data / "cccl" / part for part in ("libcudacxx/include", "cub", "thrust")]
        places = [*(place for place in bundled if place.is_dir()), data / "include"]
        options = [*_SHARED, *(f"-I{place}" for place in places), NATIVE / "flashinfer.cu"]
        return self._kept("libflashinfer_rope.so", self._nvcc(lambda: options), *places)

    def plugin(self) -> tuple[Path, Path]:
        """Return the plugin library, and the harness that plays TensorRT for it."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)

            def take(name: str, target: Path) -> None:
                if not any(folder.iterdir()):
                    self._cmake(folder)
                shutil.copyfile(folder / name, target)

            library, harness, _ = (
                self._kept(Path(name).name, lambda target, name=name: take(name, target))
                for name in _PLUGIN
            )
        return library, harness

    def _cmake(self, folder: Path) -> None:
        cmake = plugin_build.find_cmake()
        if cmake is None:
            raise MissingError(f"cmake is not installed; run: {plugin_build.CMAKE_CURE}")
        headers = plugin_build.header_folder()
        objects = ";".join(map(str, self.objects()))
        run(
            *(cmake, "-S", PLUGINS, "-B", folder, *plugin_build.cmake_generator()),
            f"-D{plugin_build.HEADER_VARIABLE}={headers}",
            f"-DCMAKE_CUDA_COMPILER={self.nvcc}",
            f"-DROPEEXPORT_LAUNCH_OBJECTS={objects}",
        )
        targets = ("--target", "ropeexport_plugin", "ropeexport_harness")
        run(cmake, "--build", folder, *targets, "--parallel", os.cpu_count() or 1)

    def _object(self, name: str) -> Path:
        # line numbers do not change the machine code
        options = ("-c", "-DNDEBUG", "-lineinfo", _HIDDEN, *_WARNINGS)
        source = PLUGINS / "src" / f"{name}.cu"
        return self._kept(f"{name}.o", self._nvcc(lambda: [*options, *_includes(), source]))

    def _linked(self, name: str, *sources: str, options: Sequence[str]) -> Path:
        def arguments() -> list[object]:
            files = [NATIVE / source for source in sources]
            return [*options, *_WARNINGS, *_includes(), *files, *self.objects()]

        return self._kept(name, self._nvcc(arguments))

    def _nvcc(self, arguments: Callable[[], Sequence[object]]) -> Callable[[Path], None]:
        code = f"-gencode=arch=compute_{self.architecture},code=sm_{self.architecture}"

        def make(target: Path) -> None:
            run(self.nvcc, "-O3", "-std=c++17", code, *arguments(), "-o", target)

        return make

    def _kept(self, name: str, make: Callable[[Path], None], *more: Path) -> Path:
        """Return the file of a name, made where there is none yet of these sources."""
        place = Path(self._key(*more), name)
        target = self.folder / place
        if not target.is_file():
            carried = self.carried and self.carried / place
            with atomic.replacing(target) as temporary:
                if carried and carried.is_file():
                    shutil.copyfile(carried, temporary)
                else:
                    make(temporary)
        target.chmod(0o755)  # a program, which appears without the right to run
        return target

    def _key(self, *more: Path) -> str:
        release = plugin_build.release_of(self.nvcc)
        digest = hashlib.sha256(f"{self.architecture} {release} ".encode())
        for folder in (NATIVE, PLUGINS, *more):
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                text = file.read_bytes()
                digest.update(f"{file.relative_to(folder)} {len(text)} ".encode() + text)
        return digest.hexdigest()[:16]


def find_compiler(architecture: str) -> Compiler:
    """Return nvcc for a GPU; :class:`MissingError` where there is none."""
    found = plugin_build.find_nvcc()
    if found is None:
        raise MissingError(f"nvcc is not installed; run: {plugin_build.NVCC_CURE}, or set CUDACXX")
    return Compiler(Path(found), architecture)


def run(*command: object) -> str:
    """Run a compiler and return what it printed; :class:`PluginError` with its errors."""
    status, output = outcome(command)
    if status != 0:
        lines = output.splitlines()
        faults = [line for line in lines if "error" in line.lower()] or lines
        raise PluginError(f"{Path(str(command[0])).name} failed: {' / '.join(faults[:8])}")
    return output


def outcome(command: Sequence[object], timeout_s: float | None = None) -> tuple[int, str]:
    """Run a program and return its exit code and all that it printed."""
    done = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout_s,
    )
    return done.returncode, done.stdout


def _includes() -> list[str]:
    return [f"-I{PLUGINS / 'include'}", f"-I{PLUGINS / 'src'}"]
