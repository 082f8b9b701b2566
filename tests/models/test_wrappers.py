"""Modules around a module: bound by the inner signature, weights by their own names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import ropeexport
from ropeexport.errors import UsageError
from ropeexport.models.example import Example
from ropeexport.models.wrappers import argument_names, named_forward
from ropeexport.testing import assert_parity

AXES = {"x": {0: "batch", 1: "length"}, "y": {0: "batch", 1: "length"}}


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.linspace(1, 2, 4))

    def forward(self, x, y=None):
        x = self.linear(x) * self.scale
        return x if y is None else x - y


class Peft(nn.Module):
    """The shape of peft's ``PeftModel``: a tuner around the model, either takes anything."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = Tuner(model)

    def get_base_model(self) -> nn.Module:
        return self.base_model.model

    def forward(self, *args, **kwargs):
        return self.get_base_model()(*args, **kwargs)


class Tuner(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


class HalfNamed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.anything = model

    def forward(self, x, **kwargs):
        return self.anything(x, **kwargs)


class Unnamed(HalfNamed):
    def forward(self, *args):
        return self.anything(*args)


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Inner()


def compiled_in_place() -> nn.Module:
    module = Inner()
    module.compile()
    return module


class AndMore(nn.DataParallel):
    def forward(self, *inputs, **kwargs):
        return super().forward(*inputs, **kwargs) * 2 + 1


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, args, out: out * 2 + 1)
    return module


def hooked_before(module: nn.Module) -> nn.Module:
    """Each of its inputs is changed, so that they differ by another number."""
    module.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"y": -kwargs["y"]}), with_kwargs=True
    )
    return module


WRAPPED = {
    "compiled": (lambda: torch.compile(Inner()), ""),
    "compiled in place": (compiled_in_place, ""),
    "data parallel": (lambda: nn.DataParallel(Inner()), ""),
    "parallel and compiled": (lambda: torch.compile(nn.DataParallel(Inner())), ""),
    "peft": (lambda: Peft(Inner()), "base_model.model."),
    "peft, compiled": (lambda: torch.compile(Peft(Inner())), "base_model.model."),
    "peft of a compiled one": (lambda: Peft(torch.compile(Inner())), "base_model.model._orig_mod."),
    "half named": (lambda: HalfNamed(Inner()), "anything."),
    "inference mode": (made_in_inference_mode, ""),
    "symbolic trace": (lambda: torch.fx.symbolic_trace(Inner()), ""),
}


def kwargs(batch: int = 2, length: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(batch)
    return {name: torch.randn(batch, length, 4) for name in "xy"}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_inside_is_exported(tmp_path, name) -> None:
    torch.manual_seed(0)
    make, prefix = WRAPPED[name]
    module = make()
    forward = module.__dict__.get("forward")
    weight = next(x for n, x in module.named_parameters() if n.endswith("linear.weight"))
    made = ropeexport.export(module, kwargs(), tmp_path, dynamic_axes=AXES)
    assert [spec.name for spec in made.manifest.model.inputs] == ["x", "y"]
    inside = {x.name for x in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert {f"{prefix}linear.weight", f"{prefix}linear.bias", f"{prefix}scale"} <= inside
    # the module is the caller's, and is left as it was
    assert module.__dict__.get("forward") is forward
    assert module.training
    assert next(x for n, x in module.named_parameters() if n.endswith("linear.weight")) is weight
    given = {n: x.numpy() for n, x in kwargs(1, 5).items()}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    state = {n.split(".")[-1]: x.detach().double().numpy() for n, x in module.state_dict().items()}

    def exact(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        return [(x @ state["weight"].T + state["bias"]) * state["scale"] - y]

    assert_parity(session.run(None, given), exact, inputs=given)


@pytest.mark.parametrize("name", ["compiled", "data parallel", "peft", "inference mode"])
def test_check_takes_the_wrapper(tmp_path, name) -> None:
    module = WRAPPED[name][0]()
    made = ropeexport.export(module, kwargs(), tmp_path, dynamic_axes=AXES)
    assert made.check(cases=3).verdict == "PASS"
    assert ropeexport.check(tmp_path, module=module, cases=3).verdict == "PASS"


@pytest.mark.parametrize(
    ("make", "scale", "shift", "sign"),
    [
        (lambda: AndMore(Inner()), 2, 1, 1),
        (lambda: hooked(nn.DataParallel(Inner())), 2, 1, 1),
        (lambda: hooked(nn.DataParallel(AndMore(Inner()))), 4, 3, 1),
        (lambda: hooked_before(nn.DataParallel(Inner())), 1, 0, -1),
        (lambda: torch.compile(hooked(Inner())), 2, 1, 1),
    ],
)
def test_what_a_wrapper_adds_is_exported(tmp_path, make, scale, shift, sign) -> None:
    module = make()
    made = ropeexport.export(module, kwargs(), tmp_path, dynamic_axes=AXES)
    given = {n: x.numpy() for n, x in kwargs(1, 5).items()}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    state = {n.split(".")[-1]: x.detach().double().numpy() for n, x in module.state_dict().items()}

    def exact(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        inner = (x @ state["weight"].T + state["bias"]) * state["scale"] - sign * y
        return [inner * scale + shift]

    assert_parity(session.run(None, given), exact, inputs=given)
    assert made.check(cases=3).verdict == "PASS"
    assert ropeexport.check(tmp_path, module=module, cases=3).verdict == "PASS"


def test_a_factorys_tuple_is_bound_by_the_inner_signature(tmp_path) -> None:
    place = Path(tmp_path / "factory.py")
    place.write_text(
        "import torch\n"
        "from models.test_wrappers import AXES, Inner, Peft, kwargs\n"
        "def make():\n"
        "    return Peft(Inner()), tuple(kwargs().values()), AXES\n"
    )
    made = ropeexport.export(f"{place}:make", out=tmp_path / "out")
    assert [spec.name for spec in made.manifest.model.inputs] == ["x", "y"]


def test_names_of_the_arguments() -> None:
    assert argument_names(Inner()) == ["x", "y"]
    assert argument_names(Peft(Inner())) == ["x", "y"]
    assert argument_names(HalfNamed(Inner())) == ["x", "y"]
    assert argument_names(nn.DataParallel(Peft(Inner()))) == ["x", "y"]


def test_a_forward_of_the_callers_own_is_put_back() -> None:
    module, forward = Peft(Inner()), lambda **given: given["x"]
    module.forward = forward
    with named_forward(module, ["x"]):
        assert module.forward is not forward
        assert bool((module(x=torch.ones(2)) == 1).all())
    assert module.forward is forward


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.jit.script(Inner()), "got one of torch.jit, which torch.export does not"),
        (lambda: torch.jit.trace(Inner(), torch.ones(1, 4)), "got one of torch.jit"),
        (lambda: HalfNamed(torch.jit.script(Inner())), "got one of torch.jit"),
        (lambda: hooked(torch.compile(Inner())), "expected hooks on the module that is compiled"),
        (lambda: Unnamed(Inner()), r"'x': Unnamed.forward takes no argument of that name .*\*args"),
        (lambda: nn.Linear(4, 4), r"'x': Linear.forward takes no argument of that name .* input"),
    ],
)
def test_what_cannot_be_bound_gets_a_line(tmp_path, make, said) -> None:
    with pytest.raises(UsageError, match=said):
        ropeexport.export(make(), kwargs(), tmp_path / "out", dynamic_axes=AXES)
    assert not (tmp_path / "out").exists()


def test_distributed_data_parallel_is_taken_apart(tmp_path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        inner = Inner()
        module = nn.parallel.DistributedDataParallel(inner)
        assert Example(module, kwargs(), AXES).module is inner
    finally:
        torch.distributed.destroy_process_group()
