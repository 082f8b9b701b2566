"""Compile the plugin library: the compilers and headers of this machine, CMake, and the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ropeexport import atomic
from ropeexport.child_process import safe_environment
from ropeexport.errors import MissingError, PluginError
from ropeexport.locking import locked, scratch
from ropeexport.machine import output_of
from ropeexport.trt import tool
from ropeexport.trt.cache import make_cache_folder
from ropeexport.trt.plugin_library import FILE_NAME, cached_library

_TARGET = "ropeexport_plugin"
_ERROR_LINES = 8

OnLine = Callable[[str], None]
HEADER_VARIABLE = "TENSORRT_INCLUDE_DIR"
CMAKE_CURE = "pip install 'cmake>=3.24'"
NVCC_CURE = "sudo apt-get install nvidia-cuda-toolkit  (or NVIDIA's CUDA toolkit 12 or later)"
_DEFAULT_HOME = "/usr/local/cuda"
_HEADER = "NvInferRuntime.h"
# No wheel of TensorRT ships its headers; this package carries those of 10.14, for compiling only.
_HEADER_WHEEL = "kernel-lens==2.0.1"
_HEADER_WHEEL_SHA256 = "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"
_HEADER_WHEEL_FOLDER = "kernel_lens/include/tensorrt/"
_SYSTEM_PLACES = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
    "/opt/tensorrt/include",
)


def source_folder() -> Path:
    """Return the folder of the plugin's sources, which a checkout has and a wheel has not."""
    folder = Path(__file__).parents[2] / "plugins"
    if not (folder / "CMakeLists.txt").is_file():
        raise MissingError(
            f"{folder}: the plugin's sources are not in this installation; clone the repository, "
            "run 'pip install -e .' in it, and try again",
            code="RX906",
        )
    return folder


def compile_plugin(
    architectures: Sequence[str] = (), include: Path | None = None, on_line: OnLine | None = None
) -> Path:
    """Compile the plugin library into the cache folder and return its path.

    Parameters
    ----------
    architectures : sequence of str
        CUDA architectures as CMake writes them, ``89`` or ``90-real``; none: CMakeLists.txt's own.
    include : Path, optional
        Folder of TensorRT's headers; else the environment's, the system's, or a wheel's.
    on_line : callable
        Called with each line that CMake and the compilers print.

    Raises
    ------
    MissingError
        Where CMake, nvcc or the headers are missing, with the command that brings them.
    PluginError
        Where the sources do not compile.
    """
    sources = source_folder()
    cmake, nvcc = find_cmake(), find_nvcc()
    if cmake is None:
        raise MissingError(f"cmake is not installed; run: {CMAKE_CURE}", code="RX905")
    if nvcc is None:
        raise MissingError(
            f"nvcc, the CUDA compiler, is not installed; run: {NVCC_CURE}", code="RX905"
        )
    atomic.require_replaceable(cached_library())
    with locked(make_cache_folder(), "plugin build"):
        return _compiled(sources, (cmake, nvcc), architectures, include, on_line)


def _compiled(
    sources: Path,
    tools: tuple[str, str],
    architectures: Sequence[str],
    include: Path | None,
    on_line: OnLine | None,
) -> Path:
    cmake, nvcc = tools
    headers = header_folder(include)
    generator = cmake_generator()
    # CMake keeps a folder to one of sources and to one generator
    named = hashlib.sha256("\n".join([str(sources), *generator[:2]]).encode()).hexdigest()[:12]
    build = make_cache_folder("plugin-build", named)
    configure = [cmake, "-S", str(sources), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"]
    configure += generator
    configure += [f"-D{HEADER_VARIABLE}={headers}", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    # -U: a former build's choice stays in CMake's cache otherwise
    chosen = f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(architectures)}"
    configure.append(chosen if architectures else "-UCMAKE_CUDA_ARCHITECTURES")
    run_tool(configure, on_line)
    jobs = str(os.cpu_count() or 1)
    run_tool([cmake, "--build", str(build), "--target", _TARGET, "--parallel", jobs], on_line)
    return _install(build)


def run_tool(command: Sequence[str], on_line: OnLine | None) -> None:
    """Run a tool to its end, with all that it starts; what it prints goes to ``on_line`` too."""
    lines = []
    with (
        atomic.ended_cleanly(),
        scratch("compile") as place,  # nvcc that is killed leaves its files
        subprocess.Popen(
            # a session of its own, that a terminal's signals do not reach: it ends as it is told to
            [sys.executable, "-I", tool.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # CMake may be a script of Python's
            env=safe_environment(os.environ | {"TMPDIR": str(place)}),
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None  # a pipe
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if on_line is not None:
                    on_line(line.rstrip())
        except BaseException:
            process.terminate()
            process.wait()  # on Ctrl-C `Popen` would not, and the folder be another's meanwhile
            raise
    if process.returncode != 0:
        faults = [line for line in lines if "error" in line.lower()] or lines
        raise PluginError(
            f"{' '.join(command[:2])} failed: {'; '.join(faults[:_ERROR_LINES])}", code="RX408"
        )


def _install(build: Path) -> Path:
    made = sorted(build.rglob(FILE_NAME))
    if not made:
        raise PluginError(f"{build}: expected {FILE_NAME} from CMake, found none", code="RX408")
    make_cache_folder()
    with atomic.replacing(cached_library()) as temporary:
        shutil.copyfile(made[0], temporary)
    cached_library().chmod(0o755)  # what others may write is not loaded, whatever the umask
    return cached_library()


def find_cmake() -> str | None:
    """Return CMake's path."""
    return _find_tool("cmake")


def _find_tool(name: str) -> str | None:
    beside = Path(sys.executable).parent / name  # from a wheel, in an environment not entered
    return shutil.which(name) or (str(beside) if beside.is_file() else None)


def cmake_generator() -> list[str]:
    """Return options that make CMake use ninja where it would look for a make that is not there."""
    chosen = os.environ.get("CMAKE_GENERATOR") or shutil.which("gmake") or shutil.which("make")
    ninja = _find_tool("ninja")
    if chosen or ninja is None:
        return []
    return ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]


def find_nvcc() -> str | None:
    """Return nvcc's path: ``CUDACXX``, else as any other tool of the toolkit."""
    return find_cuda_tool("nvcc", os.environ.get("CUDACXX"))


def find_cuda_tool(name: str, named: str | None = None) -> str | None:
    """Return a tool of the CUDA toolkit: the one named, on the path, else in the usual folders."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), _DEFAULT_HOME]
    guesses = [named, shutil.which(name)]
    guesses += [f"{home}/{place}/{name}" for home in homes if home for place in ("bin", name)]
    return next((guess for guess in guesses if guess and Path(guess).is_file()), None)


def release_of(tool: str | Path) -> str:
    """Return the release that nvcc or CMake says it is, ``13.0``; empty where it does not say."""
    match = re.search(r"(?:release|version) ([\d.]+)", output_of(str(tool), "--version"))
    return match[1] if match else ""


def header_folder(include: Path | None = None) -> Path:
    """Return a folder with TensorRT's headers; the last resort is a download into the cache."""
    variable = os.environ.get(HEADER_VARIABLE)
    named = include or (Path(variable) if variable else None)
    if named is not None:
        if not (named / _HEADER).is_file():
            raise MissingError(
                f"{named}: expected TensorRT's headers, found no {_HEADER} in it", code="RX906"
            )
        return named.absolute()
    for place in map(Path, _SYSTEM_PLACES):
        if (place / _HEADER).is_file():
            return place
    folder = make_cache_folder("tensorrt-headers")
    if not (folder / _HEADER).is_file():
        _download_headers(folder)
    return folder


def _download_headers(folder: Path) -> None:
    atomic.tidied(folder)
    with atomic.temporary_folder() as place:
        # pip takes hashes from a file of requirements alone
        wanted = place / "wanted.txt"
        wanted.write_text(f"{_HEADER_WHEEL} --hash=sha256:{_HEADER_WHEEL_SHA256}\n")
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--dest", str(place), "--only-binary", ":all:", "--require-hashes"]
        command += ["--requirement", str(wanted)]
        safe = safe_environment(os.environ)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=safe)
        wheels = list(place.glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise MissingError(
                f"TensorRT's headers: not on this system, and {_HEADER_WHEEL}, which carries them, "
                f"{_download_fault(done.stderr)}; name their folder with "
                f"--tensorrt-include DIR or {HEADER_VARIABLE}",
                code="RX906",
            )
        _extract_headers(wheels[0], folder)


def _download_fault(said: str) -> str:
    """Return in one line why pip gave no wheel."""
    other = re.search(r"Got +([0-9a-f]{64})", said)
    if other:
        return f"is another file: expected sha256 {_HEADER_WHEEL_SHA256}, got {other[1]}"
    reason = (said.strip().splitlines() or ["no wheel"])[-1]
    return f"cannot be downloaded ({reason})"


def _extract_headers(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(_HEADER_WHEEL_FOLDER)]
        # the header that says "complete" goes last: a folder half written is not taken for whole
        for name in sorted(members, key=lambda name: name.endswith(_HEADER)):
            plain = Path(name).name
            if plain.endswith(".h"):
                atomic.write_bytes(folder / plain, archive.read(name))
    if not (folder / _HEADER).is_file():
        raise MissingError(
            f"{_HEADER_WHEEL}: expected {_HEADER} in {_HEADER_WHEEL_FOLDER}", code="RX906"
        )
