"""FlashInfer's rotary kernel, compiled from the headers of a FlashInfer that the user names.

Its v0.6.8 compiles with CUDA 13.0; later ones need a CCCL of their own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_int32, c_uint32, c_uint64, c_void_p
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.compiler import CompileError, Compiler
from benchmarks.gpu.contenders import Call, Contender
from benchmarks.gpu.correct import Outputs, is_rotation
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import LaunchError
from benchmarks.gpu.rivals import by_token
from benchmarks.gpu.shapes import Problem
from benchmarks.gpu.verdict import Skipped

NAME = "FlashInfer"

_HEADER = Path("include") / "flashinfer" / "pos_enc.cuh"
_TYPES = {torch.float16: 0, torch.bfloat16: 1}
_HEAD_SIZES = (64, 128, 256, 512)


class FlashinferTensor(Structure):
    """``FlashinferTensor`` of native/flashinfer.cu."""

    _fields_ = (
        ("in_", c_void_p),
        ("out", c_void_p),
        ("heads", c_uint32),
        ("token_stride", c_uint64),
        ("head_stride", c_uint64),
    )


def find_headers(named: Path | None) -> Path:
    """Return the folder that holds ``include/flashinfer``: named, or the installed package's."""
    places = [named] if named else _installed()
    found = next((place for place in places if (place / _HEADER).is_file()), None)
    if found is None:
        where = f"{named} holds no {_HEADER}" if named else "it is not installed"
        raise Skipped(f"MISSING: FlashInfer's headers: {where}; name them with --flashinfer DIR")
    return found.absolute()


def _installed() -> list[Path]:
    """Return where an installed package keeps its headers, without importing it."""
    spec = find_spec("flashinfer")
    return [Path(place) / "data" for place in (spec and spec.submodule_search_locations) or ()]


def flashinfer(device: CudaDevice, compiler: Compiler, named: Path | None) -> list[Contender]:
    """Return FlashInfer's kernel for both pairings; :class:`Skipped` where it is not at hand."""
    headers = find_headers(named)
    try:
        rotate = load(compiler.flashinfer(headers))
    except CompileError as error:
        raise Skipped(
            f"{headers}: {error}; the headers of v0.6.8 compile with CUDA 13.0"
        ) from error
    return [
        Contender(
            NAME if pairing == "interleaved" else f"{NAME}, halves",
            partial(_call, device, rotate, pairing == "interleaved"),
            partial(is_rotation, pairing=pairing),
            pairing,
            "tables",
        )
        for pairing in ("interleaved", "half")
    ]


def load(path: Path) -> Callable[..., int]:
    """Return the library's one function."""
    library = ctypes.CDLL(str(path))
    tensor = POINTER(FlashinferTensor)
    library.ropeexport_flashinfer.argtypes = [
        *(c_int32, tensor, tensor, c_void_p, c_void_p, c_uint32, c_uint32, c_int32, c_void_p)
    ]
    function: Callable[..., int] = library.ropeexport_flashinfer
    return function


def _call(
    device: CudaDevice, rotate: Callable[..., int], interleaved: bool, problem: Problem
) -> Call:
    if problem.q.dtype not in _TYPES or problem.q.shape[-1] not in _HEAD_SIZES:
        given = f"{problem.q.dtype} with heads of {problem.q.shape[-1]}"
        raise Skipped(f"FlashInfer takes float16 and bfloat16 with heads of 64 to 512, not {given}")
    inputs = tuple(by_token(x) for x in (problem.q, problem.k))
    outputs = tuple(torch.empty_like(x) for x in inputs)
    q, k = (_described(x, out) for x, out in zip(inputs, outputs, strict=True))
    table, positions = cos_sin(problem), token_positions(problem)
    tokens, head_size = positions.numel(), problem.q.shape[-1]
    kind = _TYPES[problem.q.dtype]

    def run(held: tuple[Tensor, ...] = inputs) -> Outputs:
        pointers = (table.data_ptr(), positions.data_ptr())
        sizes = (tokens, head_size, int(interleaved))
        status = rotate(kind, byref(q), byref(k), *pointers, *sizes, device.stream())
        if status != 0:
            raise LaunchError(f"FlashInfer, {[tuple(x.shape) for x in held]}: status {status}")
        return outputs[0].transpose(1, 2), outputs[1].transpose(1, 2)

    tables = problem.cos.nbytes + problem.sin.nbytes
    return Call(run, problem.data_bytes + tables + positions.nbytes)


def _described(x: Tensor, out: Tensor) -> FlashinferTensor:
    """Describe (B, L, H, D) as (B * L, H, D)."""
    return FlashinferTensor(x.data_ptr(), out.data_ptr(), x.shape[2], x.stride(1), x.stride(2))


def cos_sin(problem: Problem) -> Tensor:
    """Return (Bp * L + 1, D) rows of cosines and sines.

    The last row is never asked for: for pairs of neighbours the kernel loads twice the cosines and
    sines that it uses, beyond the end of the last row that it was given.
    """
    rows = torch.cat([problem.cos, problem.sin], dim=-1).flatten(0, 2)
    return torch.cat([rows, torch.zeros_like(rows[:1])])


def token_positions(problem: Problem) -> Tensor:
    """Return the row of each token (B * L), int32."""
    batch, length = problem.q.shape[0], problem.q.shape[2]
    device = problem.q.device
    if problem.cos.shape[0] == 1:
        return torch.arange(length, device=device, dtype=torch.int32).repeat(batch)
    return torch.arange(batch * length, device=device, dtype=torch.int32)
