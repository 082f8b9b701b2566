"""A safetensors file of any size that takes no room: its header, and a hole for the tensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_sparse(module: nn.Module, path: Path) -> int:
    """Write a file that stands for a module's parameters, all zero; return its size in bytes."""
    entries, offset = {}, 0
    for name, parameter in module.named_parameters():
        length = parameter.numel() * parameter.element_size()
        entries[name] = {
            "dtype": _NAMES[parameter.dtype],
            "shape": list(parameter.shape),
            "data_offsets": [offset, offset + length],
        }
        offset += length
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + offset)
    return path.stat().st_size
