"""Towers that take the patches of all images in one axis: their numbers, and files of them."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest
import torch

import ropeexport
from ropeexport.errors import UsageError
from ropeexport.grids import ROLES
from ropeexport.models.hub import packed

pytestmark = pytest.mark.tools  # models of other libraries, minutes of them

transformers = pytest.importorskip("transformers")
vision_utils = pytest.importorskip("transformers.vision_utils")

_QWEN = {"depth": 2, "num_heads": 2, "patch_size": 4}
CONFIGS = {
    "Qwen2VL": {**_QWEN, "embed_dim": 32, "hidden_size": 48},
    # windows of 2 by 2 merged patches, in the first of the layers
    "Qwen2_5_VL": {
        **_QWEN, "hidden_size": 32, "out_hidden_size": 48, "intermediate_size": 40,
        "window_size": 16, "fullatt_block_indexes": [1],
    },
    # a learned table of positions, interpolated to each image
    "Qwen3VL": {
        **_QWEN, "hidden_size": 32, "out_hidden_size": 48, "intermediate_size": 40,
        "num_position_embeddings": 36, "deepstack_visual_indexes": [1],
    },
    # the same, with an image for each frame
    "Glm4v": {
        **_QWEN, "hidden_size": 32, "out_hidden_size": 48, "intermediate_size": 40,
        "image_size": 24,
    },
}  # fmt: skip
STILLS = {"Glm4v"}
CLASSES = {
    "Qwen2VL": "Qwen2VisionTransformerPretrainedModel",
    "Qwen2_5_VL": "Qwen2_5_VisionTransformerPretrainedModel",
}


def tower(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    name = CLASSES.get(kind, f"{kind}VisionModel")
    module = sys.modules[getattr(transformers, f"{kind}Model").__module__]
    made = getattr(module, name)._from_config(
        getattr(transformers, f"{kind}Config")(vision_config=CONFIGS[kind]).vision_config
    )
    return made.eval()


def grids(merge: int, frames: int = 3) -> list[torch.Tensor]:
    """Grids of one to four images, with sides down to one block."""
    rng = np.random.default_rng(merge)
    drawn = [
        np.stack([rng.integers(1, frames + 1, n), *(merge * rng.integers(1, 7, (2, n)))], axis=1)
        for n in (1, 2, 3, 4) * 5
    ]
    return [torch.from_numpy(each) for each in drawn]


def pieces(ends: torch.Tensor) -> torch.Tensor:
    """Where pieces that hold something begin and end."""
    return torch.unique_consecutive(ends)


@pytest.mark.parametrize("merge", [1, 2])
def test_numbers_of_grids_are_the_librarys(merge) -> None:
    for grid in grids(merge):
        patches = packed.located(grid, int(grid.prod(1).sum()), merge)
        for has_frames in (False, True):
            expected = vision_utils.get_vision_position_ids(grid, merge, has_frames)
            assert torch.equal(packed.positions(patches, has_frames=has_frames), expected)
        by_frame, by_image = map(
            pieces, (packed.ends_of_frames(patches), packed.ends_of_images(patches))
        )
        assert torch.equal(by_frame, vision_utils.get_vision_cu_seqlens(grid))
        assert torch.equal(by_image, vision_utils.get_vision_cu_seqlens(grid, True))


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 9])
def test_windows_are_the_librarys(merge, side) -> None:
    for grid in grids(merge):
        patches = packed.located(grid, int(grid.prod(1).sum()), merge)
        order, ends = packed.windows(patches, merge, side)
        expected = vision_utils.get_vision_window_index(grid, merge, side * merge * 5, 5)
        assert torch.equal(order, expected[0])
        assert torch.equal(pieces(ends), expected[1])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_interpolation_is_the_librarys(mode, corners, padding) -> None:
    part = torch.nn.Module()
    part.interpolation_mode, part.interpolation_padding = mode, padding
    part.interpolation_align_corners = corners
    for grid in grids(2):
        patches = packed.located(grid, int(grid.prod(1).sum()), 2)
        indices, weights = packed.interpolated(patches, part, 6)
        expected = vision_utils.get_vision_interpolation_indices_and_weights(
            grid, 6, mode, corners, 2, padding
        )
        assert torch.equal(indices, expected[0])
        assert torch.equal(weights, expected[1])


def test_blocks_of_patches_by_row_are_the_librarys() -> None:
    muse = pytest.importorskip("transformers.models.muse_glimmer.modeling_muse_glimmer")
    for grid in grids(2):
        patches = packed.located(grid, int(grid.prod(1).sum()), 2)
        assert torch.equal(packed.by_blocks(patches), muse.get_vision_pixel_shuffle_index(grid, 2))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_tower_takes_images_of_any_size(tmp_path, kind) -> None:
    module = tower(kind)
    way = module.config._attn_implementation
    made = ropeexport.export(module, out=tmp_path)
    assert (made.found, made.replaced) == (2, 2)
    assert module.config._attn_implementation == way
    assert not module._forward_pre_hooks
    specs = {spec.name: spec for spec in made.manifest.model.inputs}
    assert specs["hidden_states"].shape[0] == "4*merged_patches"
    assert specs["grid_thw"].shape == ("images", 3)
    assert specs["grid_thw"].role == ROLES[kind in STILLS]
    assert made.check(cases=4).verdict == "PASS"
    loaded = ropeexport.load(tmp_path, device="cpu")
    for grid in grids(2, 1 if kind in STILLS else 3)[:6]:
        x = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 4 * 4)
        with torch.no_grad():
            expected = module(x, grid_thw=grid)
        found = loaded.run({"hidden_states": x, "grid_thw": grid})
        for name in ("last_hidden_state", "pooler_output"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_grid_of_other_patches_is_refused_and_gives_no_numbers(tmp_path) -> None:
    ropeexport.export(tower("Qwen2VL"), out=tmp_path)
    loaded = ropeexport.load(tmp_path, device="cpu")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for grid in ([[1, 2, 4]], [[2, 4, 4]], [[1, 4, 4], [1, 2, 2]]):
        given = {"hidden_states": np.zeros((16, 96), np.float32), "grid_thw": np.array(grid)}
        with pytest.raises(UsageError, match="expected images of 16 patches together, got"):
            loaded.run(given)
        assert all(np.isnan(each).all() for each in session.run(None, given))


def test_more_images_than_patches_are_not_drawn(tmp_path) -> None:
    made = ropeexport.export(tower("Qwen2VL"), out=tmp_path)
    loaded = ropeexport.load(made.folder, device="cpu")
    drawn = loaded.random_inputs({"merged_patches": 6, "images": 3})
    assert drawn["grid_thw"].prod(axis=1).sum() == 24
    assert (drawn["grid_thw"] > 0).all()
    with pytest.raises(UsageError, match="expected at most 2 images of so few patches, got 3"):
        loaded.random_inputs({"merged_patches": 2, "images": 3})
