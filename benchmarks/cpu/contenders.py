"""What is timed on a CPU: each function sets one contender up and returns its one run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ropeexport.builtin_models import Options, flux_attention
from ropeexport.example import Example, traceable_inputs
from ropeexport.modules import attention
from ropeexport.op import rope
from ropeexport.reference import rotate

Work = Callable[[], np.ndarray]


class PlainAttention(torch.nn.Module):
    """FLUX's attention in plain torch operations, as a user without ropeexport exports it."""

    def forward(self, q, k, v, pe):  # noqa: D102
        q, k = rotate(q, pe), rotate(k, pe)
        x = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return x.transpose(1, 2).flatten(2)


def eager(**sizes: int) -> Work:
    """Time eager torch."""
    torch.set_num_threads(_threads())
    inputs = [torch.from_numpy(x) for x in _inputs(**sizes).values()]

    def work() -> np.ndarray:
        with torch.inference_mode():
            return attention(*inputs).numpy()

    return work


def ours(**sizes: int) -> Work:
    """Time ropeexport's file in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        export_ours(Path(folder), **sizes)()
        return _session(Path(folder) / "model.onnx", _inputs(**sizes))


def plain(**sizes: int) -> Work:
    """Time the file of a plain ``torch.onnx.export`` in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        export_plain(Path(folder), **sizes)()
        return _session(Path(folder) / "model.onnx", _inputs(**sizes))


def export_ours(folder: Path, heads: int, head_dim: int, length: int) -> Callable[[], None]:
    """Return the export by ropeexport."""
    from ropeexport.exporter import export_example
    from ropeexport.manifest import Source

    example = _example(heads, head_dim, length)
    source = Source(kind="builtin", name="flux-attention")

    def work() -> None:
        export_example(example, source, folder, force=True)

    return work


def export_plain(folder: Path, heads: int, head_dim: int, length: int) -> Callable[[], None]:
    """Return the export of the same maths by torch alone."""
    example = _example(heads, head_dim, length)
    dims = {
        name: {axis: torch.export.Dim(label) for axis, label in axes.items() if label != "pe_heads"}
        for name, axes in example.dynamic_axes.items()
    }
    # plain torch compares the sizes of pe with those of q: their axes must be one, or of size 1
    inputs = traceable_inputs(example)
    inputs["pe"] = inputs["pe"][:, :1]
    dims["pe"][0] = dims["q"][0]

    def work() -> None:
        torch.onnx.export(
            PlainAttention().eval(),
            kwargs=inputs,
            f=str(folder / "model.onnx"),
            dynamo=True,
            opset_version=23,
            verbose=False,
            dynamic_shapes=dims,
        )

    return work


def _example(heads: int, head_dim: int, length: int) -> Example:
    return flux_attention(Options(heads=heads, head_dim=head_dim, length=length))


def _inputs(heads: int, head_dim: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (1, heads, length, head_dim)
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name in ("q", "k", "v")}
    return arrays | {"pe": rope(torch.arange(length).view(1, 1, -1), head_dim, 1e4).numpy()}


def _session(path: Path, inputs: dict[str, np.ndarray]) -> Work:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def _threads() -> int:
    return int(os.environ.get("BENCH_THREADS", os.cpu_count() or 1))
