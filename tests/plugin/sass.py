"""Machine code of a plugin library, as cuobjdump prints it."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_FUNCTION = re.compile(r"Function : (\S+)")
_ARCHITECTURE = re.compile(r"arch = (sm_\d+)")
# a multiply-add of zeros is how sm_80 loads a constant
_CONSTANT = re.compile(r"HFMA2\.MMA R\d+, -RZ, RZ, ")
_OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_.]*)")
_NORM = re.compile(
    r"norm_rope_(?P<of>columns|spans)INS_11NormVariantI(?P<type>f|6__half|13__nv_bfloat16)"
    r"Li(?P<width>\d+)ENS_\d+(?P<pairing>Interleaved|Half)ENS_\d+(?P<form>Matrices|Tables)EE"
)
_VARIANT = re.compile(
    r"13rotate_kernelINS_7VariantI(?P<type>f|6__half|13__nv_bfloat16)Li(?P<width>\d+)E"
    r"NS_\d+(?P<pairing>Interleaved|Half)ENS_\d+(?P<form>Matrices|Tables)E"
    r"Lb(?P<per_head>[01])ELb(?P<partial>[01])E"
)
_TYPES = {"f": "float32", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Kernel:
    """One variant of the kernel for one architecture.

    ``normed``: ``columns`` or ``spans`` where it norms first, else empty.
    """

    architecture: str
    dtype: str
    access_bytes: int
    per_head: bool
    policies: str  # pairing, coefficients, and whether of a part of a head
    opcodes: tuple[str, ...]
    normed: str = ""

    def __str__(self) -> str:
        own = ", matrices of each head" if self.per_head else ""
        where = f"{self.architecture} {self.dtype} by {self.access_bytes} bytes"
        normed = f"{self.normed} of a norm, " if self.normed else ""
        return f"{where}, {normed}{self.policies}{own}"

    def starting_with(self, *prefixes: str) -> list[str]:
        return [opcode for opcode in self.opcodes if opcode.startswith(prefixes)]


def _tool() -> tuple[str, dict[str, str]]:
    """Return cuobjdump and an environment in which it finds nvdisasm."""
    spec = find_spec("nvidia")
    assert spec is not None, "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    folders = [Path(place) / "cu13" / "bin" for place in spec.submodule_search_locations or ()]
    folder = next(folder for folder in folders if (folder / "cuobjdump").is_file())
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    return str(folder / "cuobjdump"), dict(os.environ, PATH=path)


def dump(library: Path, *options: str) -> str:
    """Run cuobjdump on a library and return what it prints."""
    tool, environment = _tool()
    command = [tool, *options, str(library)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def kernels(library: Path) -> list[Kernel]:
    """Return every kernel of a library."""
    architecture = ""
    found = []
    for block in re.split(r"(?=Function : |arch = )", dump(library, "-sass")):
        if match := _ARCHITECTURE.match(block):
            architecture = match[1]
        elif match := _FUNCTION.match(block):
            found.append(_kernel(architecture, match[1], block))
    return found


def _kernel(architecture: str, name: str, text: str) -> Kernel:
    opcodes = tuple(_OPCODE.findall(_CONSTANT.sub("MOV ", text)))
    if norm := _NORM.search(name):
        dtype = _TYPES[norm["type"]]
        width = int(norm["width"]) * _BYTES[dtype]
        policies = f"{norm['pairing']} {norm['form']}"
        return Kernel(architecture, dtype, width, False, policies, opcodes, norm["of"])
    variant = _VARIANT.search(name)
    assert variant is not None, name
    dtype = _TYPES[variant["type"]]
    width = int(variant["width"]) * _BYTES[dtype]
    part = " Partial" if variant["partial"] == "1" else ""
    policies = f"{variant['pairing']} {variant['form']}{part}"
    return Kernel(architecture, dtype, width, variant["per_head"] == "1", policies, opcodes)
