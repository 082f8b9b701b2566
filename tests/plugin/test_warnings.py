"""Whose builds stop at a warning: those of this repository, and no user's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ropeexport.trt import plugin_build

SOURCES = Path(__file__).parents[2] / "plugins"
ERRORS = ("-Werror", "--Werror", "-Xcompiler=-Werror")


def strict_sources(folder: Path) -> tuple[set[str], set[str]]:
    """Return the suffixes of the sources that a warning stops, and of the others."""
    strict, others = set(), set()
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        stops = any(word.startswith(ERRORS) for word in entry["command"].split())
        (strict if stops else others).add(Path(entry["file"]).suffix)
    return strict, others


def test_a_user_is_not_stopped_by_a_warning(headers, tmp_path) -> None:
    """A compiler of another version has other warnings."""
    command = [plugin_build.find_cmake(), "-S", SOURCES, "-B", tmp_path]
    command += plugin_build.cmake_generator()
    command += [f"-D{plugin_build.HEADER_VARIABLE}={headers}"]
    command += [f"-DCMAKE_CUDA_COMPILER={plugin_build.find_nvcc()}"]
    command += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    subprocess.run([*map(str, command)], capture_output=True, check=True)
    assert strict_sources(tmp_path) == (set(), {".cpp", ".cu"})


def test_this_repository_is(plugin_folder) -> None:
    assert strict_sources(plugin_folder) == ({".cpp", ".cu"}, set())
