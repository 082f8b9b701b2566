"""Layouts of data and tables as libraries have them, exported, against eager at three sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from fusion.writings import angles, rotate_half
from torch import Tensor, nn

import ropeexport
from ropeexport.onnx_files.onnx_file import rope_nodes

SIZE, PART = 16, 8


def turned(x: Tensor, interleaved: bool) -> Tensor:
    """Return the pairs turned by a right angle, as Megatron and TransformerEngine do."""
    if not interleaved:
        return rotate_half(x)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack((-second, first), dim=-1).view(*x.shape)


class InLayout(nn.Module):
    """q and k (S, B, H, D), or another order, by angles with axes of size 1 beside the length.

    The part that is rotated is cut off once, or anew wherever it is read.
    """

    def __init__(self, places: str, part: int = SIZE, interleaved: bool = False, cuts: int = 1):
        super().__init__()
        self.places, self.part, self.interleaved, self.cuts = places, part, interleaved, cuts

    def forward(self, q: Tensor, k: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        table = angles(pos, self.part)
        table = (
            table.repeat_interleave(2, dim=-1)
            if self.interleaved
            else torch.cat((table, table), dim=-1)
        )
        table = table.reshape(*(pos.shape[0] if p == "s" else 1 for p in self.places), self.part)
        return self.rotated(q, table), self.rotated(k, table)

    def rotated(self, x: Tensor, table: Tensor) -> Tensor:
        part = x[..., : self.part]
        again = x[..., : self.part] if self.cuts == 2 else part
        made = part * table.cos() + turned(again, self.interleaved) * table.sin()
        return torch.cat((made, x[..., self.part :]), dim=-1) if self.part < SIZE else made


KINDS = {
    "sbhd": {"places": "sbh"},
    "sbhd, neighbours": {"places": "sbh", "interleaved": True},
    "sbhd, a part": {"places": "sbh", "part": PART},
    "sbhd, a part that is cut twice": {"places": "sbh", "part": PART, "cuts": 2},
    "sbhd, neighbours of a part that is cut twice": {
        "places": "sbh", "part": PART, "cuts": 2, "interleaved": True,
    },
    "bshd": {"places": "bsh"},
    "bshd, a part that is cut twice": {"places": "bsh", "part": PART, "cuts": 2},
    "bhsd, a part that is cut twice": {"places": "bhs", "part": PART, "cuts": 2},
    "thd": {"places": "sh"},
    "thd, a part that is cut twice": {"places": "sh", "part": PART, "cuts": 2},
}  # fmt: skip


def inputs(places: str, length: int, batch: int) -> dict[str, Tensor]:
    shapes = ([{"s": length, "b": batch, "h": h}[p] for p in places] for h in (3, 2))
    q, k = (torch.randn(*shape, SIZE) for shape in shapes)
    return {"q": q, "k": k, "pos": torch.arange(7, 7 + length)}


@pytest.mark.parametrize("name", KINDS)
def test_a_layout_is_exported_as_one_op(name: str, tmp_path: Path) -> None:
    module, places = InLayout(**KINDS[name]).eval(), str(KINDS[name]["places"])
    names = {"s": "length", "b": "batch"}
    axes = {axis: names[p] for axis, p in enumerate(places) if p in names}
    made = ropeexport.export(
        module,
        inputs(places, 6, 2),
        tmp_path / "out",
        dynamic_axes={"q": axes, "k": axes, "pos": {0: "length"}},
    )
    assert (made.found, made.replaced, made.manifest.model.recognition.not_judged) == (1, 1, ())
    (rope,) = rope_nodes(made.artifact.file.whole)
    assert ("Partial" in rope.op_type) == (KINDS[name].get("part") == PART)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for length, batch in ((6, 2), (11, 3), (1, 1)):
        given = inputs(places, length, batch)
        expected = module(**given)
        found = session.run(None, {name: x.numpy() for name, x in given.items()})
        for ours, theirs in zip(found, expected, strict=True):
            # angles of up to 18 are rounded in eager
            error = np.abs(ours - theirs.numpy()).max()
            assert error <= 32 * 2.0**-23 * float(theirs.abs().max())
