"""Whatever is done to positions before they meet their frequencies, the file computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ropeexport.exporting.exporter import onnx_model
from ropeexport.exporting.fuse_file import fuse_file
from ropeexport.exporting.model_writer import Finished
from ropeexport.fusion.limits import Limits
from ropeexport.fusion.movement import Movement
from ropeexport.fusion.products import is_whole, unscaled
from ropeexport.manifest import Source
from ropeexport.models.example import Example
from ropeexport.ops.rope_table import MAX_POSITION

SIZE = 16
EPS = float(np.finfo(np.float32).eps)
AXES = {"x": {0: "batch", 2: "length"}, "pos": {0: "batch", 1: "length"}}

# what is done to positions, which are float32 in the module and float64 in the reference
WRITINGS = {
    "as they are": lambda p: p,
    "divided": lambda p: p / 8,
    "by what no binary fraction is": lambda p: p / 3,
    "halved": lambda p: p * 0.5,
    "doubled": lambda p: 2 * p,
    "negated": lambda p: -p,
    "scaled twice": lambda p: p / 5 * 3,
    "by what float32 rounds": lambda p: p * 0.3,
    "moved in between": lambda p: (p[:, None] / 8).squeeze(1) * 3,
    "shifted": lambda p: p + 1,
    "shifted and halved": lambda p: (p + 1) * 0.5,
    "halved and shifted": lambda p: p * 0.5 + 0.25,
    "floored": lambda p: torch.floor(p / 4),
    "rounded and scaled": lambda p: torch.round(p / 4) / 16,
    "a remainder": lambda p: p % 7,
    "clamped": lambda p: p.clamp(max=5) / 2,
    "in a window": lambda p: torch.where(p > 4, p / 8, p),
    "by a buffer": lambda p: p * torch.tensor(0.125, dtype=p.dtype),
    "by others": lambda p: p / (p.max() + 1),
    "times a thousand": lambda p: p * 1000,
}
# what other types do to positions; each is held to eager, whose types they are
TYPED = {
    "in float16": lambda p: p.half().float(),
    "in bfloat16": lambda p: p.bfloat16(),
    "shifted in float16": lambda p: (p + 3000).half(),
    "scaled in float16": lambda p: (p % 2000).half() * 0.25,
    "rounded, then scaled": lambda p: p.float().half().float() * 0.5,
    "scaled in float64": lambda p: p.double() * 0.3,
    "shifted in float64": lambda p: p.double() + 0.3,
    "cut to float32 on the way": lambda p: (p.double() * 0.3).float().double(),
    "in int32": lambda p: p.int() * 3,
    "in uint8": lambda p: p.to(torch.uint8).float() / 2,
    "in int8": lambda p: p.to(torch.int8),
    "negative": lambda p: -p - 1,
    "a difference": lambda p: p - p.max(),
    "of a running sum": lambda p: ((p % 3 > 0).int().cumsum(-1) - 1).clamp(min=0),
}


class Rotated(nn.Module):
    """Half pairs of x (B, H, L, D) turned by angles of positions (B, L), once for each writing."""

    def __init__(self, *writings) -> None:
        super().__init__()
        self.writings = writings
        exponent = torch.arange(0, SIZE, 2).float() / SIZE
        self.register_buffer("frequencies", 1 / 10000**exponent, persistent=False)

    def forward(self, x: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
        return self.all_turned(x, pos.float(), self.frequencies)

    def all_turned(self, x: Tensor, pos: Tensor, frequencies: Tensor) -> tuple[Tensor, ...]:
        angles = ((writing(pos)[..., None] * frequencies)[:, None] for writing in self.writings)
        return tuple(self.turned(x, a) for a in angles)

    @staticmethod
    def turned(x: Tensor, angles: Tensor) -> Tensor:
        cos, sin = angles.cos(), angles.sin()
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def exact(self, x: Tensor, pos: Tensor) -> list[np.ndarray]:
        frequencies = 10000.0 ** -(torch.arange(0, SIZE, 2).double() / SIZE)
        return [y.numpy() for y in self.all_turned(x.double(), pos.double(), frequencies)]


def inputs(batch: int, length: int, start: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(start)
    pos = start + torch.randperm(length, generator=generator)
    x = torch.randn(batch, 2, length, SIZE, generator=generator)
    return {"x": x, "pos": pos[None].repeat(batch, 1)}


def exported(*names: str) -> Finished:
    module = Rotated(*(WRITINGS[name] for name in names)).eval()
    return onnx_model(Example(module, inputs(2, 6, 3), AXES), Source(kind="factory", name="test"))


def session_of(model: ir.Model | Path) -> onnxruntime.InferenceSession:
    file = model if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, feed: dict[str, Tensor]) -> list[np.ndarray]:
    return session.run(None, {name: x.numpy() for name, x in feed.items()})


# one file of all writings, from each of the two roads
@pytest.fixture(scope="module")
def by_export() -> onnxruntime.InferenceSession:
    made = exported(*WRITINGS)
    assert (made.count.found, made.count.replaced) == (len(WRITINGS),) * 2
    assert made.comparison.left == ()
    assert (made.comparison.regions, made.comparison.without_whole) == (len(WRITINGS), "")
    return session_of(made.model)


@pytest.fixture(scope="module")
def by_fuse(tmp_path_factory) -> onnxruntime.InferenceSession:
    folder = tmp_path_factory.mktemp("fused")
    shapes = {n: {a: torch.export.Dim(label) for a, label in AXES[n].items()} for n in AXES}
    module, path = Rotated(*WRITINGS.values()).eval(), folder / "plain.onnx"
    torch.onnx.export(
        module, (), path, kwargs=inputs(2, 6, 3), dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    record, count = fuse_file(path, folder / "out")
    assert (count.found, count.replaced) == (len(WRITINGS),) * 2
    assert record is not None
    assert record.model.comparison.left == ()
    return session_of(folder / "out" / "model.onnx")


@pytest.mark.parametrize("road", ["by_export", "by_fuse"])
@pytest.mark.parametrize("name", WRITINGS)
def test_positions_are_computed_as_they_are_written(request, road: str, name: str) -> None:
    """Short and long positions: as close to float64 as eager, and four roundings."""
    session, place = request.getfixturevalue(road), list(WRITINGS).index(name)
    module = Rotated(WRITINGS[name])
    for feed in (inputs(2, 6, 0), inputs(3, 17, 40), inputs(1, 1, 5), inputs(2, 9, 30_000)):
        ours, exact = run(session, feed)[place], module.exact(**feed)[0]
        eager = np.abs(module(**feed)[0].numpy() - exact).max()
        assert np.abs(ours - exact).max() <= eager + 4 * EPS * np.abs(exact).max()


SCALED = ["divided", "by what no binary fraction is", "halved", "scaled twice", "moved in between"]


@pytest.mark.parametrize("name", SCALED)
def test_scaled_whole_positions_have_exact_angles(by_export, name: str) -> None:
    module, feed = Rotated(WRITINGS[name]), inputs(1, 2000, 900_000)
    exact = module.exact(**feed)[0]
    ours = np.abs(run(by_export, feed)[list(WRITINGS).index(name)] - exact).max()
    eager = np.abs(module(**feed)[0].numpy() - exact).max()
    print(f"{name}: ours {ours:.1e}, eager {eager:.1e}")
    assert ours <= 8 * EPS * np.abs(feed["x"].numpy()).max() < eager


class Typed(Rotated):
    """Positions reach the writings in their own type."""

    def forward(self, x: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
        turned = self.all_turned(x, pos, self.frequencies)
        return tuple(y.float() for y in turned)


@pytest.fixture(scope="module")
def typed() -> onnxruntime.InferenceSession:
    module = Typed(*TYPED.values()).eval()
    example = Example(module, inputs(2, 6, 3), AXES)
    made = onnx_model(example, Source(kind="factory", name="test"))
    assert (made.count.found, made.count.replaced) == (len(TYPED),) * 2
    assert made.comparison.left == ()
    return session_of(made.model)


@pytest.mark.parametrize("name", TYPED)
def test_positions_have_the_type_that_is_written(typed, name: str) -> None:
    module, place = Typed(TYPED[name]), list(TYPED).index(name)
    for feed in (inputs(2, 6, 0), inputs(3, 17, 40), inputs(1, 1, 5), inputs(2, 9, 5_000)):
        ours, eager = run(typed, feed)[place], module(**feed)[0].numpy()
        angles = float(module.writings[0](feed["pos"]).abs().max())  # each off by half a rounding
        assert np.abs(ours - eager).max() <= (4 + angles) * EPS * np.abs(eager).max()


def test_whole_is_what_every_step_keeps_whole() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 23]>
        g (int64[n] pos, float[n] x, bool[n] mask) => (float[n] y)
        <float eight = {8.0}, float half = {0.5}, float zero = {0.0}> {
            cast = Cast<to = 1>(pos)
            divided = Div(cast, eight)
            halved = Mul(cast, half)
            times = Mul(cast, eight)
            shifted = Add(times, eight)
            off = Add(times, half)
            floor = Floor(x)
            bits = Cast<to = 1>(mask)
            negated = Neg(floor)
            wide = Cast<to = 11>(negated)
            longer = Concat<axis = 0>(cast, halved)
            joined = Concat<axis = 0>(cast, times)
            nothing = Div(cast, zero)
            y = Cast<to = 1>(wide)
        }"""
    )
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(model)).graph
    values = {value.name: value for node in graph for value in node.outputs}
    whole = {name for name, value in values.items() if is_whole(value, Movement())}
    assert whole == {
        "cast", "times", "shifted", "floor", "bits", "negated", "wide", "joined", "y",
    }  # fmt: skip
    factors = {name: unscaled(values[name], Movement()) for name in ("divided", "y", "nothing")}
    assert factors["divided"] == (values["cast"], 0.125)
    assert factors["y"] == (values["floor"], -1.0)
    assert factors["nothing"] == (values["nothing"], 1.0)


@pytest.mark.parametrize(
    ("name", "less"), [("as they are", 0), ("shifted", 1), ("halved and shifted", 0)]
)
def test_the_limit_is_that_of_the_input(name: str, less: int) -> None:
    made = exported(name)
    assert made.limits is not None
    limit = made.limits.inputs
    assert (limit, made.limits.tables) == (MAX_POSITION - less, MAX_POSITION)
    x = torch.ones(1, 2, 1, SIZE)
    last, beyond = (
        run(session_of(made.model), {"x": x, "pos": torch.tensor([[pos]])})[0]
        for pos in (limit, 2 * limit + 2)
    )
    assert np.isfinite(last).all()
    assert np.isnan(beyond).all()


def test_positions_of_a_mask_have_no_limit_of_an_input() -> None:
    """How far a running sum goes depends on the length as well."""
    module = Typed(lambda mask: (mask.cumsum(-1) - 1).clamp(min=0)).eval()
    made = onnx_model(Example(module, inputs(2, 6, 3), AXES), Source(kind="factory", name="test"))
    assert made.limits == Limits(tables=MAX_POSITION, inputs=None)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_narrow_integers_beside_a_rope(dtype: torch.dtype) -> None:
    class Masked(Typed):
        def forward(self, x: Tensor, pos: Tensor, mask: Tensor) -> Tensor:
            return super().forward(x, pos)[0] * mask[:, None, :, None]

    module = Masked(WRITINGS["as they are"]).eval()
    feed = inputs(2, 6, 3)
    feed["mask"] = torch.ones_like(feed["pos"]).to(dtype)
    example = Example(module, feed, AXES | {"mask": AXES["pos"]})
    made = onnx_model(example, Source(kind="factory", name="test"))
    assert made.limits == Limits(MAX_POSITION, MAX_POSITION)
    error = np.abs(run(session_of(made.model), feed)[0] - module(**feed).numpy()).max()
    assert error <= 64 * EPS
