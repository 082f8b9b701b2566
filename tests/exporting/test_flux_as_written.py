"""FLUX's embedding, rope and attention exported as they stand, none of ropeexport's own in them.

Source: black-forest-labs/flux ``src/flux/math.py`` and ``src/flux/modules/layers.py`` (EmbedND),
einops' rearrange written in torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from seed_functions import seed_attention, seed_rope
from torch import Tensor, nn

import ropeexport
from ropeexport.exporting.exporter import onnx_model
from ropeexport.manifest import Source
from ropeexport.models.example import Example
from ropeexport.trt.preflight import float64_places

AXES_DIM = (4, 6, 6)
PROMISED = 2.0**-23
LAST = 1 << 20
AXES = {name: {0: "batch", 2: "length"} for name in "qkv"} | {"ids": {0: "batch", 1: "length"}}


class EmbedND(nn.Module):
    def __init__(self, dim: int, theta: int, axes_dim: tuple[int, ...]) -> None:
        super().__init__()
        self.dim, self.theta, self.axes_dim = dim, theta, axes_dim

    def forward(self, ids: Tensor) -> Tensor:
        n_axes = ids.shape[-1]
        emb = torch.cat(
            [seed_rope(ids[..., i], self.axes_dim[i], self.theta) for i in range(n_axes)], dim=-3
        )
        return emb.unsqueeze(1)


class Flux(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pe_embedder = EmbedND(sum(AXES_DIM), 10_000, AXES_DIM)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
        return seed_attention(q, k, v, self.pe_embedder(ids))


class Turned(Flux):
    """What the embedding makes of (1, 0): cosine and sine of each angle, unrounded."""

    def forward(self, x, ids):
        pe, pairs = self.pe_embedder(ids), x.float().reshape(*x.shape[:-1], -1, 1, 2)
        out = pe[..., 0] * pairs[..., 0] + pe[..., 1] * pairs[..., 1]
        return out.reshape(*x.shape).type_as(x)


def inputs(batch: int, length: int, ids_type: torch.dtype, data: torch.dtype) -> dict:
    torch.manual_seed(length)
    given = {name: torch.randn(batch, 2, length, 16).to(data) for name in "qkv"}
    return given | {"ids": torch.randint(0, 500, (batch, length, 3)).to(ids_type)}


def exported(module: nn.Module, given: dict, axes: dict) -> ir.Model:
    example = Example(module.eval(), given, axes)
    made = onnx_model(example, Source(kind="factory", name="test"))
    assert (made.count.found, made.count.replaced) == (1, 1)
    model = made.model
    types = {node.op_type for node in model.graph}
    assert "RopeTable" in types
    assert "Einsum" not in types
    assert not list(float64_places(model))
    return model


@pytest.mark.parametrize(
    ("ids_type", "data"),
    [
        (torch.int64, torch.float32),
        (torch.int32, torch.float32),
        (torch.float32, torch.float32),
        (torch.float32, torch.float16),
        (torch.int64, torch.bfloat16),
    ],
)
def test_it_equals_eager_at_other_sizes(ids_type: torch.dtype, data: torch.dtype) -> None:
    model = exported(Flux(), inputs(2, 6, ids_type, data), AXES)
    for batch, length in ((1, 9), (3, 1), (2, 6)):
        given = inputs(batch, length, ids_type, data)
        eager = Flux()(**given)
        ours = torch.from_numpy(run(model, given)).to(eager.dtype)
        assert ours.shape == eager.shape
        error = (ours.double() - eager.double()).abs().max() / eager.double().abs().max()
        assert error <= 4 * torch.finfo(data).eps


def test_the_public_export_takes_it_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Flux()
    made = ropeexport.export(
        module, inputs(2, 6, torch.int64, torch.float32), tmp_path,
        dynamic_axes=AXES, axes={"length": (1, 8, 40)},
    )  # fmt: skip
    assert (made.found, made.replaced) == (1, 1)
    assert made.manifest.model.max_position is not None
    report = made.check(runtimes=["onnxruntime"])
    assert report.verdict == "PASS", report.reason


def run(model: ir.Model, given: dict) -> np.ndarray:
    """Return what the file computes; bfloat16, which onnxruntime has no kernels for, by onnx."""
    proto = ir.to_proto(model)
    if given["q"].dtype is not torch.bfloat16:
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        return session.run(None, {name: x.numpy() for name, x in given.items()})[0]
    bfloat16 = ir.DataType.BFLOAT16.numpy()
    feed = {
        name: x.float().numpy().astype(bfloat16) if x.dtype is torch.bfloat16 else x.numpy()
        for name, x in given.items()
    }
    return np.asarray(ReferenceEvaluator(proto).run(None, feed)[0]).astype(np.float32)


@pytest.mark.parametrize("ids_type", [torch.int64, torch.int32, torch.float32])
def test_its_angles_are_exact_at_long_positions(ids_type: torch.dtype) -> None:
    given = {"x": torch.zeros(1, 1, 6, 16), "ids": torch.zeros(1, 6, 3, dtype=ids_type)}
    model = exported(Turned(), given, {"x": {2: "length"}, "ids": {1: "length"}})
    ids = np.random.default_rng(0).integers(0, LAST + 1, (1, 2000, 3))
    x = np.zeros((1, 1, 2000, 16), np.float32)
    x[..., ::2] = 1.0
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    feed = {"x": x, "ids": torch.from_numpy(ids).to(ids_type).numpy()}
    y = session.run(None, feed)[0][0, 0]
    angles = np.concatenate(
        [ids[0, :, [i]].T * 1e4 ** (-np.arange(0, d, 2) / d) for i, d in enumerate(AXES_DIM)], -1
    )
    worst = max(np.abs(y[:, ::2] - np.cos(angles)).max(), np.abs(y[:, 1::2] - np.sin(angles)).max())
    assert worst <= PROMISED
