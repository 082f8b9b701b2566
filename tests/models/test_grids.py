"""An input that says which patches are whose is of whole numbers, three of each image."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import ropeexport
from ropeexport import manifest
from ropeexport.errors import ManifestError, UsageError


class Weighed(nn.Module):
    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        return x * grid.sum()


GIVEN = {"x": torch.randn(6, 4), "grid": torch.tensor([[1, 2, 2], [1, 1, 2]])}
AXES = {"x": {0: "patches"}, "grid": {0: "images"}}


def exported(folder, grid: Tensor) -> None:
    given = {**GIVEN, "grid": grid}
    ropeexport.export(
        Weighed(), given, folder, dynamic_axes=AXES, roles={"grid": "grid"}, force=True
    )


def test_a_grid_has_its_shape(tmp_path) -> None:
    for wrong in (torch.ones(2, 3), torch.ones(2, 4, dtype=torch.int64)):
        with pytest.raises(UsageError, match=r"expected whole numbers \(images, 3\)"):
            exported(tmp_path, wrong)
    exported(tmp_path, GIVEN["grid"])
    path = tmp_path / manifest.FILE_NAME
    record = json.loads(path.read_text())
    (grid,) = (each for each in record["model"]["inputs"] if each["name"] == "grid")
    for shape in (["images"], ["images", 4], ["images", "images", 3]):
        grid["shape"] = shape
        path.write_text(json.dumps(record))
        with pytest.raises(ManifestError, match=r"expected the frames, rows and columns"):
            manifest.read(tmp_path)
