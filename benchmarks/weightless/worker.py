"""One export in a process of its own, so that its peak memory is its own.  Prints JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropeexport import export
from ropeexport.dtypes import float_type
from ropeexport.machine import memory_mb
from ropeexport.models.example import Example
from ropeexport.models.hub.load import diffusers_example
from ropeexport.weights.references import skeleton

CLASS = "FluxTransformer2DModel"


def main(how: str, folder: Path, config: dict[str, Any]) -> None:
    """Export by ``ours``, ``plain`` or from ``memory``; print seconds, peak megabytes and sizes."""
    warnings.simplefilter("ignore")
    if how == "prepare":
        module = diffusers_example(CLASS, config, torch.float16, skeleton).module
        print(json.dumps({"weights_bytes": write_sparse(module, folder / "model.safetensors")}))
        return
    start = time.perf_counter()
    own = _WAYS[how](folder, config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    size = (folder / "model.onnx").stat().st_size
    row = {"seconds": time.perf_counter() - start, "peak_mb": peak, "onnx_bytes": size}
    print(json.dumps(row | own))


def _ours(folder: Path, config: dict[str, Any]) -> dict[str, float]:
    made = diffusers_example(CLASS, config, torch.float16, skeleton)
    example = Example(
        made.module, made.inputs, made.dynamic_axes, constants=made.constants, weights=folder
    )
    export(example, out=folder, force=True)
    return {}


def _from_memory(folder: Path, config: dict[str, Any]) -> dict[str, float]:
    """Export a module that is in memory already: what the export adds to it is what counts."""
    made = diffusers_example(CLASS, config, torch.float16)
    start = time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = memory_mb("VmRSS")
    export(made, out=folder, force=True)
    peak = memory_mb()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak, "added_mb": peak - before}


def _plain(folder: Path, config: dict[str, Any]) -> dict[str, float]:
    # too large a model is to fail here, and not to end another process of the machine
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_DATA, (available, available))
    made = diffusers_example(CLASS, config, torch.float16)
    program = torch.onnx.export(
        made.module, kwargs=made.inputs | made.constants, dynamo=True, verbose=False
    )
    assert program is not None  # only the old exporter returns None
    program.save(folder / "model.onnx", external_data=True)
    return {}


def write_sparse(module: nn.Module, path: Path) -> int:
    """Write a safetensors file that stands for a module's parameters, and return its size in bytes.

    It takes no room on the disk: a header, and a hole for the tensors, which are all zero.
    """
    entries, offset = {}, 0
    for name, parameter in module.named_parameters():
        length = parameter.numel() * parameter.element_size()
        entries[name] = {
            "dtype": float_type(str(parameter.dtype).removeprefix("torch.")).safetensors,
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


_WAYS = {"ours": _ours, "plain": _plain, "memory": _from_memory}


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
