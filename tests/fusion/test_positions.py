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
from ropeexport.fusion.angles import is_whole, unscaled
from ropeexport.fusion.movement import Movement
from ropeexport.manifest import Source
from ropeexport.models.example import Example
from ropeexport.onnx_ops.rope_table import MAX_POSITION

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


class Rotated(nn.Module):
    """Half pairs of x (B, H, L, D) turned by angles of positions (B, L)."""

    def __init__(self, writing) -> None:
        super().__init__()
        self.writing = writing
        exponent = torch.arange(0, SIZE, 2).float() / SIZE
        self.register_buffer("frequencies", 1 / 10000**exponent, persistent=False)

    def angles(self, pos: Tensor, frequencies: Tensor) -> Tensor:
        return (self.writing(pos)[..., None] * frequencies)[:, None]

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        return self.turned(x, self.angles(pos.float(), self.frequencies))

    @staticmethod
    def turned(x: Tensor, angles: Tensor) -> Tensor:
        cos, sin = angles.cos(), angles.sin()
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def exact(self, x: Tensor, pos: Tensor) -> np.ndarray:
        frequencies = 10000.0 ** -(torch.arange(0, SIZE, 2).double() / SIZE)
        return self.turned(x.double(), self.angles(pos.double(), frequencies)).numpy()


def inputs(batch: int, length: int, start: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(start)
    pos = start + torch.randperm(length, generator=generator)
    x = torch.randn(batch, 2, length, SIZE, generator=generator)
    return {"x": x, "pos": pos[None].repeat(batch, 1)}


def run(path_or_bytes, feed: dict[str, Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path_or_bytes, providers=["CPUExecutionProvider"])
    return session.run(None, {name: x.numpy() for name, x in feed.items()})[0]


def check_against_eager(model, module: Rotated) -> None:
    """Hold a file to float64, at short and long positions: as close as eager, and 4 roundings."""
    for feed in (inputs(2, 6, 0), inputs(3, 17, 40), inputs(1, 1, 5), inputs(2, 9, 30_000)):
        exact = module.exact(**feed)
        eager = np.abs(module(**feed).numpy() - exact).max()
        assert np.abs(run(model, feed) - exact).max() <= eager + 4 * EPS * np.abs(exact).max()


@pytest.mark.parametrize("name", WRITINGS)
def test_positions_are_exported_as_they_are_written(name: str) -> None:
    module = Rotated(WRITINGS[name]).eval()
    made = onnx_model(Example(module, inputs(2, 6, 3), AXES), Source(kind="factory", name="test"))
    assert (made.count.found, made.count.replaced) == (1, 1)
    assert made.comparison.left == ()
    assert (made.comparison.regions, made.comparison.without_whole) == (1, "")
    check_against_eager(serialized(made.model), module)


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()


SCALED = ["divided", "by what no binary fraction is", "halved", "scaled twice", "moved in between"]


@pytest.mark.parametrize("name", SCALED)
def test_scaled_whole_positions_have_exact_angles(name: str) -> None:
    module = Rotated(WRITINGS[name]).eval()
    made = onnx_model(Example(module, inputs(2, 6, 3), AXES), Source(kind="factory", name="test"))
    assert [n.op_type for n in made.model.graph].count("RopeTable") == 1
    feed = inputs(1, 2000, 900_000)
    ours = np.abs(run(serialized(made.model), feed) - module.exact(**feed)).max()
    eager = np.abs(module(**feed).numpy() - module.exact(**feed)).max()
    print(f"{name}: ours {ours:.1e}, eager {eager:.1e}")
    assert ours <= 8 * EPS * np.abs(feed["x"].numpy()).max() < eager


@pytest.mark.parametrize("name", WRITINGS)
def test_fuse_leaves_a_right_file_right(tmp_path: Path, name: str) -> None:
    module, path = Rotated(WRITINGS[name]).eval(), tmp_path / "plain.onnx"
    shapes = {n: {a: torch.export.Dim(label) for a, label in AXES[n].items()} for n in AXES}
    torch.onnx.export(
        module, (), path, kwargs=inputs(2, 6, 3), dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    record, count = fuse_file(path, tmp_path / "out")
    assert (count.found, count.replaced) == (1, 1)
    assert record is not None
    assert record.model.comparison.left == ()
    check_against_eager(tmp_path / "out" / "model.onnx", module)


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
    module = Rotated(WRITINGS[name]).eval()
    made = onnx_model(Example(module, inputs(2, 6, 3), AXES), Source(kind="factory", name="test"))
    limit = made.max_position
    assert limit == MAX_POSITION - less
    x = torch.ones(1, 2, 1, SIZE)
    last, beyond = (
        run(serialized(made.model), {"x": x, "pos": torch.tensor([[pos]])})
        for pos in (limit, 2 * limit + 2)
    )
    assert np.isfinite(last).all()
    assert np.isnan(beyond).all()
