"""The rotary ops that norm first, ``ropeexport::NormRope`` and its kin: body, NumPy meaning.

Between a projection and its attention q and k are divided by their root mean square, scaled,
brought from (B, L, H, D) into (B, H, L, D), and rotated: one op, so that one kernel can read and
write them once.  The body is what the op stands for: ``RMSNormalization``, ``Transpose``, and the
op that rotates in the same way, whose own body a TensorRT build chooses
(:mod:`ropeexport.ops.apply_rope`).

The type of a scale says where is rounded.  A scale of the data's type, as FLUX's and Qwen's norms
have it: what is normed is rounded to the data's type and then multiplied.  A float32 scale of half
data, as Gemma's and torch's ``nn.RMSNorm``: it is multiplied in float32 and rounded once.

This module needs onnx alone, so that a build imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from ropeexport.manifest import Role
from ropeexport.ops import names
from ropeexport.ops.apply_rope import apply_form, rope_function
from ropeexport.ops.forms import AXIS, EPSILON, FORMS, PERM, ROTARY_SIZE, Form
from ropeexport.ops.op import FLOATS, Array, Op, TorchOp, function_of

# onnxruntime's kernel has data and scale of one type, whatever the standard says
_NORMED_EACH = f"""
  {{x}}_like = CastLike({{x}}, {{x}}_scale)
  {{x}}_scaled = RMSNormalization<{AXIS}: int = @{AXIS}, {EPSILON}: float = @{EPSILON}>
    ({{x}}_like, {{x}}_scale)
  {{x}}_narrowed = CastLike({{x}}_scaled, {{x}})
  {{x}}_normed = Transpose<{PERM}: ints = @{PERM}>({{x}}_narrowed)
"""


def norm_rope_function(form: Form, opset: int) -> onnx.FunctionProto:
    """Return the model-local function of an op that norms first; it calls the one that rotates."""
    rotation = form.rotation
    normed = "".join(_NORMED_EACH.format(x=x) for x in form.data_inputs)
    given = [f'{name} = "{value}"' for name, value in rotation.attributes.items()]
    given += [f"{ROTARY_SIZE}: int = @{ROTARY_SIZE}"] if form.partial else []
    inputs = ", ".join([*(f"{x}_normed" for x in form.data_inputs), *form.table_inputs])
    outputs = ", ".join(f"{x}_out" for x in form.data_inputs)
    return function_of(
        f'<domain: "{names.DOMAIN}", opset_import: ["" : {opset}, "{names.DOMAIN}" : '
        f"{names.DOMAIN_VERSION}]>\n"
        f"{form.op_type} <{', '.join(form.attribute_names)}> ({', '.join(form.inputs)}) => "
        f"({outputs}) {{ {normed} {outputs} = {names.DOMAIN}.{rotation.op_type}"
        f"<{', '.join(given)}>({inputs}) }}",
        form.contract,
    )


def norm(x: Array, scale: Array, *, epsilon: float, axis: int, perm: Sequence[int]) -> Array:
    """Divide by the root mean square over the axes from ``axis`` on, scale, transpose.

    Parameters
    ----------
    x : array
        (B, H, L, D), or (B, L, H, D).
    scale : array
        (D,), or (H, D) where ``axis`` is -2.
    epsilon : float
        What is added to the mean of the squares.
    axis : int
        -1: each head by itself; -2: all heads of a token together.
    perm : sequence of int
        Order of the axes of ``x`` that makes it (B, H, L, D).

    Returns
    -------
    array
        (B, H, L, D), not rounded on the way.
    """
    axes = tuple(range(axis, 0))
    mean = np.square(x).mean(axis=axes, keepdims=True)
    normed: Array = (x / np.sqrt(mean + epsilon) * scale).transpose(perm)
    return normed


def norm_and_apply(form: Form, attributes: Mapping[str, Any], *inputs: Array) -> tuple[Array, ...]:
    """Run an op that norms first on arrays, in the order of ``form.inputs``."""
    given = {name: attributes[name] for name in (EPSILON, AXIS, PERM)}
    data = zip(inputs[: form.tensors], form.scales_of(inputs), strict=True)
    normed = [norm(x, scale, **given) for x, scale in data]
    return apply_form(form.rotation, *normed, *form.tables_of(inputs))


_TORCH = "ropeexport.ops.norm_rope_torch"
_TORCH_OP = TorchOp("norm_rope", f"{_TORCH}:translation", f"{_TORCH}:plain")
_ON_TORCH = Form("matrices", "interleaved", 2, normed=True)


def _op(form: Form) -> Op:
    data, outputs = form.data_inputs, tuple(f"{x}_out" for x in form.data_inputs)
    types = tuple(f"T{x}" for x in data)
    scale_types = {x: f"S{x}" for x in data}
    tables: dict[str, Role] = dict.fromkeys(form.table_inputs, form.coefficients.role)
    scales = dict(zip(form.scale_inputs, scale_types.values(), strict=True))
    return Op(
        op_type=form.op_type,
        contract=form.contract,
        inputs=dict(zip(data, types, strict=True))
        | dict.fromkeys(form.table_inputs, "tensor(float)")
        | scales,
        outputs=dict(zip(outputs, types, strict=True)),
        types=dict.fromkeys((*types, *scales.values()), FLOATS),
        functions=lambda opset: (
            rope_function(form.rotation, opset),
            norm_rope_function(form, opset),
        ),
        evaluate=lambda attributes, inputs: norm_and_apply(form, attributes, *inputs),
        attributes=form.attributes,
        options=form.options,
        roles=tables,
        results=tuple(
            "_".join(filter(None, (x, "normed_rotated", form.suffix.lower()))) for x in data
        ),
        torch_ops=(_TORCH_OP,) if form == _ON_TORCH else (),
    )


OPS = tuple(_op(form) for form in FORMS.values() if form.normed)
