"""Every op of the registry: one name, one signature, one meaning, wherever a stage asks for it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

import ropeexport.ops
from ropeexport.exporting.translations import schema_of, translation_table
from ropeexport.ops import names, rope_table
from ropeexport.ops.forms import FORMS, ROTARY_SIZE, Form
from ropeexport.ops.op import Op, resolve
from ropeexport.ops.registry import OPS, op_of, op_of_role
from ropeexport.testing import assert_parity

OPSET = 23
B, H, L, D = 2, 2, 5, 8
Example = tuple[dict[str, np.ndarray], dict[str, Any]]  # inputs, and values of options

every_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.op_type)
TORCH_OPS = [torch_op for op in OPS for torch_op in op.torch_ops]


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def rotary_example(form: Form) -> Example:
    pairs = D // 2 - form.partial
    tables = {name: drawn(B, L, pairs) for name in form.table_inputs}
    if form.coefficients.by_head:
        tables = {name: drawn(B, 1, L, pairs, 2, 2) for name in form.table_inputs}
    elif form.coefficients.rotations_only:
        angles = drawn(B, L, pairs)
        tables = {"cos": np.cos(angles), "sin": np.sin(angles)}
    options: dict[str, Any] = {ROTARY_SIZE: 2 * pairs} if form.partial else {}
    if not form.normed:
        return {x: drawn(B, H, L, D) for x in form.data_inputs} | tables, options
    data = {x: drawn(B, L, H, D) for x in form.data_inputs}
    scales = {x: drawn(D) for x in form.scale_inputs}
    return data | tables | scales, options | {"epsilon": 1e-3, "axis": -1, "perm": [0, 2, 1, 3]}


def attention_example(blocks_from: int) -> Example:
    inputs = {"q": drawn(B, H, L, D), "k": drawn(B, H, 7, D), "v": drawn(B, H, 7, 4)}
    return inputs, {"num_heads": H, "scale": 0.5, "blocks_from": blocks_from}


def table_example() -> Example:
    coarse, fine = rope_table.digit_tables(10.0 ** -np.arange(4), max_position=99_999)
    return {"pos": np.array([0, 1, -7, 1023, 99_999]), "coarse": coarse, "fine": fine}, {}


EXAMPLES: dict[str, list[Example]] = {
    **{name: [rotary_example(form)] for name, form in FORMS.items()},
    "RopeTable": [table_example()],
    "AttentionInBlocks": [attention_example(1), attention_example(8)],
}


def model_of(op: Op, inputs: dict[str, np.ndarray], options: dict[str, Any]) -> onnx.ModelProto:
    helper = onnx.helper
    node = helper.make_node(
        op.op_type, list(inputs), list(op.outputs), domain=names.DOMAIN, **op.attributes, **options
    )
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in inputs.items()
    ]
    meant = zip(op.outputs, op.evaluate(options, list(inputs.values())), strict=True)
    outputs = [helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, x.shape) for y, x in meant]
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(names.DOMAIN, 1)]
    graph = helper.make_graph([node], "g", values, outputs)
    model = helper.make_model(
        graph, functions=op.functions(OPSET), opset_imports=imports, ir_version=10
    )
    onnx.checker.check_model(model)
    return model


@every_op
def test_a_body_computes_what_the_op_means(op: Op) -> None:
    for inputs, options in EXAMPLES[op.op_type]:

        def meant(given=options, **wide: np.ndarray) -> tuple[np.ndarray, ...]:
            return op.evaluate(given, list(wide.values()))

        got = ReferenceEvaluator(model_of(op, inputs, options)).run(None, inputs)
        assert_parity(got, meant, inputs=inputs)


@every_op
def test_a_body_has_the_signature_of_its_op(op: Op) -> None:
    *_, body = op.functions(OPSET)
    assert (body.domain, body.name, body.doc_string) == (names.DOMAIN, op.op_type, op.contract)
    assert list(body.input) == list(op.inputs)
    assert list(body.output) == list(op.outputs)
    assert set(body.attribute) == {*op.attributes, *op.options}


@every_op
def test_a_schema_can_be_made_of_every_op(op: Op) -> None:
    schema = schema_of(op)
    assert (schema.domain, schema.name, schema.doc) == (names.DOMAIN, op.op_type, op.contract)
    assert set(schema.attributes) == {*op.attributes, *op.options}


def test_names_are_unique() -> None:
    for taken in (
        [op.op_type for op in OPS],
        [torch_op.name for torch_op in TORCH_OPS],
        [result for op in OPS for result in op.results],
    ):
        assert len(set(taken)) == len(taken)
    assert all(op_of(names.DOMAIN, op.op_type) is op for op in OPS)
    assert op_of("", "Attention") is None


@every_op
def test_what_an_op_says_of_its_inputs_and_outputs_names_them(op: Op) -> None:
    assert set(op.roles) <= {*op.inputs, *op.outputs}
    assert len(op.results) in (0, len(op.outputs))


def test_results_of_a_role_are_judged_by_the_rule_of_their_op() -> None:
    rotary = op_of_role("rotated")
    assert rotary is not None
    assert (rotary.terms, rotary.rule.rpartition(":")[2]) == (1, "rotation_bound")
    assert op_of_role("data") is None


@every_op
def test_every_reference_leads_somewhere(op: Op) -> None:
    references = [op.rule, op.matcher]
    references += [text for t in op.torch_ops for text in (t.translation, t.plain)]
    assert all(callable(resolve(reference)) for reference in references if reference)


def test_every_torch_op_is_translated() -> None:
    for module in pkgutil.iter_modules(ropeexport.ops.__path__, "ropeexport.ops."):
        import_module(module.name)
    registered = {
        getattr(torch.ops.ropeexport, name.partition("::")[2]).default
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("ropeexport::")
    }
    table = translation_table(max_position=1)
    own = {op for op in table if getattr(op, "namespace", "") == "ropeexport"}
    assert registered == own


def test_a_torch_op_is_what_it_is_in_plain_torch() -> None:
    arguments = {
        "apply_rope": tuple(
            torch.randn(s) for s in ((2, 3, 4, 8), (2, 1, 4, 8), (1, 1, 4, 4, 2, 2))
        ),
        "norm_rope": (
            *(torch.randn(s) for s in ((2, 4, 3, 8), (2, 4, 1, 8), (8,), (8,), (1, 1, 4, 4, 2, 2))),
            1e-3,
            [0, 2, 1, 3],
        ),
        "rope_table": (torch.arange(5), 8, 1e4),
    }
    for torch_op in TORCH_OPS:
        given = arguments[torch_op.name]
        ours, plain = torch_op.overload(*given), resolve(torch_op.plain)(*given)
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


def test_the_registry_loads_no_library_of_the_exporter() -> None:
    """A TensorRT build reads the ops, and has none of these."""
    code = (
        "import sys, ropeexport.ops.registry\n"
        "loaded = {'torch', 'onnxscript', 'onnxruntime'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
