"""Constants and half types on the way to an angle: a file rounds where eager does."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import ropeexport


class Timestep(nn.Module):
    """A timestep between 0 and 1 as diffusers embeds it: times 1000, in the type of the data."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, timestep):
        steps = timestep.to(self.dtype) * 1000
        exponent = -math.log(10_000) * torch.arange(0, 128, dtype=torch.float32)
        angles = steps[:, None].float() * torch.exp(exponent / 128)[None]
        return torch.cat([angles.cos(), angles.sin()], -1)


class Turned(nn.Module):
    """Half arithmetic of several steps before an angle."""

    def forward(self, x):
        halves = -(x.half() * 300 + 1).unsqueeze(1) / 2 - 3
        return halves.float().sin()


class Tables(nn.Module):
    """Constants that forward computes in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        base = torch.tensor(10_000.0) ** (torch.arange(4) / 4)
        window = torch.sigmoid(torch.linspace(-3, 3, 4)) * torch.log(base + 1)
        return x * window / base * self.weight.exp()


def export(module: nn.Module, example: torch.Tensor, out) -> onnxruntime.InferenceSession:
    name = "timestep" if isinstance(module, Timestep) else "x"
    axes = {name: {0: "batch"}}
    ropeexport.export(module, {name: example}, out, dynamic_axes=axes)
    return onnxruntime.InferenceSession(out / "model.onnx")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_timesteps_are_embedded_as_eager_does(tmp_path, dtype) -> None:
    torch.manual_seed(0)
    steps = torch.rand(64)
    (found,) = export(Timestep(dtype), steps[:4], tmp_path).run(None, {"timestep": steps.numpy()})
    # eager's own angles, and their waves in float64
    rounded = (steps.to(dtype) * 1000).float()
    exponents = -math.log(10_000) * torch.arange(0, 128, dtype=torch.float32) / 128
    angles = (rounded[:, None] * torch.exp(exponents)).double().numpy()
    exact = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    assert np.abs(found - exact).max() < 2**-22  # a wave of float32, in the last two bits
    # half types matter: unrounded, the angles are others
    if dtype is torch.float16:
        unrounded = (steps.half().double() * 1000)[:, None].numpy() * np.exp(exponents.numpy())
        assert np.abs(np.cos(unrounded) - exact[:, :128]).max() > 0.1


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_half_arithmetic_before_an_angle_is_rounded_step_by_step(tmp_path, level) -> None:
    torch.manual_seed(0)
    x = torch.rand(256)
    export(Turned(), x[:4], tmp_path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
    (found,) = session.run(None, {"x": x.numpy()})
    half = x.numpy().astype(np.float16)
    step = np.float16
    angles = (-(half * step(300) + step(1)) / step(2) - step(3))[:, None].astype(np.float64)
    assert np.abs(found - np.sin(angles)).max() < 2**-22


def test_a_constant_has_eagers_bits(tmp_path) -> None:
    module = Timestep(torch.float32)
    export(module, torch.rand(4), tmp_path)
    stored = [
        onnx.numpy_helper.to_array(x) for x in onnx.load(tmp_path / "model.onnx").graph.initializer
    ]
    exponents = -math.log(10_000) * torch.arange(0, 128, dtype=torch.float32)
    wanted = torch.exp(exponents / 128).numpy()
    tables = [x.reshape(-1) for x in stored if x.size == 128]
    assert tables
    for table in tables:
        np.testing.assert_array_equal(table, wanted)


def test_weights_are_no_constants(tmp_path) -> None:
    x = torch.rand(4, 4)
    module = Tables()
    session = export(module, x, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert "weight" in {value.name for value in graph.initializer}
    assert "Exp" in {node.op_type for node in graph.node}
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-6)
