"""What nvcc makes of the kernel: PTX, and a library that records what the dispatch would launch.

Kept in the checkout's build folder by the contents of what it was made of.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from plugin.ptx.interpreter import Kernel
from plugin.ptx.launches import Form, Recorder
from plugin.ptx.parse import parse

from ropeexport.trt import toolchain

ROOT = Path(__file__).parents[3]
PLUGINS = ROOT / "plugins"
SOURCES = ("launch_matrices.cu", "launch_neighbours.cu", "launch_halves.cu")
_PTX = ("--ptx", "--gpu-architecture=compute_90", "-std=c++17", "-O3", "-DNDEBUG")
_LIBRARY = ("-shared", "-std=c++17", "-O0", "-Xcompiler=-fPIC", "-cudart=none")
_RECORDER = "ptx_work.cpp"
_ONE_FORM = "src/one_form.cu"


@dataclass(frozen=True)
class Edit:
    """A change of one place of a source file below ``plugins/``."""

    file: str
    old: str
    new: str


class Build:
    """The kernel's sources, or a copy of them with some edits, compiled.

    With ``form`` only its kernels are, those without coefficients of each head: fast to compile.
    """

    def __init__(self, form: Form | None = None, edits: Sequence[Edit] = ()) -> None:
        self._form = form
        self._edits = edits

    @cached_property
    def kernels(self) -> dict[str, Kernel]:
        """Return the kernels by their symbols."""
        sources = [f"src/{name}" for name in SOURCES] if self._form is None else [_ONE_FORM]
        texts = [self._made(name, _PTX, f"{Path(name).stem}.ptx").read_text() for name in sources]
        return {entry.name: Kernel(entry) for text in texts for entry in parse(text)}

    @cached_property
    def recorder(self) -> Recorder:
        return Recorder(self._made(f"test/{_RECORDER}", _LIBRARY, "libptx_work.so"))

    @cached_property
    def _texts(self) -> dict[str, str]:
        """Return every file that the compiler may read, edited, by its place below ``plugins/``."""
        files = [*PLUGINS.glob("include/**/*.cuh"), *PLUGINS.glob("src/*.h")]
        files += [PLUGINS / "src" / name for name in SOURCES] + [PLUGINS / "test" / _RECORDER]
        texts = {str(file.relative_to(PLUGINS)): file.read_text() for file in sorted(files)}
        for edit in self._edits:
            count = texts[edit.file].count(edit.old)
            assert count == 1, f"{edit.file}: {edit.old!r} is there {count} times, expected once"
            texts[edit.file] = texts[edit.file].replace(edit.old, edit.new)
        if self._form is not None:
            texts[_ONE_FORM] = _one_form(self._form)
        return texts

    def _made(self, source: str, options: Sequence[str], name: str) -> Path:
        """Return the file that nvcc makes of a source, compiled unless that was done before."""
        nvcc = toolchain.find_nvcc()
        assert nvcc, f"the plugin's tests need nvcc: {toolchain.NVCC_CURE}"
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
        key = repr((version.stdout, source, options, sorted(self._texts.items())))
        folder = ROOT / "build" / "ptx" / hashlib.sha256(key.encode()).hexdigest()[:16]
        if not (folder / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as work:
                self._compile(Path(work), nvcc, source, [*options, "-o", name])
                os.replace(Path(work) / name, folder / name)  # whole, whoever else compiles it
        return folder / name

    def _compile(self, work: Path, nvcc: Path, source: str, options: Sequence[str]) -> None:
        for name, text in self._texts.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(text)
        command = [nvcc, *options, "-Iinclude", "-Isrc", source]
        done = subprocess.run(
            [*map(str, command)], cwd=work, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{source}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def _one_form(form: Form) -> str:
    """Return a source file that launches one form's kernels."""
    coefficients = "Tables" if form.tables else "Matrices"
    pairing = "Half" if form.halves else "Interleaved"
    flags = f"{str(form.partial).lower()}, false"
    return f"""#include "ropeexport/apply_rope.cuh"
namespace ropeexport {{
template cudaError_t launch_rope<{coefficients}, {pairing}, {flags}>(
    const ApplyRopeParams&, cudaStream_t, const Tuning&);
}}
"""
