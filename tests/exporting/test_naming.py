"""Names of inputs, outputs and weights: no two alike, whatever the module calls its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import user_models
from torch import nn

import ropeexport
from ropeexport.bench.peers import export_plain
from ropeexport.errors import ExportError, UsageError
from ropeexport.models.example import Example
from ropeexport.testing import assert_parity

X = torch.arange(8.0).reshape(2, 4)
DYNAMIC = {"x": {0: "batch"}}


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin = nn.Linear(4, 4)

    def forward(self, x):
        return self.lin(x)


class NamedLikeAWeight(Linear):
    def forward(self, x):
        return {"lin": {"weight": self.lin(x) * 3}, "z": x}


class NamedOut(nn.Module):
    def forward(self, out):
        return out * 2


class TreeNamedOut(nn.Module):
    def forward(self, out, x):
        return out["y"] + x * 3 + out["1"], x


class Weights(nn.Module):
    """Weights with torch's names of what lies between, one of them returned as it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.add, self.mul, self.bias = (nn.Parameter(torch.randn(4)) for _ in range(3))

    def forward(self, x):
        return (x + 1.5) * self.add + self.bias, x * self.mul, self.bias


class Flat(nn.Module):
    def forward(self, x):
        return {"logits": x * 2, "hidden": x + 3}


class One(nn.Module):
    def forward(self, x):
        return {"logits": x * 2}


class Dotted(nn.Module):
    def forward(self, x):
        return {"a.b": x * 3, "a": {"b": x + 2}}


class Plain(nn.Module):
    def forward(self, x):
        return x * 2, x + 3


class Fields(NamedTuple):
    logits: torch.Tensor
    hidden: torch.Tensor


class InFields(nn.Module):
    def forward(self, x):
        return Fields(x * 2, x + 3)


class Twice(nn.Module):
    def forward(self, x):
        y = x * 3
        return y, y


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (Linear(), ["out"]),
        (NamedLikeAWeight(), ["out.lin.weight", "out.z"]),
        (Weights(), ["out.0", "out.1", "out.2"]),
        (Flat(), ["logits", "hidden"]),
        (InFields(), ["logits", "hidden"]),
        (One(), ["out"]),
        (Dotted(), ["a.b", "a.b_0"]),
        (Plain(), ["mul", "add_4"]),
        (Twice(), ["out.0", "out.1"]),
    ],
)
def test_outputs_are_named_beside_weights(tmp_path: Path, module: nn.Module, names) -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    made = ropeexport.export(module, {"x": x}, tmp_path, dynamic_axes=DYNAMIC)
    assert [spec.name for spec in made.manifest.model.outputs] == names
    graph = onnx.load(tmp_path / "model.onnx").graph
    computed = [name for node in graph.node for name in node.output]
    everything = [*computed, *(x.name for x in (*graph.input, *graph.initializer))]
    assert len(set(everything)) == len(everything)
    assert made.check(cases=3).verdict == "PASS"
    assert ropeexport.check(tmp_path, module=type(module), cases=3).verdict == "PASS"


@pytest.mark.parametrize("axes", [{}, {0: "batch"}])
def test_an_argument_may_be_called_out(tmp_path: Path, axes: dict[int, str]) -> None:
    one = ropeexport.export(NamedOut(), {"out": X}, tmp_path / "1", dynamic_axes={"out": axes})
    assert [spec.name for spec in one.manifest.model.inputs] == ["out"]
    assert [spec.name for spec in one.manifest.model.outputs] == ["out_1"]
    assert one.check(cases=3).verdict == "PASS"
    given = {"out": {"y": X, "1": X + 1}, "x": X + 2}
    tree = ropeexport.export(
        TreeNamedOut(), given, tmp_path / "2", dynamic_axes={"x": axes, "out": axes}
    )
    assert [spec.name for spec in tree.manifest.model.inputs] == ["out.y", "out.1", "x"]
    assert [spec.name for spec in tree.manifest.model.outputs] == ["out_1.0", "out_1.1"]
    assert tree.check(cases=3).verdict == "PASS"
    feeds = {"out.y": X.numpy(), "out.1": X.numpy() + 1, "x": X.numpy() + 2}
    total, x = onnxruntime.InferenceSession(tmp_path / "2" / "model.onnx").run(None, feeds)
    assert np.array_equal(total, X.numpy() * 5 + 7)
    assert np.array_equal(x, X.numpy() + 2)


@pytest.mark.parametrize("name", ["lin.weight", "lin.bias"])
def test_a_given_name_that_a_weight_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"output names: '{name}' is a weight or a buffer of the"):
        ropeexport.export(Linear(), {"x": X}, tmp_path / "out", output_names=[name])
    assert not (tmp_path / "out").exists()


class Masked(nn.Module):
    """Its own mask is a default: what is given takes its place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(4))

    def forward(self, x, mask=None):
        return x * (self.mask if mask is None else mask)


class BothMasks(Masked):
    def forward(self, x, mask):
        return x * mask + self.mask


def test_an_argument_named_like_a_weight_needs_another_name(tmp_path: Path) -> None:
    given = {"x": X, "mask": torch.full((4,), 2.0)}
    with pytest.raises(UsageError, match=r"inputs: 'mask' is a weight or a buffer .* another name"):
        ropeexport.export(BothMasks(), given, tmp_path / "out", dynamic_axes=DYNAMIC)
    made = ropeexport.export(Masked(), given, tmp_path / "out", dynamic_axes=DYNAMIC)
    assert made.check(cases=3).verdict == "PASS"


class Optional(nn.Module):
    def forward(self, x, past, names, scale=1.0):
        return x * scale + len(past) + len(names)


@pytest.mark.parametrize("empty", [[], {}, ()])
def test_an_empty_argument_is_passed_on(tmp_path: Path, empty) -> None:
    given = {"x": X, "past": empty, "names": {}}
    made = ropeexport.export(Optional(), given, tmp_path, dynamic_axes=DYNAMIC)
    assert [spec.name for spec in made.manifest.model.inputs] == ["x"]
    assert made.check(cases=3).verdict == "PASS"
    assert ropeexport.check(tmp_path, module=Optional(), cases=3).verdict == "PASS"
    assert ropeexport.check(tmp_path, module=Optional, cases=3).verdict == "PASS"
    alone = Example(Optional(), given, DYNAMIC)
    assert ropeexport.check(tmp_path, module=alone, cases=3).verdict == "PASS"


class Fixed(nn.Module):
    """A weight has torch's name of what lies in a fixed argument."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table_0 = nn.Parameter(torch.randn(4))

    def forward(self, x, table, scale):
        return (x @ table[0] + table[1]["shift"]) * scale + self.table_0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensors_in_fixed_arguments_are_in_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = X.to(dtype)
    table = [torch.randn(4, 4).to(dtype), {"shift": x}]  # of the input itself: fixed all the same
    example = Example(Fixed().to(dtype), {"x": x}, {}, constants={"table": table, "scale": 0.5})
    made = ropeexport.export(example, out=tmp_path)
    assert [spec.name for spec in made.manifest.model.inputs] == ["x"]
    assert made.check(cases=3).verdict == "PASS"
    assert ropeexport.check(tmp_path, module=example, cases=3).verdict == "PASS"
    with pytest.raises(UsageError, match=r"pass ropeexport.Example\(module, inputs"):
        ropeexport.check(tmp_path, module=example.module)
    with torch.no_grad():
        weight = example.module.table_0.double().numpy()
    other = (X + 1).to(dtype).numpy()
    (found,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": other})
    fixed = [table[0].double().numpy(), x.double().numpy()]
    assert_parity(found, lambda x: (x @ fixed[0] + fixed[1]) * 0.5 + weight, inputs={"x": other})


def test_a_plain_export_has_the_names_of_the_inputs(tmp_path: Path) -> None:
    made = Example(*user_models.growing_cache())
    export_plain(made, tmp_path / "cache.onnx")
    names = [x.name for x in onnx.load(tmp_path / "cache.onnx").graph.input]
    assert names == ["x", "past.key", "past.value", "mask"]
    table = [torch.ones(4, 4), {"shift": X}]
    fixed = Example(Fixed(), {"x": X}, {}, constants={"table": table, "scale": 2.0})
    export_plain(fixed, tmp_path / "fixed.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "fixed.onnx")
    assert [x.name for x in session.get_inputs()] == ["x"]


class Silent(Linear):
    def forward(self, x):
        return (), None


def test_a_forward_that_returns_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Silent: cannot be traced: expected a forward that ret"):
        ropeexport.export(Silent(), {"x": X}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
