"""The profiles of a decoder's engine: two, within what its cache holds; of anything else, one."""

from __future__ import annotations

import pytest
from made_tensorrt import PAST, decoder_manifest

from ropeexport.axes import parse_shapes
from ropeexport.errors import UsageError
from ropeexport.profiles import make_profiles, profile_axes

CAPACITY = 64  # of the decoder


def points(profile) -> list[dict[str, tuple[int, ...]]]:
    return [profile.min, profile.opt, profile.max]


@pytest.mark.parametrize("form", ["grow", "fixed"])
def test_one_reads_a_text_and_one_a_token_after_it(form: str) -> None:
    reading, writing = map(points, make_profiles(decoder_manifest(form)))
    assert [p["input_ids"] for p in reading] == [(1, 1), (2, 16), (8, 64)]
    assert [p["attention_mask"] for p in reading] == [(1, 1), (2, 16), (8, 64)]
    assert [p["input_ids"] for p in writing] == [(1, 1), (2, 1), (8, 1)]
    assert [p["attention_mask"] for p in writing] == [(1, 2), (2, 33), (8, 64)]
    assert all(p["position_ids"] == p["input_ids"] for p in (*reading, *writing))
    held = [[p[PAST][2] for p in each] for each in (reading, writing)]
    assert held == ([[0, 0, 63], [1, 32, 63]] if form == "grow" else [[64] * 3] * 2)


@pytest.mark.parametrize("form", ["grow", "fixed"])
def test_the_first_has_every_call_that_the_cache_has_room_for(form: str) -> None:
    manifest = decoder_manifest(form)
    axes = profile_axes(manifest, make_profiles(manifest)[0])
    ranges = {name: (axis.min, axis.max) for name, axis in axes.items()}
    assert ranges == {"batch": (1, 8), "length": (1, 64), "past": (0, 63)}
    assert axes["past"].opt + axes["length"].opt <= CAPACITY


@pytest.mark.parametrize("form", ["grow", "fixed"])
def test_what_is_given_is_of_the_first_and_the_second_follows(form: str) -> None:
    manifest = decoder_manifest(form)
    given = parse_shapes("input_ids:4x16,attention_mask:4x40")
    reading, writing = make_profiles(manifest, max_shapes=given)
    assert reading.max["input_ids"] == reading.max["position_ids"] == (4, 16)
    assert reading.max["attention_mask"] == writing.max["attention_mask"] == (4, 40)
    assert writing.max["input_ids"] == (4, 1)
    assert (writing.opt["attention_mask"], writing.max[PAST][0]) == ((2, 33), 4)
    axes = profile_axes(manifest, reading)
    assert (axes["length"].max, axes["batch"].max) == (16, 4)
    # an engine that is built again as it was built
    assert make_profiles(manifest, reading.min, reading.opt, reading.max) == (reading, writing)


def test_the_mask_follows_from_new_tokens_that_are_given() -> None:
    reading, _ = make_profiles(decoder_manifest("grow"), opt_shapes=parse_shapes("input_ids:2x20"))
    assert reading.opt["attention_mask"] == (2, 20)


def test_without_room_for_a_token_after_the_first_there_is_one() -> None:
    shapes = parse_shapes(f"input_ids:1x4,{PAST}:1x1x0x1")
    assert len(make_profiles(decoder_manifest("grow"), shapes, shapes, shapes)) == 1


@pytest.mark.parametrize(
    ("form", "option", "given", "said"),
    [
        ("grow", "max", "attention_mask:8x65", "at most 64, got 65 for 64 new tokens and 63 held"),
        ("fixed", "max", "attention_mask:8x65", "at most 64, got 65 for 64 new tokens$"),
        ("grow", "opt", f"{PAST}:2x1x60x1", "got 64 for 16 new tokens and 60 held"),
        ("grow", "opt", "attention_mask:2x40", "got 40 for 16 new tokens and 0 held"),
        ("grow", "max", "input_ids:8x32,attention_mask:8x20", "got 20 for 32 new tokens"),
        ("fixed", "opt", "input_ids:2x32,attention_mask:2x20", "got 20 for 32 new tokens"),
    ],
)
def test_shapes_that_no_call_has_are_refused(form: str, option: str, given: str, said: str) -> None:
    shapes = {f"{option}_shapes": parse_shapes(given)}
    with pytest.raises(UsageError, match=rf"^--{option}-shapes: expected a mask of past.*{said}"):
        make_profiles(decoder_manifest(form), **shapes)
