"""Every form of the op, every body, against its NumPy meaning."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from ropeexport.onnx_ops.bodies import rope_function
from ropeexport.onnx_ops.forms import FORMS, ROTARY_SIZE, Form, form_of
from ropeexport.onnx_ops.semantics import apply_form

B, L, D = 2, 5, 8
TYPES = {"float": np.float32, "float16": np.float16}
HEADS = {"q": 4, "k": 2}


def pairs_of(form: Form) -> int:
    return D // 2 - 1 if form.partial else D // 2


def model_of(form: Form, body: str, kind: str) -> onnx.ModelProto:
    data = [f"{kind}[b, {HEADS[x]}, l, {D}] {x}" for x in form.data_inputs]
    pairs = pairs_of(form)
    tables = {
        "pe": f"float[t, 1, l, {D // 2}, 2, 2] pe",
        "cos": f"float[t, l, {pairs}] cos",
        "sin": f"float[t, l, {pairs}] sin",
    }
    inputs = ", ".join([*data, *(tables[t] for t in form.table_inputs)])
    outputs = ", ".join(f"{text}_out" for text in data)
    attributes = ", ".join(f'{name} = "{value}"' for name, value in form.attributes.items())
    attributes += f", {ROTARY_SIZE} = {2 * pairs}" if form.partial else ""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23, "ropeexport": 1]>
        g ({inputs}) => ({outputs}) {{
          {", ".join(f"{x}_out" for x in form.data_inputs)} = ropeexport.{form.op_type}
            <{attributes}> ({", ".join((*form.data_inputs, *form.table_inputs))})
        }}"""
    )
    model.functions.append(rope_function(form, 23, body))
    onnx.checker.check_model(model, full_check=True)
    return model


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
