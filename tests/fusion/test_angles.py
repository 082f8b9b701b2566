"""Angles in whole models: exact in float32, and no float64 is left."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from ropeexport.exporting.exporter import onnx_model
from ropeexport.fusion.products import exact_frequencies
from ropeexport.manifest import Source
from ropeexport.models.example import Example
from ropeexport.trt.preflight import float64_places

PROMISED = 2.0**-23
LAST = 1 << 20
SIZE = 64


class Tables(nn.Module):
    """x of ones, rotated by tables: cos + sin and cos - sin of every angle come out."""

    def __init__(self, theta: float, wide: bool, late: bool = False) -> None:
        super().__init__()
        self.late = late
        self.dtype = torch.float64 if wide else torch.float32
        exponent = torch.arange(0, SIZE, 2, dtype=self.dtype) / SIZE
        self.register_buffer("frequencies", 1.0 / theta**exponent, persistent=False)

    @staticmethod
    def moved(x):
        return torch.cat((x, x), dim=-1).unsqueeze(1)

    def forward(self, x, pos):
        angle = pos.to(self.dtype)[..., None] * self.frequencies
        if self.late:  # moved after the wave, as in FLUX
            cos, sin = (self.moved(wave(angle)) for wave in (torch.cos, torch.sin))
        else:
            cos, sin = (wave(self.moved(angle)) for wave in (torch.cos, torch.sin))
        cos, sin = cos.float(), sin.float()
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def exported(theta: float, wide: bool, dtype: torch.dtype, late: bool = False) -> ir.Model:
    inputs = {"x": torch.zeros(1, 2, 6, SIZE), "pos": torch.zeros(1, 6, dtype=dtype)}
    axes = {"x": {2: "length"}, "pos": {1: "length"}}
    module = Tables(theta, wide, late).eval()
    made = onnx_model(Example(module, inputs, axes), Source(kind="factory", name="test"))
    assert made.count.replaced == 1
    return made.model


def cos_sin(model: ir.Model, pos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotate (1, 0): what comes out is the tables themselves, unrounded."""
    x = np.zeros((1, 2, len(pos), SIZE), np.float32)
    x[..., : SIZE // 2] = 1.0
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    y = session.run(None, {"x": x, "pos": pos[None]})[0][0, 0]
    return y[:, : SIZE // 2], y[:, SIZE // 2 :]


def worst(model: ir.Model, pos: np.ndarray, theta: float) -> float:
    angle = pos.astype("f8")[:, None] * theta ** (-np.arange(0, SIZE, 2) / SIZE)
    cos, sin = cos_sin(model, pos)
    return max(np.abs(cos - np.cos(angle)).max(), np.abs(sin - np.sin(angle)).max())


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e7])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
@pytest.mark.parametrize("late", [True, False])
def test_angles_are_exact_and_float64_is_gone(theta: float, wide: bool, dtype, late) -> None:
    model = exported(theta, wide, dtype, late)
    assert not list(float64_places(model))
    pos = np.random.default_rng(0).integers(0, LAST + 1, 2000)
    kind = {torch.int64: np.int64, torch.float32: np.float32}[dtype]
    assert worst(model, pos.astype(kind), theta) <= PROMISED


def test_the_naive_graph_drifts() -> None:
    pos = np.random.default_rng(0).integers(0, LAST + 1, 2000)
    angle = pos.astype("f8")[:, None] * 1e4 ** (-np.arange(0, SIZE, 2) / SIZE)
    tables = Tables(1e4, wide=False)
    naive = (torch.from_numpy(pos).float()[:, None] * tables.frequencies).cos().numpy()
    naive_error = np.abs(naive - np.cos(angle)).max()
    ours_error = worst(exported(1e4, False, torch.int64), pos, 1e4)
    print(f"worst error to position 2^20: naive {naive_error:.2e}, ours {ours_error:.2e}")
    assert naive_error > 1e4 * PROMISED > 1e4 * ours_error


@pytest.mark.parametrize("limit", [200, 1 << 16, 1 << 20])
@pytest.mark.parametrize("theta", [1e4, 1e7])
def test_fractions_of_a_position_are_rotated_too(theta: float, limit: int) -> None:
    """Within 3 * 2^-23, as derived beside the table; whole positions alone are within 2^-23."""
    model, rng = exported(theta, True, torch.float32), np.random.default_rng(limit)
    fractions = np.concatenate([rng.random(4000), np.arange(2000) * 0.37 % 1.0])
    pos = (rng.integers(0, limit, 6000) + fractions).astype(np.float32)
    assert worst(model, pos, theta) <= 3 * PROMISED


def test_fractions_at_high_frequencies_are_left_as_written() -> None:
    class Fast(Tables):
        def __init__(self) -> None:
            super().__init__(1e4, wide=False)
            self.frequencies *= 1e4

    inputs = {"x": torch.zeros(1, 2, 6, SIZE), "pos": torch.zeros(1, 6)}
    made = onnx_model(Example(Fast(), inputs, {}), Source(kind="factory", name="test"))
    assert made.count.replaced == 1
    assert "RopeTable" not in {node.op_type for node in made.model.graph}


def test_positions_beyond_the_tables_are_nan() -> None:
    cos, _ = cos_sin(exported(1e4, True, torch.int64), np.array([3, 1 << 22]))
    assert np.isfinite(cos[0]).all()
    assert np.isnan(cos[1]).all()


def test_scaled_frequencies_are_taken_as_they_are() -> None:
    plain = 1e4 ** (-np.arange(32) / 32)
    stored = plain.astype(np.float32).astype("f8")
    np.testing.assert_array_equal(exact_frequencies(stored), plain)
    scaled = stored.copy()
    scaled[20:] /= 8.0
    np.testing.assert_array_equal(exact_frequencies(scaled), scaled)
