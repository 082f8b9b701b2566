"""What the library shows to the process that loads it, and what it asks of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def _nm(library: Path, *options: str) -> set[str]:
    command = ["nm", "--dynamic", *options, str(library)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[-1] for line in lines if " w " not in line}


def test_only_the_entry_points_are_exported(library) -> None:
    assert _nm(library, "--defined-only") == {"getCreators", "setLoggerFinder"}


def test_nothing_of_tensorrt_or_cuda_is_needed(library) -> None:
    needed = _nm(library, "--undefined-only")
    foreign = {symbol for symbol in needed if "@GLIBC_" not in symbol}
    assert foreign <= {"__tls_get_addr"}, foreign
    assert "getPluginRegistry" not in needed


def test_only_the_c_library_is_linked(library) -> None:
    command = ["readelf", "--dynamic", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    linked = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
    system = {"libc.so", "libm.so", "libdl.so", "librt.so", "libpthread.so", "ld-linux-x86-64.so"}
    assert {name.rpartition(".")[0] for name in linked} <= system | {"ld-linux-aarch64.so"}
