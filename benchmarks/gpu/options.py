"""The command line, parsed with the standard library alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = ("exactness", "sanitizer", "engines", "bench")
DTYPES = ("fp32", "fp16", "bf16")
SHAPE_NAMES = ("flux", "flux-512", "llama-prefill", "llama-decode", "video", "small-heads")
RESULTS = Path(__file__).parents[1] / "results"

_EPILOG = """\
exit codes: 0 nothing failed, 1 something failed, 2 usage, 3 no GPU, or nothing that was asked for
could run. Each check is written as it ends, into one file for a GPU, a day and a state of the
sources: a run may be cut into several with --only, --shapes and --dtypes, or be cut short at any
moment.
"""


@dataclass(frozen=True)
class Options:
    """What a run is asked for."""

    only: tuple[str, ...] = PARTS
    out: Path = RESULTS
    quick: bool = False
    shapes: tuple[str, ...] = SHAPE_NAMES
    dtypes: tuple[str, ...] = DTYPES
    flash_attention: Path | None = None
    flashinfer: Path | None = None
    exported: Path | None = None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options; exits with 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Prove the kernel, the plugin and the engines on this machine's GPU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for flag, settings in _arguments().items():
        parser.add_argument(flag, **settings)
    return Options(**vars(parser.parse_args(arguments)))


def _arguments() -> dict[str, dict[str, Any]]:
    """Return each option with what argparse is to know of it."""
    shapes, types = ", ".join(SHAPE_NAMES), ", ".join(DTYPES)
    return {
        "--only": _list(PARTS, "PART", f"parts to run: {', '.join(PARTS)}"),
        "--out": _path("DIR", "folder of the result file  [benchmarks/results]", RESULTS),
        "--quick": {
            "action": "store_true",
            "help": "fewer cases, shorter timing, a file of its own",
        },
        "--shapes": _list(SHAPE_NAMES, "SHAPE", f"shapes to time: {shapes}"),
        "--dtypes": _list(DTYPES, "TYPE", f"types to time: {types}"),
        "--flash-attention": _path(
            "FILE", "its ops/triton/rotary.py, where the package flash_attn is not installed"
        ),
        "--flashinfer": _path(
            "DIR", "folder of include/flashinfer, where the package flashinfer is not installed"
        ),
        "--exported": _path("DIR", "models exported beforehand: DIR/fp32, DIR/fp16, DIR/bf16"),
    }


def _list(allowed: tuple[str, ...], name: str, text: str) -> dict[str, Any]:
    metavar = f"{name}[,{name}...]"
    return {"type": _choices(allowed), "default": allowed, "metavar": metavar, "help": text}


def _path(metavar: str, text: str, default: Path | None = None) -> dict[str, Any]:
    return {"type": Path, "default": default, "metavar": metavar, "help": text}


def _choices(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse_names(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"expected {', '.join(allowed)}, got {', '.join(unknown) or 'nothing'}"
            )
        return tuple(name for name in allowed if name in names)

    return parse_names
