"""What nvcc makes of the kernel: PTX, and a library that records what the plugin would launch.

Both come of one run of nvcc for each ``launch_*.cu``: what is launched and what is run cannot be of
two sources. Kept in the checkout's build folder by the contents of what it was made of.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from plugin.ptx.interpreter import Kernel
from plugin.ptx.launches import Form, Recorder
from plugin.ptx.parse import parse

from ropeexport.trt import plugin_build

ROOT = Path(__file__).parents[3]
PLUGINS = ROOT / "plugins"
MADE = ROOT / "build" / "ptx"
KINDS = ("matrices", "neighbours", "halves")
SOURCES = tuple(f"launch_{kind}" for kind in KINDS)
NORM_SOURCES = tuple(f"launch_norm_{kind}" for kind in KINDS)
RECORDER = "test/ptx_work.cpp"
_HIDDEN = ("-std=c++17", "-O0", "-DNDEBUG", "-Xcompiler=-fPIC,-fvisibility=hidden")
# as dispatch.cuh has them
_TYPES = {
    "fp32": ("float", "kFloat32"),
    "fp16": ("__half", "kFloat16"),
    "bf16": ("__nv_bfloat16", "kBFloat16"),
}
# -O0 is the host's code alone; what is kept is the PTX that goes into the object
_OBJECT = (*_HIDDEN, "-c", "--keep", "-gencode=arch=compute_90,code=compute_90")
_LIBRARY = (*_HIDDEN, "-shared", "-cudart=none", "-Xlinker=--no-undefined")


@dataclass(frozen=True)
class Edit:
    """A change of one place of a source file below ``plugins/``."""

    file: str
    old: str
    new: str


class Build:
    """The kernel's sources, or a copy of them with some edits, compiled.

    With ``form`` only that source is which has its kernels, with ``dtype`` only the kernels of that
    type are: nvcc takes less time. ``normed``: those that norm first.
    """

    def __init__(
        self,
        form: Form | None = None,
        edits: Sequence[Edit] = (),
        dtype: str | None = None,
        *,
        normed: bool = False,
    ) -> None:
        sources = dict(zip(KINDS, NORM_SOURCES if normed else SOURCES, strict=True))
        self._sources = (*sources.values(),) if form is None else (sources[_kind(form)],)
        others = [kind for kind in _TYPES if dtype is not None and kind != dtype]
        without = _without_norm if normed else _without
        self._edits = [*edits, *(without(kind) for kind in others)]

    @cached_property
    def kernels(self) -> dict[str, Kernel]:
        """Return the kernels by their symbols."""
        texts = [made.with_suffix(".ptx").read_text() for made in self._objects]
        return {entry.name: Kernel(entry) for text in texts for entry in parse(text)}

    @cached_property
    def recorder(self) -> Recorder:
        objects = [str(path) for path in self._objects]
        return Recorder(self._made(RECORDER, (*_LIBRARY, *objects), "libptx_work.so"))

    @cached_property
    def _objects(self) -> list[Path]:
        """Return the sources' objects; the PTX of each lies beside it."""
        with ThreadPoolExecutor(2) as pool:
            return [
                *pool.map(
                    lambda name: self._made(f"src/{name}.cu", _OBJECT, f"{name}.o"), self._sources
                )
            ]

    @cached_property
    def _texts(self) -> dict[str, str]:
        """Return every file that the compiler may read, edited, by its place below ``plugins/``."""
        texts = dict(_own_texts())
        for edit in self._edits:
            count = texts[edit.file].count(edit.old)
            assert count == 1, f"{edit.file}: {edit.old!r} is there {count} times, expected once"
            texts[edit.file] = texts[edit.file].replace(edit.old, edit.new)
        return texts

    def _made(self, source: str, options: Sequence[str], name: str) -> Path:
        """Return the file that nvcc makes of a source, compiled unless that was done before."""
        texts = {file: text for file, text in self._texts.items() if _reads(source, file)}
        folder = _folder() / _key(source, options, sorted(texts.items()))
        if not (folder / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                _compile(Path(work), texts, [*options, "-o", name], source)
                made = [*Path(work).glob("*.ptx"), Path(work) / name]
                for path in made:  # whole, whoever else compiles it; by the last, all are there
                    os.replace(path, folder / path.name)
        return folder / name


def _without(dtype: str) -> Edit:
    """Return the edit of the dispatch that leaves out a type."""
    kind, name = _TYPES[dtype]
    call = f"run_widest<{kind}, Form, Pairing, kPerHead, kPartial>(p, tuning, executor);"
    old = f"    case DataType::{name}:\n      return {call}\n"
    return Edit("include/ropeexport/dispatch.cuh", old, "")


def _without_norm(dtype: str) -> Edit:
    kind, name = _TYPES[dtype]
    call = f"run_widest_norm<{kind}, Form, Pairing>(p, tuning, executor);"
    old = f"    case DataType::{name}:\n      return {call}\n"
    return Edit("include/ropeexport/norm_dispatch.cuh", old, "")


def remove_outdated() -> None:
    """Remove what was made of other sources of the kernel than the present ones."""
    for folder in MADE.glob("*"):
        if folder != _folder():
            shutil.rmtree(folder, ignore_errors=True)


def _kind(form: Form) -> str:
    """Return the source that has a form's kernels, as ``launch.h`` chooses it."""
    if not form.tables:
        return "matrices"
    return "halves" if form.halves else "neighbours"


@cache
def _own_texts() -> dict[str, str]:
    files = [*PLUGINS.glob("include/**/*.cuh"), *PLUGINS.glob("src/*.h")]
    files += [PLUGINS / "src" / f"{name}.cu" for name in (*SOURCES, *NORM_SOURCES)]
    files.append(PLUGINS / RECORDER)
    return {str(file.relative_to(PLUGINS)): file.read_text() for file in sorted(files)}


def _reads(source: str, file: str) -> bool:
    return file == source or file.endswith((".cuh", ".h"))


@cache
def _nvcc() -> tuple[Path, str]:
    """Return the compiler and its version."""
    nvcc = plugin_build.find_nvcc()
    assert nvcc, f"the plugin's tests need nvcc: {plugin_build.NVCC_CURE}"
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    return nvcc, done.stdout


@cache
def _folder() -> Path:
    """Return where all is that is made of the present sources, edited or not."""
    kernel = {file: text for file, text in _own_texts().items() if file != RECORDER}
    return MADE / _key(_nvcc()[1], _OBJECT, sorted(kernel.items()))


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _compile(work: Path, texts: dict[str, str], options: Sequence[str], source: str) -> None:
    for name, text in texts.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    command = [_nvcc()[0], *options, "-Iinclude", "-Isrc", source]
    done = subprocess.run(
        [*map(str, command)], cwd=work, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{source}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
