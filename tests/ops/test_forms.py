"""Every form of the op, every body, against its NumPy meaning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from form_models import HEADS, TYPES, B, D, L, model_of, pairs_of

from ropeexport.ops.apply_rope import apply_form
from ropeexport.ops.forms import FORMS, PLUGIN_FORMS, Form, form_of

ROOT = Path(__file__).parents[2]


def arrays_of(form: Form, body: str, kind: str, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        x: rng.standard_normal((B, HEADS[x], L, D)).astype(TYPES[kind]) for x in form.data_inputs
    }
    angle = rng.standard_normal((batch, L, pairs_of(form))).astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    if form.tables == "cos_sin":
        return arrays | {"cos": cos, "sin": sin}
    rotations = np.stack([cos, -sin, sin, cos], axis=-1).reshape(batch, 1, L, D // 2, 2, 2)
    matrices = rng.standard_normal(rotations.shape).astype(np.float32)
    return arrays | {"pe": rotations if body == "rotation" else matrices}


@pytest.mark.parametrize("name", FORMS)
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


def test_pairings_are_not_the_same_op() -> None:
    arrays = arrays_of(FORMS["ApplyRopeCosSin"], "rotation", "float", B)
    interleaved = apply_form(FORMS["ApplyRopeCosSin"], *arrays.values())
    half = apply_form(FORMS["ApplyRopeCosSinHalf"], *arrays.values())
    assert np.abs(interleaved[0] - half[0]).max() > 1.0


def test_a_form_is_known_by_its_name() -> None:
    assert all(form_of("ropeexport", name) == form for name, form in FORMS.items())
    assert form_of("", "ApplyRope") is None
    assert len(FORMS) == 12


def test_the_plugin_has_the_same_forms() -> None:
    """Its list is made of the table; where this fails, make it again by the script."""
    script = [sys.executable, str(ROOT / "scripts/forms.py")]
    made = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "plugins/src/forms.h").read_text()
    assert all(f'"{form.suffix}"' in made for form in PLUGIN_FORMS.values() if form.suffix)
    assert len(PLUGIN_FORMS) == 12
