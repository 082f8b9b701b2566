"""ONNX models of one rotary op, any form."""

from __future__ import annotations

import numpy as np
import onnx

from ropeexport.ops.apply_rope import rope_function
from ropeexport.ops.forms import ROTARY_SIZE, Form
from ropeexport.ops.norm_rope import norm_rope_function

B, L, D = 2, 5, 8
TYPES = {"float": np.float32, "float16": np.float16}
HEADS = {"q": 4, "k": 2}


NORM = {"epsilon": 1e-5, "axis": -1, "perm": [0, 2, 1, 3]}  # of a form that norms first


def pairs_of(form: Form) -> int:
    return D // 2 - 1 if form.partial else D // 2


def sizes_of(form: Form, x: str, **norm: object) -> tuple[int, ...]:
    """Return the sizes of an input of data, (B, L, H, D) where it is brought into (B, H, L, D)."""
    heads = HEADS[x]
    swapped = form.normed and (NORM | norm)["perm"] == [0, 2, 1, 3]
    return (B, L, heads, D) if swapped else (B, heads, L, D)


def scale_sizes(x: str, **norm: object) -> tuple[int, ...]:
    """Return the sizes of a scale: of a head, or of all heads together."""
    return (D,) if (NORM | norm)["axis"] == -1 else (HEADS[x[0]], D)


def model_of(form: Form, body: str, kind: str, scale: str = "", **norm: object) -> onnx.ModelProto:
    """Return a model of one node; ``scale`` is the scales' type, ``norm`` what its norm says."""
    given = NORM | norm
    data = [
        f"{kind}[{', '.join('b' if n == B else 'l' if n == L else str(n) for n in sizes)}] {x}"
        for x in form.data_inputs
        for sizes in [sizes_of(form, x, **norm)]
    ]
    pairs = pairs_of(form)
    tables = {
        "pe": f"float[t, 1, l, {D // 2}, 2, 2] pe",
        "cos": f"float[t, l, {pairs}] cos",
        "sin": f"float[t, l, {pairs}] sin",
    }
    scales = [
        f"{scale or kind}[{', '.join(map(str, scale_sizes(x, **norm)))}] {x}"
        for x in form.scale_inputs
    ]
    inputs = ", ".join([*data, *(tables[t] for t in form.table_inputs), *scales])
    outputs = ", ".join(f"{kind}[b, {HEADS[x]}, l, {D}] {x}_out" for x in form.data_inputs)
    attributes = ", ".join(f'{name} = "{value}"' for name, value in form.attributes.items())
    attributes += f", {ROTARY_SIZE} = {2 * pairs}" if form.partial else ""
    for name, value in given.items() if form.normed else ():
        attributes += f", {name} = {value}"
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23, "ropeexport": 1]>
        g ({inputs}) => ({outputs}) {{
          {", ".join(f"{x}_out" for x in form.data_inputs)} = ropeexport.{form.op_type}
            <{attributes}> ({", ".join(form.inputs)})
        }}"""
    )
    model.functions.append(rope_function(form.rotation, 23, body))
    if form.normed:
        model.functions.append(norm_rope_function(form, 23))
    onnx.checker.check_model(model, full_check=True)
    return model
