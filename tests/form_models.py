"""ONNX models of one rotary op, any form."""

from __future__ import annotations

import numpy as np
import onnx

from ropeexport.ops.apply_rope import rope_function
from ropeexport.ops.forms import ROTARY_SIZE, Form

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
