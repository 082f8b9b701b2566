"""Each rule finds what it is for, and nothing in a graph that is right."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from ropeexport import manifest
from ropeexport.lint.__main__ import page
from ropeexport.lint.graph_rules import GRAPH_RULES, Graph
from ropeexport.lint.lint import FILE_RULES, RULES, lint
from ropeexport.manifest import EngineRecord, Profile, Refusal, RopeCount
from ropeexport.onnx_files.inspection import inspect, subject_of

PAGE = Path(__file__).parents[2] / "docs" / "lint.md"
ROPE = 'ropeexport.ApplyRope <plugin_version = "1", plugin_namespace = "ropeexport">'
FOUR = "[b, 2, l, 8]"
CLEAN = f"""
g (float16{FOUR} q, float16{FOUR} k, float16{FOUR} v, float[b, 1, l, 4, 2, 2] pe)
  => (float16{FOUR} out) {{
  rq, rk = {ROPE}(q, k, pe)
  out = Attention(rq, rk, v)
}}"""
# a rule, and the graph that breaks it: the clean one, changed in one place
BROKEN = {
    "float64": ("out = Attention(rq, rk, v)", """
  wide = Cast<to = 11>(v)
  back = Cast<to = 10>(wide)
  out = Attention(rq, rk, back)"""),
    "half-tables": ("rq, rk = ", "half = Cast<to = 16>(pe)\n low = Cast<to = 1>(half)\n rq, rk = "),
    "not-cast-back": (f"rq, rk = {ROPE}(q, k, pe)\n  out = Attention(rq, rk, v)", f"""
  wq = Cast<to = 1>(q)
  wk = Cast<to = 1>(k)
  wv = Cast<to = 1>(v)
  rq, rk = {ROPE}(wq, wk, pe)
  wide = Attention(rq, rk, wv)
  out = Cast<to = 10>(wide)"""),
    "attention-casts": ("out = Attention(rq, rk, v)", """
  wq = Cast<to = 1>(rq)
  wk = Cast<to = 1>(rk)
  wv = Cast<to = 1>(v)
  wide = Attention(wq, wk, wv)
  out = Cast<to = 10>(wide)"""),
    "attention-written-out": ("out = Attention(rq, rk, v)", """
  turned = Transpose<perm = [0, 1, 3, 2]>(rk)
  scores = MatMul(rq, turned)
  shares = Softmax(scores)
  out = MatMul(shares, v)"""),
    "attention-limits": ("Attention(rq, rk, v)", "Attention<left_window_size = 7>(rq, rk, v)"),
    "unknown-sizes": ("out = Attention(rq, rk, v)", """
  places = NonZero(v)
  out = Attention(rq, rk, v)"""),
    "no-plugin-attributes": (ROPE, "ropeexport.ApplyRope"),
    "rope-casts": (f"rq, rk = {ROPE}(q, k, pe)", f"""
  wq = Cast<to = 1>(q)
  wk = Cast<to = 1>(k)
  fq, fk = {ROPE}(wq, wk, pe)
  rq = Cast<to = 10>(fq)
  rk = Cast<to = 10>(fk)"""),
    "rope-transposes": (f"rq, rk = {ROPE}(q, k, pe)", f"""
  tq = Transpose<perm = [0, 1, 2, 3]>(q)
  fq, rk = {ROPE}(tq, k, pe)
  rq = Transpose<perm = [0, 1, 2, 3]>(fq)"""),
    "frozen-shapes": ("b, ", "1, "),
}  # fmt: skip


def graph_of(text: str, *, body: bool = True) -> Graph:
    head = '<ir_version: 10, opset_import: ["" : 23, "ropeexport" : 1]>'
    model = onnx.parser.parse_model(head + text)
    if body:
        from ropeexport.ops.apply_rope import rope_function
        from ropeexport.ops.forms import APPLY_ROPE

        model.functions.append(rope_function(APPLY_ROPE, 23))
    return Graph(ir.from_proto(model))


def found_in(graph: Graph) -> set[str]:
    return {finding.rule for rule in GRAPH_RULES for finding in rule.findings(graph)}


def test_a_clean_graph_has_no_finding() -> None:
    assert found_in(graph_of(CLEAN)) == set()


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_finds_what_it_is_for(name: str) -> None:
    right, wrong = BROKEN[name]
    assert right in CLEAN
    text = CLEAN.replace(right, wrong)
    if name == "half-tables":
        text = text.replace("(q, k, pe)", "(q, k, low)")
    if name == "frozen-shapes":
        text = text.replace("l, ", "7, ")
    assert name in found_in(graph_of(text))


def test_a_rope_that_is_cast_back_is_in_order() -> None:
    right, wrong = BROKEN["rope-casts"]
    assert found_in(graph_of(CLEAN.replace(right, wrong))) == {"rope-casts"}


@pytest.mark.parametrize(
    ("domain", "inputs"), [("", "q, tables, tables"), ("com.microsoft", "q, pos, tables, tables")]
)
def test_half_tables_of_onnx_and_of_onnxruntime(domain: str, inputs: str) -> None:
    op = f"{domain}.RotaryEmbedding" if domain else "RotaryEmbedding"
    text = f"""
g (float16{FOUR} q, int64[b, l] pos, float16[l, 4] tables) => (float16{FOUR} out) {{
  out = {op}({inputs})
}}"""
    head = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>'
    assert found_in(Graph(ir.from_proto(onnx.parser.parse_model(head + text)))) == {"half-tables"}


def test_a_rope_without_its_body_is_found() -> None:
    assert found_in(graph_of(CLEAN, body=False)) == {"no-function-body"}


def names(folder: Path) -> set[str]:
    return {finding.rule for finding in lint(subject_of(folder)).findings}


def test_our_own_exports_are_in_order(export_once) -> None:
    for model in ("flux-attention", "flux-self-attention-ids"):
        assert names(export_once(model)) == {"implementation"}


def test_what_is_written_out_is_found(tmp_path) -> None:
    import torch

    from ropeexport.reference import rotate

    class Plain(torch.nn.Module):
        def forward(self, q, pe):
            return rotate(q, pe)

    path = tmp_path / "plain.onnx"
    pe = torch.zeros(2, 1, 6, 4, 2, 2)
    torch.onnx.export(Plain(), (torch.zeros(2, 3, 6, 8), pe), path, dynamo=True, verbose=False)
    assert names(path) == {"rope-written-out", "frozen-shapes"}


def engine(folder: Path, **changes: object) -> EngineRecord:
    shapes = {"q": (1, 2, 8, 64)}
    values = {
        "file": "model.engine", "sha256": "0", "model_sha256": "0", "flavour": "tensorrt-rtx",
        "version": "1.7", "inputs": (), "outputs": (), "attention": "fused",
        "profile": Profile(min=shapes, opt=shapes, max=shapes), "compute_capabilities": (),
        "ropes": {"ApplyRope_0": "native"},
    } | changes  # fmt: skip
    return EngineRecord(**values)


def with_engine(folder: Path, **changes: object) -> set[str]:
    from ropeexport import atomic

    (folder / "model.engine").write_bytes(b"engine")
    changes = {"sha256": atomic.sha256_of(folder / "model.engine")} | changes
    record = manifest.read(folder).model_copy(update={"engine": engine(folder, **changes)})
    manifest.write(folder, record)
    return names(folder)


def test_rules_over_an_engine(exported) -> None:
    folder = exported()
    assert with_engine(folder) == {"implementation"}
    assert with_engine(folder, attention="decomposed") == {"implementation", "attention-decomposed"}
    ropes = {"ApplyRope_0": "decomposed"}
    assert with_engine(folder, ropes=ropes) == {"implementation", "rope-decomposed"}
    assert "stale-engine" in with_engine(folder, sha256="other")


def test_rules_over_a_manifest(exported) -> None:
    folder = exported()
    record = manifest.read(folder)
    count = RopeCount(found=2, replaced=1, refused=(Refusal(node="mul", reason="not proven"),))
    model = record.model.model_copy(update={"recognition": count})
    manifest.write(folder, record.model_copy(update={"model": model}))
    assert names(folder) == {"implementation", "rope-refused"}
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\x72\x00")  # an empty doc string: the same graph
    assert "changed-file" in names(folder)


@pytest.mark.parametrize("opset", [7, 11, 16])
def test_a_file_of_an_older_opset_is_held_to_the_other_rules(tmp_path, opset: int) -> None:
    text = f'<ir_version: 4, opset_import: ["" : {opset}]>\n'
    text += "g (double[2] x) => (double[2] y) { m = Mul(x, x) y = Add(m, x) }"
    path = tmp_path / "old.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    found = {each.rule: each for each in lint(subject_of(path)).findings}
    is_sought = opset >= 11
    more = [] if is_sought else ["ropes-not-sought"]
    assert list(found) == ["float64", "frozen-shapes", *more]
    assert is_sought or f"opset {opset}: expected 11 or later" in found[more[0]].text


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("seq(float[n])", "sequence of float32"),
        ("optional(seq(int64[n]))", "optional sequence of int64"),
        ("string[n]", "string"),
        ("float16[n]", "float16"),
    ],
)
def test_a_file_of_any_types_is_read_and_they_are_said(tmp_path, kind: str, shown: str) -> None:
    text = '<ir_version: 10, opset_import: ["" : 23]>\n'
    path = tmp_path / "any.onnx"
    onnx.save(
        onnx.parser.parse_model(f"{text}g ({kind} x) => ({kind} y) {{ y = Identity(x) }}"), path
    )
    found = inspect(subject_of(path)).model
    assert [spec.dtype for spec in (*found.inputs, *found.outputs)] == [shown] * 2
    assert not lint(subject_of(path)).errors


def test_every_rule_has_a_test_and_a_line() -> None:
    tested = {*BROKEN, "no-function-body", "rope-written-out", "ropes-not-sought"}
    assert {rule.name for rule in RULES} - {rule.name for rule in FILE_RULES} == tested
    assert page() == PAGE.read_text(), "python -m ropeexport.lint > docs/lint.md"
    assert len(re.findall(r"^\| `", page(), re.MULTILINE)) == len({rule.name for rule in RULES})


def test_inspection_stays_as_it_was(export_once) -> None:
    folder = export_once()
    assert lint(subject_of(folder)).inspection == inspect(subject_of(folder))


def test_an_operator_of_another_domain_is_none_of_the_rules() -> None:
    text = '<ir_version: 10, opset_import: ["" : 23, "my" : 1]>\n'
    text += "g (float16[b, 2, l, 8] q, float16[b, 2, l, 8] k, float16[b, 2, l, 8] v)"
    text += " => (float16[b, 2, l, 8] y) { t = Transpose<perm = [0, 1, 3, 2]>(k)"
    text += " s = MatMul(q, t) w = Softmax(s) y = MatMul(w, v) }"
    other = ir.from_proto(onnx.parser.parse_model(text))
    assert found_in(Graph(other)) == {"attention-written-out"}
    for node in other.graph:
        if node.op_type == "MatMul":
            node.domain = "my"
    assert found_in(Graph(other)) == set()
