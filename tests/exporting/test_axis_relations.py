"""Axes that are sums of others, from the module to profile, cases and an engine."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import ropeexport
from ropeexport import manifest
from ropeexport.axes import parse_shapes, shape_at
from ropeexport.errors import ExportError, UsageError
from ropeexport.parity.cases import select
from ropeexport.profiles import make_profile
from ropeexport.testing import assert_parity


class Attends(nn.Module):
    """Attention over a past and what is new, with a mask for both."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(16, 16)

    def forward(self, x, past, mask):
        keys = torch.cat([past, self.key(x)], dim=1)
        weights = (x @ keys.transpose(1, 2) + mask).softmax(-1)
        return weights @ keys, keys


class Blocks(nn.Module):
    def forward(self, x):
        return x.unflatten(1, (-1, 8)).sum(2)


AXES = {
    "x": {0: "batch", 1: "length"},
    "past": {0: "batch", 1: "past"},
    "mask": {0: "batch", 1: "length", 2: "past + length"},
}


def kwargs(batch: int, length: int, past: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "x": torch.randn(batch, length, 16),
        "past": torch.randn(batch, past, 16),
        "mask": torch.randn(batch, length, past + length),
    }


def module() -> Attends:
    torch.manual_seed(1)
    return Attends()


def exact(**given: np.ndarray) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(module().double()(**{name: torch.from_numpy(x) for name, x in given.items()}))


def exported(out: Path, sizes: tuple[int, int, int] = (2, 3, 5)):
    return ropeexport.export(module(), kwargs(*sizes), out, dynamic_axes=AXES)


# as an example may be: nothing past, one token
@pytest.mark.parametrize("sizes", [(2, 3, 5), (1, 1, 0), (1, 1, 1)])
def test_a_sum_of_axes_is_exported(tmp_path, sizes) -> None:
    made = exported(tmp_path, sizes).manifest
    shapes = {spec.name: spec.shape for spec in made.model.inputs}
    assert shapes["mask"] == ("batch", "length", "past + length")
    assert made.axes.keys() == {"batch", "length", "past"}
    assert made.model.outputs[1].shape == ("batch", "past + length", 16)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for others in ((3, 4, 7), (1, 1, 12), (2, 6, 1)):
        given = kwargs(*others)
        found = session.run(None, {name: x.numpy() for name, x in given.items()})
        assert_parity(found, exact, inputs=given)


def test_profile_and_cases_respect_the_sum(tmp_path) -> None:
    made = exported(tmp_path).manifest
    profile = make_profile(made)
    for shapes in (profile.min, profile.opt, profile.max):
        assert shapes["mask"][2] == shapes["x"][1] + shapes["past"][1]
    named = make_profile(made, opt_shapes=parse_shapes("x:2x4x16,past:2x9x16"))
    assert named.opt["mask"] == (2, 4, 13)
    with pytest.raises(UsageError, match=r"axis 'past \+ length': expected 8, as .*; got 9"):
        make_profile(made, opt_shapes=parse_shapes("mask:2x3x9,past:2x5x16,x:2x3x16"))
    cases = select(made, count=40).cases
    assert len({(case.sizes["past"], case.sizes["length"]) for case in cases}) > 5
    assert any(case.sizes["past"] == case.sizes["length"] for case in cases)
    for case in cases:
        shapes = {spec.name: shape_at(spec, case.sizes) for spec in made.model.inputs}
        assert shapes["mask"][2] == case.sizes["past"] + case.sizes["length"]


def test_multiples(tmp_path) -> None:
    made = ropeexport.export(
        Blocks(), {"x": torch.randn(2, 24)}, tmp_path, dynamic_axes={"x": {1: "8*blocks"}}
    ).manifest
    assert made.model.inputs[0].shape == (2, "8*blocks")
    assert made.model.outputs[0].shape == (2, "blocks")
    assert (made.axes["blocks"].min, made.axes["blocks"].max) == (1, 4096)
    assert all(shape["x"][1] % 8 == 0 for shape in make_profile(made).model_dump().values())


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"x": {1: "past +length"}}, "expected a name like batch, or a sum of names"),
        ({"x": {1: "2*a + 3*b"}}, "axis 'a': expected an input that has it alone"),
        ({"x": {1: "n"}, "past": {1: "n"}}, "axis n is 3 in x and 5 in past"),
        ({"x": {1: "4*n"}}, r"x: expected 4\*n for a whole n, got 3"),
    ],
)
def test_what_is_no_sum_is_refused(tmp_path, axes, said) -> None:
    with pytest.raises(UsageError, match=said):
        ropeexport.export(Attends(), kwargs(2, 3, 5), tmp_path, dynamic_axes=axes)
    assert not (tmp_path / manifest.FILE_NAME).exists()


def test_a_relation_beside_the_modules_own_says_a_third(tmp_path) -> None:
    """The mask is as long as both, and was said to be twice the length: so they are one."""
    given = kwargs(2, 4, 4)
    axes = {**AXES, "mask": {0: "batch", 1: "length", 2: "2*length"}}
    made = ropeexport.export(Attends(), given, tmp_path, dynamic_axes=axes).manifest
    assert made.relations == {"past": "length"}
    assert [spec.shape[1] for spec in made.model.inputs[:2]] == ["length", "length"]
    assert made.model.inputs[2].shape == ("batch", "length", "2*length")
    with pytest.raises(ExportError, match="give both axes one name in dynamic_axes, length"):
        ropeexport.export(
            Attends(), given, tmp_path / "given", dynamic_axes=axes,
            axes={"past": (0, 4, 64), "length": (1, 4, 32)},
        )  # fmt: skip
    assert not (tmp_path / "given").exists()


@pytest.mark.trt
def test_an_engine_with_a_sum_of_axes_is_built(tmp_path) -> None:
    exported(tmp_path)
    engine = ropeexport.build(tmp_path)
    assert (
        engine.profile.max["mask"][2] == engine.profile.max["x"][1] + engine.profile.max["past"][1]
    )


def test_a_program_that_logs_nothing_is_held_to_its_guards(tmp_path) -> None:
    """torch tells of its guards in its log, which is not to hang on the program's own."""

    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, : int(x.shape[1] * 0.6)]

    def lengths() -> tuple[int, int]:
        axes = {"x": {1: "length"}}
        made = ropeexport.export(
            Part().eval(), {"x": torch.randn(2, 6)}, tmp_path, dynamic_axes=axes, force=True
        )
        found = made.manifest.axes["length"]
        return found.min, found.max

    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    try:
        logging.disable(logging.CRITICAL)
        logger.disabled = True
        assert lengths() == (4, 4096)
        assert logging.root.manager.disable == logging.CRITICAL
        assert logger.disabled
    finally:
        logging.disable(logging.NOTSET)
        logger.disabled = False
    assert lengths() == (4, 4096)


def test_what_an_operator_is_decomposed_by_has_to_hold_too(tmp_path) -> None:
    """torch decomposes pooling by the sizes of the example, and keeps no guard of it."""

    class Pooled(nn.Module):
        def forward(self, x: Tensor, like: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool2d(x, like.shape)

    given = {"x": torch.randn(1, 2, 6, 8), "like": torch.zeros(4, 5)}
    axes = {"x": {2: "height"}, "like": {0: "rows", 1: "columns"}}
    with pytest.raises(ExportError, match=r"only where .*height % rows.*no ranges of them say"):
        ropeexport.export(Pooled().eval(), given, tmp_path, dynamic_axes=axes)
    made = ropeexport.export(
        Pooled().eval(), given, tmp_path, dynamic_axes={"x": {0: "batch", 1: "channels"}}
    )
    loaded = ropeexport.load(made.folder, device="cpu")
    x = torch.randn(3, 4, 6, 8)
    torch.testing.assert_close(loaded(x, given["like"]), Pooled()(x, given["like"]))
