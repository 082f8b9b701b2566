"""The compilers and headers that a build of the plugin needs: where they are on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ropeexport import atomic
from ropeexport.errors import MissingError
from ropeexport.trt.cache import make_cache_folder

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
    """Return nvcc's path: ``CUDACXX``, the path, else the toolkit's usual folder."""
    return find_cuda_tool("bin/nvcc", os.environ.get("CUDACXX"))


def find_cuda_tool(place: str, chosen: str | None = None) -> str | None:
    """Return the path of a tool of CUDA's: the user's choice, the path, else the toolkit's folder.

    ``place`` is where it lies in the toolkit: ``bin/nvcc``.
    """
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), _DEFAULT_HOME]
    guesses = [chosen, shutil.which(Path(place).name)]
    guesses += [f"{home}/{place}" for home in homes if home]
    return next((guess for guess in guesses if guess and Path(guess).is_file()), None)


def header_folder(include: Path | None = None) -> Path:
    """Return a folder with TensorRT's headers; the last resort is a download into the cache."""
    variable = os.environ.get(HEADER_VARIABLE)
    named = include or (Path(variable) if variable else None)
    if named is not None:
        if not (named / _HEADER).is_file():
            raise MissingError(f"{named}: expected TensorRT's headers, found no {_HEADER} in it")
        return named.absolute()
    for place in map(Path, _SYSTEM_PLACES):
        if (place / _HEADER).is_file():
            return place
    folder = make_cache_folder("tensorrt-headers")
    if not (folder / _HEADER).is_file():
        _download_headers(folder)
    return folder


def _download_headers(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        # pip takes hashes from a file of requirements alone
        wanted = Path(place) / "wanted.txt"
        wanted.write_text(f"{_HEADER_WHEEL} --hash=sha256:{_HEADER_WHEEL_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", place]
        command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(place).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise MissingError(
                f"TensorRT's headers: not on this system, and {_HEADER_WHEEL}, which carries them, "
                f"{_download_fault(done.stderr)}; name their folder with "
                f"--tensorrt-include DIR or {HEADER_VARIABLE}"
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
        raise MissingError(f"{_HEADER_WHEEL}: expected {_HEADER} in {_HEADER_WHEEL_FOLDER}")
