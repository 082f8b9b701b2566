"""A root mean square norm is one node in the file, where it is one, and computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from ropeexport.exporting.exporter import onnx_model
from ropeexport.manifest import Source
from ropeexport.models.example import Example
from ropeexport.modules import RMSNorm

AXES = {"x": {0: "batch", 1: "length"}}


class LlamaNorm(nn.Module):
    """Scaled after the cast back, the scale first, as Llama writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64))

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * wide.to(x.dtype)


class GemmaNorm(nn.Module):
    """Scaled in float32, before the cast back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64))

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return (wide * (1.0 + self.weight.float())).type_as(x)


class NormOverTheLength(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5) * 2.0


def exported(module: nn.Module, dtype: torch.dtype) -> ir.Model:
    example = Example(module.eval(), {"x": torch.randn(2, 3, 64).to(dtype)}, AXES)
    return onnx_model(example, Source(kind="factory", name="test")).model


def norms(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "RMSNormalization"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("make", [lambda: RMSNorm(64), LlamaNorm])
def test_a_norm_is_one_node(make, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = make().to(dtype)
    model = exported(module, dtype)
    assert [node.op_type for node in model.graph] == ["RMSNormalization"]
    assert norms(model)[0].attributes["stash_type"].as_int() == ir.DataType.FLOAT
    assert "forward" in norms(model)[0].metadata_props["pkg.torch.onnx.stack_trace"]
    x = torch.randn(3, 5, 64).to(dtype)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    ours = session.run(None, {"x": x.numpy()})[0]
    with torch.no_grad():
        eager = module(x).numpy()
    assert np.abs(ours - eager).max() <= 4 * torch.finfo(dtype).eps * np.abs(eager).max()


@pytest.mark.parametrize(("dtype", "count"), [(torch.float32, 1), (torch.float16, 0)])
def test_a_scale_of_another_type_stays(dtype: torch.dtype, count: int) -> None:
    module = GemmaNorm().to(dtype)
    model = exported(module, dtype)
    assert len(norms(model)) == count
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_a_norm_of_another_axis_stays() -> None:
    assert not norms(exported(NormOverTheLength(), torch.float32))
