"""What a module computes of a fixed tensor alone is known while it is traced."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import ropeexport
from ropeexport import Example


class Laid(nn.Module):
    """Puts rows among others where flags say it, and reads each run of them, as Qwen-Image 2.1.

    Source: diffusers ``transformer_qwenimage21.py``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.angles = torch.outer(torch.arange(32), torch.tensor([1.0, 0.5]))

    def forward(self, x: Tensor, rows: Tensor, flags: Tensor) -> Tensor:
        repeats = torch.where(flags, 2, 1)
        wide = torch.repeat_interleave(flags, repeats)
        x = x.repeat_interleave(repeats, dim=1)
        x[:, wide] = rows
        places = torch.tensor([3 if flag else place for place, flag in enumerate(wide.tolist())])
        x = x * self.angles[places].cos()
        count = int((~wide).sum())
        ends = x[:, :count].cumsum(1)
        return torch.cat([ends, x[:, wide]], dim=1)


def test_a_layout_that_is_fixed_is_known(tmp_path: Path) -> None:
    module, flags = Laid().eval(), torch.tensor([False, False, True, False, True])
    given = {"x": torch.randn(2, 5, 2), "rows": torch.randn(2, 4, 2)}
    axes = {name: {0: "batch"} for name in given}
    made = ropeexport.export(Example(module, given, axes, constants={"flags": flags}), out=tmp_path)
    assert [spec.shape for spec in made.manifest.model.inputs] == [
        ("batch", 5, 2), ("batch", 4, 2),
    ]  # fmt: skip
    loaded = ropeexport.load(tmp_path, runtime="onnxruntime")
    for batch in (1, 3):
        x, rows = torch.randn(batch, 5, 2), torch.randn(batch, 4, 2)
        found = loaded(x=x, rows=rows)
        torch.testing.assert_close(found, module(x.clone(), rows, flags), rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(module)
    assert torch.equal(flags, torch.tensor([False, False, True, False, True]))
