"""Attention over a cache by onnxruntime's own operator: where it is put, and its numbers."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from ropeexport.fusion.cached_attention import put_grouped, with_grouped
from ropeexport.onnx_files.variants import with_standard_attention

HEADS, GROUPS, D, CAPACITY = 4, 2, 8, 16
TOTAL = "past + l"  # which ONNX's text cannot say
MASKS = {
    "own": "both = And(causal, real) seen = Or(both, own)",
    "none": "seen = And(causal, real)",
    "later": "both = Or(causal, real) seen = Or(both, own)",
}
TEXT = """
<ir_version: 10, opset_import: ["" : {opset}]>
g ({kind}[b, {heads}, l, {d}] q, {kind}[b, {groups}, l, {d}] k, {kind}[b, {groups}, l, {d}] v,
   {kind}[b, {groups}, {past}, {d}] past_k, {kind}[b, {groups}, {past}, {d}] past_v,
   int64[b, total] kept)
=> ({out} y, {kind}[b, {groups}, {slots}, {d}] new_k, {kind}[b, {groups}, {slots}, {d}] new_v)
<{kind}[b, {heads}, l, {d}] a, {kind}[b, l, {heads}, {d}] turned, bool[b, 1, l, {slots}] seen,
 int64 zero = {{0}}, int64 one = {{1}}, int64[2] side = {{1, 2}}, int64[1] last = {{-1}},
 int64[3] rows = {{0, 0, -1}}, int64 capacity = {{{capacity}}}>
{{
    total_1 = Shape<start = 1>(kept)
    all = Squeeze(total_1)
    length_1 = Shape<start = 2, end = 3>(q)
    length = Squeeze(length_1)
    held = Sub(all, length)
    new = Range(zero, length, one)
    at = Add(new, held)
    row = Unsqueeze(at, last)
    places = Range(zero, {size}, one)
    causal = LessOrEqual(places, row)
    own = Equal(places, row)
    {padding}
    as_bits = Cast<to = 9>(padded)
    real = Unsqueeze(as_bits, side)
    {mask}
    batch = Shape<start = 0, end = 1>(q)
    write = Expand(held, batch)
    new_k = {update}
    new_v = {update_v}
    a = Attention{attributes}(q, new_k, new_v, seen)
    {end}
}}
"""
FORMS = {
    "grow": {
        "opset": 23, "past": "past", "slots": "total", "size": "all",
        "padding": "padded = Identity(kept)",
        "update": "Concat<axis = -2>(past_k, k)", "update_v": "Concat<axis = 2>(past_v, v)",
    },
    "fixed": {
        "opset": 24, "past": CAPACITY, "slots": CAPACITY, "size": "capacity",
        "padding": """
            room = Sub(capacity, all)
            room_1 = Unsqueeze(room, last)
            pads_0 = Constant<value_ints = [0, 0, 0]>()
            pads = Concat<axis = 0>(pads_0, room_1)
            padded = Pad(kept, pads)""",
        "update": "TensorScatter<axis = 2>(past_k, k, write)",
        "update_v": "TensorScatter<axis = -2>(past_v, v, write)",
    },
}  # fmt: skip
SIDE_BY_SIDE = "turned = Transpose<perm = [0, 2, 1, 3]>(a) y = Reshape(turned, rows)"


def model(form: str = "grow", mask: str = "own", **given: object) -> ir.Model:
    """Return a model of one attention over a cache."""
    kind = given.get("kind", "float")
    sizes = {"heads": HEADS, "groups": GROUPS, "d": D, "kind": kind, "capacity": CAPACITY}
    facts = {**sizes, **FORMS[form], "attributes": "", "end": SIDE_BY_SIDE, **given}
    facts.setdefault("out", f"{kind}[b, l, {facts['heads'] * facts['d']}]")  # type: ignore[operator]
    read = ir.from_proto(onnx.parser.parse_model(TEXT.format(mask=MASKS[mask], **facts)))
    values = (*read.graph.inputs, *(y for node in read.graph for y in node.outputs))
    for value in values:
        if value.shape is not None:
            dims = (TOTAL if dim == "total" else dim for dim in value.shape)
            value.shape = ir.Shape(dims)
    return read


def feeds(form: str, batch: int, past: int, length: int, dtype: type = np.float32) -> dict:
    rng = np.random.default_rng(past * 10 + length)
    kept = rng.integers(0, 2, (batch, past + length))
    shapes = dict.fromkeys("kv", (batch, GROUPS, length, D)) | {"q": (batch, HEADS, length, D)}
    slots = CAPACITY if form == "fixed" else past
    shapes |= {f"past_{name}": (batch, GROUPS, slots, D) for name in "kv"}
    return {name: rng.standard_normal(s).astype(dtype) for name, s in shapes.items()} | {
        "kept": kept
    }


def run(made: ir.Model, given: dict) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    message = ir.to_proto(made).SerializeToString()
    return onnxruntime.InferenceSession(message, options, ["CPUExecutionProvider"]).run(None, given)


def exact(given: dict) -> list[np.ndarray]:
    """Return what is attended to and the cache as far as it is held, in float64."""
    wide = {name: x.astype(np.float64) for name, x in given.items()}
    length, total = given["q"].shape[2], given["kept"].shape[1]
    held = total - length
    k, v = (np.concatenate([wide[f"past_{x}"][:, :, :held], wide[x]], 2) for x in "kv")
    rows = held + np.arange(length)[:, None]
    seen = (np.arange(total) <= rows) & (given["kept"] == 1)[:, None]
    seen |= np.arange(total) == rows
    scores = wide["q"] @ k.repeat(HEADS // GROUPS, 1).swapaxes(-1, -2) / np.sqrt(D)
    weights = np.exp(scores) * seen[:, None]
    y = weights / weights.sum(-1, keepdims=True) @ v.repeat(HEADS // GROUPS, 1)
    return [y.swapaxes(1, 2).reshape(*y.shape[:1], length, HEADS * D), k, v]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "bound"), [("float", 2e-6), ("float16", 4e-3)])
def test_the_operator_computes_what_the_file_does(form: str, kind: str, bound: float) -> None:
    made = model(form, kind=kind)
    assert put_grouped(made) == 1
    assert [n.op_type for n in made.graph][-1] == "If"  # heads come out side by side
    for batch, past, length in product((1, 3), (0, 1, 7), (1, 4)):
        given = feeds(form, batch, past, length, {"float": np.float32}.get(kind, np.float16))
        total = past + length
        found = run(made, given)
        for x, truth in zip(found, exact(given), strict=True):
            kept = x[:, :, :total] if x.ndim == 4 else x
            assert np.abs(kept - truth).max() < bound, (batch, past, length)


def test_past_and_present_may_be_one_memory() -> None:
    made, given = model("fixed"), feeds("fixed", 2, 5, 1)
    assert put_grouped(made) == 1
    truth = exact(given)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(ir.to_proto(made).SerializeToString(), options)
    binding = session.io_binding()
    held = {x: onnxruntime.OrtValue.ortvalue_from_numpy(given[f"past_{x}"]) for x in "kv"}
    binding.bind_output("y")
    for x, memory in held.items():
        binding.bind_ortvalue_input(f"past_{x}", memory)
        binding.bind_ortvalue_output(f"new_{x}", memory)
    for name in ("q", "k", "v", "kept"):
        binding.bind_cpu_input(name, given[name])
    session.run_with_iobinding(binding)
    assert np.abs(binding.get_outputs()[0].numpy() - truth[0]).max() < 2e-6
    behind = given["past_k"][:, :, 6:]  # what is there is left alone
    assert np.array_equal(held["k"].numpy()[:, :, 6:], behind)
    assert np.abs(held["k"].numpy()[:, :, :6] - truth[1]).max() == 0


def test_heads_that_are_wanted_apart_stay_apart() -> None:
    made = model(end="y = Identity(a)", out=f"float[b, {HEADS}, l, {D}]")
    assert put_grouped(made) == 1
    given = feeds("grow", 2, 3, 1)
    apart = exact(given)[0].reshape(2, 1, HEADS, D).swapaxes(1, 2)
    assert np.abs(run(made, given)[0] - apart).max() < 2e-6


@pytest.mark.parametrize(
    "change",
    [
        {"attributes": "<softcap = 2.0>"},
        {"attributes": "<is_causal = 1>"},
        {"attributes": "<softmax_precision = 1>"},
        {"kind": "bfloat16"},
        {"kind": "double"},
        {"d": 12},
        {"heads": 3},
        {"mask": "none"},
        {"mask": "later"},
        {"update": "Concat<axis = 3>(past_k, k)"},
        {"update_v": "Identity(v)"},
        {"end": SIDE_BY_SIDE + " other = Neg(new_k)"},
    ],
    ids=str,
)
def test_what_it_may_not_compute_is_left(change: dict) -> None:
    assert put_grouped(model(**change)) == 0
    made = model(**change)
    assert with_grouped(made) is made


@pytest.mark.parametrize("form", FORMS)
def test_readers_of_the_standards_operators_get_them_back(form: str) -> None:
    made = model(form)
    before = Counter(n.op_type for n in made.graph)
    put_grouped(made)
    back = with_standard_attention(made)
    assert Counter(n.op_type for n in back.graph) <= before
    given = feeds(form, 2, 3, 2)
    for x, y in zip(run(back, given), run(model(form), given), strict=True):
        assert np.array_equal(x, y)
