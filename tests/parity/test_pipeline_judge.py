"""What one call of a pipeline is held to, on arrays made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ropeexport.parity import tolerance
from ropeexport.parity.pipeline_judge import Held, Standard, standard_of
from ropeexport.parity.pipeline_runs import Seen, Shot
from ropeexport.parity.records import PictureRecord
from ropeexport.parity.references import Truth, size_of
from ropeexport.parity.tolerance import Size, Yardstick

U = 2.0**-24
RNG = np.random.default_rng(0)
LATENTS = RNG.standard_normal((1, 16, 4)).astype(np.float32)
# levels, each in the middle of its own: no value is near a rounding edge
PIXELS = (RNG.integers(0, 256, (1, 4, 4, 3)) / 255).astype(np.float32)
EAGER = Shot(LATENTS, PIXELS)
MOVES = {"latents": Size(1e-6, 4e-6), "pixels": Size(1e-7, 4e-7)}


def standard(
    roundoff: float = U, moves: dict[str, Size] = MOVES, eager: Shot = EAGER, **options: object
) -> Standard:
    outputs = EAGER.exact
    sizes = {name: size_of(x) for name, x in outputs.items()}
    truth = Truth(outputs, sizes, moves, data_rms=1.0)
    seen = Seen(longest=64, roundoff=roundoff, data_rms=1.0)
    return standard_of(eager, seen, truth, widest=32, override=options.get("override"))


def moved(latents: float = 0.0, levels: int = 0) -> Shot:
    """Eager's result with one latent and one pixel moved."""
    x, y = LATENTS.copy(), PIXELS.copy()
    x[0, 3, 2] += latents
    y[0, 1, 1, 0] = (
        round(y[0, 1, 1, 0] * 255) + (levels if y[0, 1, 1, 0] < 0.5 else -levels)
    ) / 255
    return Shot(x, y)


def test_the_bounds_are_those_of_every_output() -> None:
    """With the yardsticks that were measured at the end of the pipeline."""
    made = standard()
    known = {"dtype": "float32", "working_roundoff": U, "terms": 64, "data_rms": 1.0}
    latents = Yardstick(
        output=size_of(EAGER.exact["latents"]), sensitivity=MOVES["latents"], **known
    )
    assert made.latents == tolerance.bound(latents)
    assert made.eager_latents == tolerance.eager_bound(latents)
    spread = Size(float(EAGER.exact["pixels"].std()), float(np.ptp(EAGER.exact["pixels"])))
    pixels = Yardstick(output=spread, sensitivity=MOVES["pixels"], **known)
    assert made.pixels == tolerance.bound(pixels)


def test_eagers_own_distance_widens_a_bound() -> None:
    own = standard()
    far = standard(eager=Shot(LATENTS + np.float32(2 * own.latents.rms), PIXELS))
    assert far.latents.rule == "eager"
    assert far.latents.rms > 2 * own.latents.rms


def test_conversions_are_known_as_they_are() -> None:
    truth = replace(standard().truth, conversions={"latents": Size(1.0, 1.0)})
    seen = Seen(longest=1, roundoff=U, data_rms=1.0)
    made = standard_of(EAGER, seen, truth, widest=1, override=None)
    assert made.latents.rms == pytest.approx(2.0, rel=1e-6)
    assert made.pixels.max_abs < 1e-4


def test_a_users_own_bound_is_of_the_latents() -> None:
    own = tolerance.override(0.5, 0.0)
    made = standard(override=own)
    assert made.latents == made.eager_latents == own
    assert made.pixels == standard().pixels
    assert not made.broken_by(made.hold(moved(latents=0.4)))
    assert made.broken_by(made.hold(moved(latents=0.6)))


def test_latents_beyond_their_bound_break() -> None:
    made = standard()
    assert not made.broken_by(made.hold(EAGER))
    assert not made.hold_eager().latents
    assert made.broken_by(made.hold(moved(latents=8e-5))).startswith("latents: root mean square")
    loose = standard(moves={**MOVES, "latents": Size(1e-3, 4e-6)})
    assert loose.broken_by(loose.hold(moved(latents=8e-4))).startswith("latents: largest error")


@pytest.mark.parametrize(
    ("shot", "text"),
    [
        (Shot(LATENTS[:, :8], PIXELS), "latents: shape"),
        (Shot(LATENTS.astype(np.float16), PIXELS), "latents: type"),
        (Shot(LATENTS * np.float32(np.nan), PIXELS), "latents: not finite"),
        (Shot(LATENTS, PIXELS[:, :2]), "pixels: expected (1, 4, 4, 3), got (1, 2, 4, 3)"),
        (Shot(LATENTS, np.where(PIXELS > 0.9, np.nan, PIXELS)), "pixels: not finite"),
    ],
)
def test_what_numbers_would_hide_breaks(shot: Shot, text: str) -> None:
    made = standard()
    assert text in made.broken_by(made.hold(shot))


def test_a_pixel_off_every_edge_breaks_in_float32_and_is_counted_in_half_types() -> None:
    made = standard()
    held = made.hold(moved(levels=1))
    assert made.broken_by(held) == ("pixels: 1 of 48 are not eager's, by up to 1 of 255 levels")
    counted = held.record.pixels
    assert (counted.differing, counted.allowed, counted.refused) == (1, 0, 1)
    half = standard(roundoff=2.0**-11)
    assert not half.pixels_decide
    assert half.hold(moved(levels=1)).record.pixels.differing == 1
    assert not half.broken_by(half.hold(moved(levels=1)))


def test_a_bound_beyond_the_picture_or_the_latents_proves_nothing() -> None:
    wide = standard(moves={**MOVES, "pixels": Size(1.0, 1.0)})
    assert "pixels: the bound" in wide.broken_by(wide.hold(EAGER))
    wide = standard(moves={**MOVES, "latents": Size(9.0, 9.0)})
    assert "nothing would be proven" in wide.broken_by(wide.hold(EAGER))
    assert "nothing would be proven" in wide.hold_eager().latents


def test_without_rope_both_must_depart() -> None:
    record = PictureRecord(runtime="", status="PASS")
    made, half = standard(), standard(roundoff=2.0**-11)
    for latents, pixels, unproven, in_half in [
        ("", "", "latents are within", "latents are within"),
        ("", "x", "latents are within", "latents are within"),
        ("x", "", "every pixel is the same", ""),
        ("x", "x", "", ""),
    ]:
        held = Held(record, latents, pixels)
        for judge, text in ((made, unproven), (half, in_half)):
            found = judge.unproven_by(held)
            assert text in found
            assert bool(found) == bool(text)
            assert found.startswith("the picture does not depend on the rope" if text else "")
