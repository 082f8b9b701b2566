"""Levels of pictures: which may differ, and how they are shown."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ropeexport.parity import pixels


def test_only_a_pixel_at_a_rounding_edge_may_differ() -> None:
    bound = 1e-5
    edge = 100.5 / 255
    eager = np.array([edge - 5e-6, edge - 2e-5, edge + 5e-6, 0.2, 0.2, 1.0], np.float32)
    got = np.array([edge + 5e-6, edge + 2e-5, edge - 5e-6, 0.2, 0.302, 1.0], np.float32)
    counted = pixels.count(got, eager, bound)
    # the first and third by one level at the edge; the second one off it; the fifth by many
    assert (counted.values, counted.differing, counted.allowed, counted.refused) == (6, 4, 2, 2)
    assert counted.largest == 26
    # near an edge, but not the one between the two levels
    counted = pixels.count(np.float32([99.9 / 255]), np.float32([101.4999 / 255]), bound)
    assert (counted.differing, counted.allowed) == (1, 0)


def test_levels_are_those_that_diffusers_makes() -> None:
    images = pytest.importorskip("diffusers.image_processor")
    x = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    expected = images.VaeImageProcessor.numpy_to_pil(x)
    np.testing.assert_array_equal(pixels.levels_of(x), [np.asarray(one) for one in expected])


def test_a_sheet_has_a_row_a_picture_and_three_frames_of_a_video() -> None:
    video = np.zeros((2, 7, 4, 5, 3), np.float32)
    video[:, 3] = 1.0
    sheet = pixels.sheet(video)
    assert sheet.shape == (8, 15, 3)
    assert (sheet[:, 5:10] == 255).all()
    assert sheet[:, :5].max() == sheet[:, 10:].max() == 0
    assert pixels.sheet(video[:, :1]).shape == (8, 5, 3)
    apart, scale = pixels.difference(sheet, sheet - (sheet > 0) * np.uint8(3))
    assert (apart.max(), scale) == (255, 85)


def test_a_png_holds_the_picture() -> None:
    images = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    for shown in (picture, picture[..., :1]):
        read = np.asarray(images.open(io.BytesIO(pixels.png(shown))))
        np.testing.assert_array_equal(read.reshape(shown.shape), shown)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 2, 2, 3), True), ((1, 4, 2, 2, 3), True), ((2, 2, 3), False), ((0, 2, 2, 3), False)],
)
def test_what_is_a_picture(shape, expected: bool) -> None:
    assert pixels.is_picture(np.zeros(shape, np.float32)) is expected


def test_a_plain_grey_has_no_contrast() -> None:
    flat = pixels.contrast(np.full((1, 2, 2, 3), 0.5))
    assert (flat.rms, flat.largest) == (0, 0)
    spread = pixels.contrast(np.array([0.25, 0.75]))
    assert (spread.rms, spread.largest) == (0.25, 0.5)
