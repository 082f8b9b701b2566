"""Every form of the op, every body, against its NumPy meaning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from form_models import NORM, TYPES, B, D, L, model_of, pairs_of, scale_sizes, sizes_of

from ropeexport.ops.apply_rope import apply_form
from ropeexport.ops.forms import FORMS, PLUGIN_FORMS, Form, form_of
from ropeexport.ops.norm_rope import norm_and_apply

ROOT = Path(__file__).parents[2]


def arrays_of(
    form: Form, body: str, kind: str, batch: int, scale: str = "", **norm: object
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        x: rng.standard_normal(sizes_of(form, x, **norm)).astype(TYPES[kind])
        for x in form.data_inputs
    }
    tables = tables_of(form, body, batch, rng)
    scales = {
        x: rng.standard_normal(scale_sizes(x, **norm)).astype(TYPES[scale or kind])
        for x in form.scale_inputs
    }
    return arrays | tables | scales


def tables_of(form: Form, body: str, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    angle = rng.standard_normal((batch, L, pairs_of(form))).astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    if form.tables == "cos_sin":
        return {"cos": cos, "sin": sin}
    rotations = np.stack([cos, -sin, sin, cos], axis=-1).reshape(batch, 1, L, D // 2, 2, 2)
    matrices = rng.standard_normal(rotations.shape).astype(np.float32)
    return {"pe": rotations if body == "rotation" else matrices}


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if not form.normed])
@pytest.mark.parametrize("body", ["adaptive", "general", "rotation"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("batch", [1, B])
def test_a_body_means_its_form(name: str, body: str, kind: str, batch: int) -> None:
    form = FORMS[name]
    arrays = arrays_of(form, body, kind, batch)
    session = onnxruntime.InferenceSession(model_of(form, body, kind).SerializeToString())
    exact = apply_form(form, *(x.astype(np.float64) for x in arrays.values()))
    for ours, theirs in zip(session.run(None, arrays), exact, strict=True):
        assert ours.dtype == TYPES[kind]
        # two products and a sum in float32, and one rounding to the data's type
        bound = 4 * np.finfo(TYPES[kind]).eps * np.abs(theirs).max()
        assert np.abs(ours - theirs).max() <= bound


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.normed])
@pytest.mark.parametrize(
    ("kind", "scale"), [("float", "float"), ("float16", "float16"), ("float16", "float")]
)
@pytest.mark.parametrize("norm", [
    {}, {"perm": [0, 1, 2, 3]}, {"axis": -2}, {"epsilon": 0.5},
])  # fmt: skip
def test_a_body_norms_first(name: str, kind: str, scale: str, norm: dict[str, object]) -> None:
    form = FORMS[name]
    arrays = arrays_of(form, "general", kind, 1, scale, **norm)
    model = model_of(form, "adaptive", kind, scale, **norm)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    wide = [x.astype(np.float64) for x in arrays.values()]
    exact = norm_and_apply(form, NORM | norm, *wide)
    for ours, theirs in zip(session.run(None, arrays), exact, strict=True):
        assert ours.dtype == TYPES[kind]
        assert ours.shape == theirs.shape
        # normed, scaled and rotated: a rounding each, of a sum of two products
        bound = 8 * np.finfo(TYPES[kind]).eps * np.abs(theirs).max()
        assert np.abs(ours - theirs).max() <= bound


def test_pairings_are_not_the_same_op() -> None:
    arrays = arrays_of(FORMS["ApplyRopeCosSin"], "rotation", "float", B)
    interleaved = apply_form(FORMS["ApplyRopeCosSin"], *arrays.values())
    half = apply_form(FORMS["ApplyRopeCosSinHalf"], *arrays.values())
    assert np.abs(interleaved[0] - half[0]).max() > 1.0


def test_a_form_is_known_by_its_name() -> None:
    assert all(form_of("ropeexport", name) == form for name, form in FORMS.items())
    assert form_of("", "ApplyRope") is None
    assert len(FORMS) == 12 + 10


def test_the_plugin_has_the_same_forms() -> None:
    """Its list is made of the table; where this fails, make it again by the script."""
    script = [sys.executable, str(ROOT / "scripts/forms.py")]
    made = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "plugins/src/forms.h").read_text()
    assert all(f'"{form.suffix}"' in made for form in PLUGIN_FORMS.values() if form.suffix)
    assert len(PLUGIN_FORMS) == 12 + 10
