"""``python -m benchmarks.gpu``: see ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from benchmarks.gpu.options import parse
from ropeexport.errors import EXIT_MISSING, RopeExportError
from ropeexport.trt.gpu import find_gpu


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for and return the exit code."""
    options = parse(arguments)
    gpu = find_gpu()
    if gpu is None:
        return _missing("no NVIDIA GPU: neither a driver nor a device was found")
    if find_spec("torch") is None:
        return _missing("torch is not installed; run: pip install torch, a build with CUDA")
    from benchmarks.gpu.run import run

    try:
        return run(options, gpu)
    except RopeExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _missing(what: str) -> int:
    print(f"error: {what}", file=sys.stderr)
    return EXIT_MISSING


if __name__ == "__main__":
    sys.exit(main())
