"""An exported folder in a module's place: what others ask a module for, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

import ropeexport
from ropeexport import manifest
from ropeexport.errors import RopeExportError, UsageError
from ropeexport.inference.module import ExportedModule

Pair = namedtuple("Pair", "low high")


class Config(dict):
    @property
    def channels(self) -> int:
        return self["channels"]


class Denoiser(nn.Module):
    """As diffusers writes one: a config, plain attributes, a choice of class or tuple."""

    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.config = Config(channels=8)
        self.out_channels = 8
        self.linear = nn.Linear(8, 8)

    def enable_lora(self) -> None:
        raise AssertionError("of no use to an export")

    def forward(self, sample, timestep, guidance=None, attention_kwargs=None, return_dict=True):
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        y = self.linear(sample) * timestep[:, None]
        return Transformer2DModelOutput(sample=y) if return_dict else (y,)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser().eval()


@pytest.fixture(scope="module")
def folder(denoiser, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("denoiser")
    kwargs = {"sample": torch.zeros(2, 8), "timestep": torch.zeros(2), "return_dict": False}
    axes = {"sample": {0: "batch"}, "timestep": {0: "batch"}}
    ropeexport.export(denoiser, kwargs, made, dynamic_axes=axes)
    return made


@pytest.fixture
def module(folder, denoiser) -> ExportedModule:
    return ropeexport.load(folder, device="cpu").as_module(like=denoiser)


def test_it_stands_for_the_module(module, denoiser) -> None:
    assert isinstance(module, Denoiser)
    assert isinstance(module, nn.Module)
    assert type(module) is ExportedModule
    assert module.config is denoiser.config
    assert module.out_channels == 8
    assert module._no_split_modules == ("Block",)
    assert (module.dtype, module.device) == (torch.float32, torch.device("cpu"))
    (nothing,) = module.parameters()  # which others ask for its device and type
    assert module.nothing is nothing  # accelerate's hooks ask by its name
    assert (nothing.numel(), nothing.dtype, nothing.device) == (0, module.dtype, module.device)
    assert not module.training
    assert "onnxruntime" in repr(module)
    with module.cache_context("cond"):
        pass


def test_it_is_called_like_the_module(module, denoiser) -> None:
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    x, t = torch.randn(3, 8), torch.rand(3)
    with torch.no_grad():
        wanted = denoiser(x, t).sample
        for found in (module(x, t), module(x, timestep=t, return_dict=True)):
            assert isinstance(found, Transformer2DModelOutput)
            torch.testing.assert_close(found.sample, wanted)
        (found,) = module(sample=x, timestep=t, guidance=None, return_dict=False)
        torch.testing.assert_close(found, wanted)
        (found,) = module(x, t, None, {}, False)
        torch.testing.assert_close(found, wanted)


def test_floats_are_cast_and_whole_numbers_are_not_lost(module, denoiser) -> None:
    x = torch.randn(3, 8)
    half, whole = x.half(), torch.tensor([1, 2, 3])
    with torch.no_grad():
        found, wanted = module(half, whole).sample, denoiser(half.float(), whole.float()).sample
    torch.testing.assert_close(found, wanted)
    with pytest.raises(UsageError, match=r"sample: expected torch\.float32, got torch\.complex64"):
        module(x.to(torch.complex64), whole)


def test_a_float_is_no_position(tmp_path) -> None:
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(8, 4)

        def forward(self, ids):
            return self.table(ids)

    embeds = Embeds()
    ropeexport.export(embeds, {"ids": torch.zeros(3, dtype=torch.int64)}, tmp_path / "out")
    module = ropeexport.load(tmp_path / "out", device="cpu").as_module(like=embeds)
    short = torch.tensor([1, 2, 3], dtype=torch.int32)
    assert torch.equal(module(short), embeds(short).detach())
    with pytest.raises(UsageError, match=r"ids: expected torch\.int64, got torch\.float32"):
        module(torch.zeros(3))


def test_whole_numbers_that_a_type_does_not_hold_are_refused(tmp_path) -> None:
    class Sum(nn.Module):
        def forward(self, time, ids):
            return time + 1, ids + 1

    given = {"time": torch.zeros(2).half(), "ids": torch.zeros(2, dtype=torch.int32)}
    ropeexport.export(Sum(), given, tmp_path / "out")
    module = ropeexport.load(tmp_path / "out", device="cpu").as_module()
    time, ids = module(torch.tensor([2048, 3]), torch.tensor([2**31 - 2, -5]))
    assert time[1] == 4
    assert ids.tolist() == [2**31 - 1, -4]
    with pytest.raises(UsageError, match=r"time: .* whole numbers that it does not hold"):
        module(torch.tensor([2049, 3]), ids)
    with pytest.raises(UsageError, match=r"ids: .* whole numbers that it does not hold"):
        module(time, torch.tensor([2**32, 0]))


def test_an_argument_that_is_left_out_is_not_another_one(tmp_path) -> None:
    """Its default is what the module would compute with, and not what the file does."""

    class Scaled(nn.Module):
        def forward(self, x, scale=1.0, causal=None, table=torch.ones(1)):  # noqa: B008
            return x * scale * table

    given = {"x": torch.zeros(2), "scale": 2.0, "causal": False}
    ropeexport.export(Scaled(), given, tmp_path / "out")
    model = ropeexport.load(tmp_path / "out", device="cpu")
    module = model.as_module(like=Scaled())
    assert module(torch.ones(2), scale=2.0).tolist() == [2, 2]
    with pytest.raises(UsageError, match=r"scale: fixed as 2\.0 .* forward takes 1\.0 where it is"):
        module(torch.ones(2))
    with pytest.raises(UsageError, match="table: the export has no such argument"):
        module(torch.ones(2), scale=2.0, table=None)
    assert model(torch.ones(2)).tolist() == [2, 2]  # which stands for the file, and no module


REFUSED = {
    "an argument that is not there": (
        lambda m: m(torch.zeros(1, 8), torch.zeros(1), attention_kwargs={"scale": 0.5}),
        "attention_kwargs: the export has no such argument"),
    "an argument that it does not take": (
        lambda m: m(torch.zeros(1, 8), torch.zeros(1), mask=torch.zeros(1)), "mask: the export"),
    "too many": (lambda m: m(*range(6)), "at most 5 arguments"),
    "twice": (lambda m: m(torch.zeros(1, 8), sample=torch.zeros(1, 8)), "sample: given twice"),
    "another type": (lambda m: m.to(torch.float16), r"to: the export computes in torch\.float32"),
    "half": (lambda m: m.half(), "got torch.float16"),
    "bfloat16": (lambda m: m.bfloat16(), "got torch.bfloat16"),
    "double": (lambda m: m.double(), "got torch.float64"),
    "another device": (lambda m: m.to("cuda"), "to: loaded on cpu, where it stays, got cuda"),
    "a GPU": (lambda m: m.cuda(), r"ropeexport\.load\(.*, device='cuda'\)"),
    "type": (lambda m: m.type(torch.float16), "got torch.float16"),
    "a type of a module around it": (lambda m: nn.Sequential(m).half(), "got torch.float16"),
    "no memory": (lambda m: m.to_empty(device="meta"), "to: loaded on cpu, where it stays"),
    "gradients": (lambda m: m.requires_grad_(), "requires_grad_: an export"),
    "a part in place": (lambda m: setattr(m, "linear", nn.Linear(8, 8)), "linear: an export"),
    "a weight in place": (
        lambda m: setattr(m, "weight", nn.Parameter(torch.zeros(1))), "weight: an export"),
    "a buffer": (lambda m: m.register_buffer("table", torch.zeros(1)), "table: an export"),
    "training": (lambda m: m.train(), "train: an export of .* has none"),
    "saving": (lambda m: m.save_pretrained("x"), "save_pretrained: an export"),
    "its weights": (lambda m: m.state_dict(), "state_dict: an export"),
    "other weights": (lambda m: m.load_state_dict({}), r"give them to update\(\)"),
    "a copy": (copy.deepcopy, "pickle, copy: an export"),
    "code of the class": (lambda m: m.enable_lora(), "enable_lora: not in an export of a Denoiser"),
    "a part": (lambda m: m.linear, "linear: not in an export of a Denoiser"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_an_export_has_not_is_refused_by_name(module, what: str) -> None:
    act, message = REFUSED[what]
    with pytest.raises(RopeExportError, match=message) as caught:
        act(module)
    assert "\n" not in str(caught.value)
    assert not hasattr(module, "enable_lora")


def test_what_changes_nothing_is_taken(module) -> None:
    assert module.to("cpu") is module
    assert module.to(torch.float32) is module
    assert module.float() is module
    assert module.cpu() is module
    assert module.eval() is module
    assert module.requires_grad_(False) is module


def test_like_needs_no_weights(folder) -> None:
    with torch.device("meta"):
        like = Denoiser()
    module = ropeexport.load(folder, device="cpu").as_module(like=like)
    assert module(torch.zeros(1, 8), torch.zeros(1)).sample.shape == (1, 8)
    assert not any(x is like for x in vars(module).values())


def test_a_module_that_was_not_exported_is_refused(folder) -> None:
    model = ropeexport.load(folder, device="cpu")
    with pytest.raises(
        UsageError, match=r"like: expected what was exported, .*Denoiser, got a ReLU"
    ):
        model.as_module(like=nn.ReLU())
    wider = Denoiser()
    wider.linear = nn.Linear(16, 8)
    with pytest.raises(UsageError, match=r"linear\.weight has shape \(8, 16\), not \(8, 8\)"):
        model.as_module(like=wider)
    like = torch.compile(Denoiser())
    assert isinstance(model.as_module(like=like), type(like))


def test_without_a_model_to_stand_for_it_is_a_module(folder) -> None:
    module = ropeexport.load(folder, device="cpu").as_module()
    assert isinstance(module, ExportedModule)
    assert not hasattr(module, "config")
    assert module(torch.zeros(1, 8), torch.zeros(1)).sample.shape == (1, 8)


def test_another_signature_is_adapted(folder, denoiser) -> None:
    class Other(nn.Module):
        def forward(self, x, steps, return_dict=True) -> None:
            """An annotation that names no class."""

    def adapt(given):
        return {"sample": given["x"], "timestep": given["steps"] / 1000}

    module = ropeexport.load(folder, device="cpu").as_module(like=Other(), adapt=adapt)
    x = torch.randn(2, 8)
    (found,) = module(x, torch.full((2,), 500.0), return_dict=False)
    with torch.no_grad():
        torch.testing.assert_close(found, denoiser(x, torch.full((2,), 0.5)).sample)


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class Returns(nn.Module):
    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x + 1, x * 2)


torch.utils._pytree.register_pytree_node(
    Result,
    lambda r: ([r.logits, r.hidden], None),
    lambda values, _: Result(*values),
)
TREES = {
    "a tensor": lambda a, b: a * b,
    "a tuple": lambda a, b: (a, b),
    "a tuple of one": lambda a, b: (a,),
    "a list": lambda a, b: [a, b],
    "a dict": lambda a, b: {"low": a, "high": b},
    "a tree": lambda a, b: (a, {"past": [(a, b), (b, a)]}),
    "None beside": lambda a, b: (a, None, b),
    "a named tuple": Pair,
    "a registered class": Result,
}


@pytest.mark.parametrize("what", TREES)
def test_what_forward_returns_comes_back(tmp_path, what: str) -> None:
    returns = Returns(TREES[what])
    ropeexport.export(returns, {"x": torch.zeros(2, 3)}, tmp_path / "out")
    module = ropeexport.load(tmp_path / "out", device="cpu").as_module(like=returns)
    x = torch.randn(2, 3)
    found, wanted = module(x), returns(x)
    assert type(found) is type(wanted)
    flatten = torch.utils._pytree.tree_flatten
    (leaves, spec), (others, other) = flatten(found), flatten(wanted)
    assert spec == other
    assert all(one is other is None or torch.equal(one, other)
               for one, other in zip(leaves, others, strict=True))  # fmt: skip


def test_a_class_of_a_manifest_is_neither_imported_nor_just_called(folder, denoiser) -> None:
    record = manifest.read(folder)
    for name in ("antigravity:Thing", "os:system", "builtins:print"):
        forward = record.forward.changed(
            returns_class=record.forward.returns_class.changed(value=name)
        )
        model = ropeexport.load(folder, device="cpu")
        object.__setattr__(model.artifact, "manifest", record.changed(forward=forward))
        module = model.as_module(like=denoiser)
        with pytest.raises(UsageError, match="expected the class of what it returns, found none"):
            module(torch.zeros(1, 8), torch.zeros(1))
    import sys

    assert "antigravity" not in sys.modules


def test_the_signature_of_forward_is_recorded(folder) -> None:
    forward = manifest.read(folder).forward
    names = inspect.signature(Denoiser().forward).parameters
    assert forward.parameters == tuple(names)
    assert {name: x.value for name, x in forward.defaults.items()} == {
        "guidance": None, "attention_kwargs": None, "return_dict": True,
    }  # fmt: skip
    assert forward.returns_class.value.endswith("modeling_outputs:Transformer2DModelOutput")
    assert forward.returns_class.keys == ("sample",)


def test_where_no_floats_come_in_the_type_is_torchs_own(folder, denoiser) -> None:
    """As of a fused file of whole numbers alone."""
    text = (folder / "manifest.json").read_text()
    assert text.count('"dtype": "fp32"') == 1
    (folder / "manifest.json").write_text(text.replace('"dtype": "fp32"', '"dtype": "int64"'))
    module = ropeexport.load(folder, device="cpu").as_module(like=denoiser)
    assert module.dtype == torch.get_default_dtype()
