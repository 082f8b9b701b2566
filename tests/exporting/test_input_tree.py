"""Inputs in trees: named by their paths from the module to every stage, and put back into place."""

from __future__ import annotations

import doctest
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import user_models
from command_line import assert_one_line
from command_line import ropeexport as command
from torch import nn

import ropeexport
from ropeexport import manifest
from ropeexport.axes import parse_shapes
from ropeexport.bench.peers import plain_program
from ropeexport.errors import ExportError, ManifestError, UsageError
from ropeexport.models import example as example_module
from ropeexport.models import input_tree
from ropeexport.models.example import Example, bound, checked
from ropeexport.models.input_tree import recorded, restored, tree_of
from ropeexport.parity.cases import select
from ropeexport.profiles import make_profile
from ropeexport.testing import assert_parity

AXES, HEADS, SIZE = user_models.CACHE_AXES, user_models.CACHE_HEADS, user_models.CACHE_SIZE
RANGES = {"past": (0, 24, 48), "length": (1, 8, 24), "batch": (1, 2, 3)}
cached, kwargs, rotated = user_models.cached, user_models.cache_inputs, user_models.rotated


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cached")
    ropeexport.export(cached(), kwargs(), out, dynamic_axes=AXES, axes=RANGES, require_rope=1)
    return out


def exact(tokens: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the cache after all tokens at once."""
    empty = {name: x.double() for name, x in user_models.cache(2, 0).items()}
    with torch.no_grad():
        return cached().double()(torch.from_numpy(tokens), empty)[1]


def statuses(report) -> dict[str, str]:
    return {runtime.name: runtime.status for runtime in report.runtimes}


def test_a_cache_is_recorded_by_its_paths(folder: Path) -> None:
    record = manifest.read(folder)
    specs = {spec.name: spec for spec in record.model.inputs}
    assert {name: spec.path for name, spec in specs.items()} == {
        "x": (),
        "past.key": ("past", "key"),
        "past.value": ("past", "value"),
        "mask": (),
    }
    assert specs["past.value"].shape == ("batch", HEADS, "past", SIZE)
    assert specs["mask"].shape == (1, "length", "past + length")
    assert record.axes["past"].min == 0
    outputs = {spec.name: spec.shape for spec in record.model.outputs}
    assert list(outputs) == ["out.0", "out.1.key", "out.1.value"]
    assert outputs["out.1.key"] == ("batch", HEADS, "past + length", SIZE)
    graph = onnx.load(folder / "model.onnx").graph
    assert [x.name for x in graph.input] == list(specs)
    assert [x.name for x in graph.output] == list(outputs)
    assert {"qkv.weight", "qkv.bias"} <= {x.name for x in graph.initializer}


def test_a_cache_passes_empty_and_full(folder: Path) -> None:
    report = ropeexport.check(folder, module=cached())
    assert report.verdict == "PASS"
    found = statuses(report)
    assert (found["onnxruntime"], found["openvino"]) == ("PASS", "PASS")
    sizes = {case.sizes["past"] for case in select(manifest.read(folder)).cases}
    assert {0, 24, 48} <= sizes
    lengths = {
        c.sizes["length"] for c in select(manifest.read(folder)).cases if not c.sizes["past"]
    }
    assert {1, 8} <= lengths  # one token, and a prompt
    assert 0 in {c.sizes["past"] for c in select(manifest.read(folder), count=200).cases[60:]}


def test_a_wrong_cache_is_found_and_located(folder: Path, tmp_path: Path) -> None:
    made = ropeexport.export(cached(), kwargs(), tmp_path, dynamic_axes=AXES, axes=RANGES)
    assert made.check(cases=4, locate=True).verdict == "PASS"
    proto = onnx.load(tmp_path / "model.onnx")
    node = next(n for n in proto.graph.node if n.op_type == "Concat" and "past.value" in n.input)
    node.input[list(node.input).index("past.value")] = "past.key"
    onnx.save(proto, tmp_path / "model.onnx")
    report = made.check(cases=4, locate=True)
    assert report.verdict == "FAIL"
    assert {location.tensor for location in report.locations} <= {"out.1.value"}
    assert report.locations


def test_steps_of_a_cache_go_on_from_another(folder: Path) -> None:
    """What a user does with it: the present of one step is the past of the next."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    tokens = torch.randn(2, 7, HEADS * SIZE)
    held = {name: np.zeros((2, HEADS, 0, SIZE), np.float32) for name in ("key", "value")}
    for start, end in ((0, 4), (4, 5), (5, 7)):
        mask = np.zeros((1, end - start, end), np.float32)
        feeds = {"x": tokens[:, start:end].numpy(), "mask": mask}
        feeds |= {f"past.{name}": x for name, x in held.items()}
        _, held["key"], held["value"] = session.run(None, feeds)
    for name, x in held.items():
        assert_parity(x, lambda tokens, name=name: exact(tokens)[name], inputs={"tokens": tokens})


def test_a_profile_names_parts_of_a_tree(folder: Path) -> None:
    record = manifest.read(folder)
    profile = make_profile(record)
    assert profile.min["past.key"] == (1, HEADS, 0, SIZE)
    assert profile.max["mask"] == (1, 24, 72)
    shapes = parse_shapes(f"x:1x2x16,past.key:1x{HEADS}x3x{SIZE}")
    assert make_profile(record, min_shapes=shapes).min["mask"] == (1, 2, 5)
    with pytest.raises(UsageError, match=r"no input 'past'; the model has x, past\.key"):
        make_profile(record, min_shapes=parse_shapes("past:1x2"))


@pytest.mark.trt
def test_an_engine_with_an_empty_cache_is_built(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = ropeexport.build(folder, force=True)
    assert engine.profile.min["past.key"] == (1, HEADS, 0, SIZE)
    assert [spec.name for spec in engine.inputs] == ["x", "past.key", "past.value", "mask"]


def test_a_factory_and_the_command_line(tmp_path: Path) -> None:
    reference, out = f"{user_models.__file__}:growing_cache", tmp_path / "out"
    done = command("export", reference, "-o", out, "--require-rope", "1")
    assert done.returncode == 0, done.stderr
    assert "past.key" in done.stdout
    done = command("check", out, "--module", reference, "--cases", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    done = command("build", out, "--min-shapes", "past.keys:1x2")
    assert_one_line(done, 2, "no input 'past.keys'; the model has x, past.key, past.value, mask")


class Tables(nn.Module):
    """A rope whose tables come as a pair, as diffusers' blocks take them."""

    def forward(self, q, k, image_rotary_emb, extra):
        cos, sin = image_rotary_emb
        q, k = (rotated(x, cos, sin) for x in (q, k))
        return q * extra["scales"][1], k + extra["shift"][0]


def tables() -> dict[str, object]:
    q = torch.randn(1, HEADS, 6, SIZE)
    shift = [torch.randn(SIZE), None, "kept"]
    return {
        "q": q,
        "k": q + 1,
        "image_rotary_emb": (torch.randn(6, SIZE), torch.randn(6, SIZE)),
        "extra": {"scales": (2.0, 3), "shift": shift},
    }


def test_a_pair_of_tables_is_a_rope(tmp_path: Path) -> None:
    axes = {"q": {2: "length"}, "k": {2: "length"}, "image_rotary_emb": {0: "length"}}
    module = Tables()
    made = ropeexport.export(module, tables(), tmp_path, dynamic_axes=axes)
    assert (made.found, made.replaced) == (1, 1)
    names = [spec.name for spec in made.manifest.model.inputs]
    assert names == ["q", "k", "image_rotary_emb.0", "image_rotary_emb.1", "extra.shift.0"]
    assert made.check(cases=4).verdict == "PASS"
    assert ropeexport.check(tmp_path, module=module, cases=4).verdict == "PASS"
    example = ropeexport.Example(module, tables(), axes)
    assert ropeexport.check(tmp_path, module=example, cases=4).verdict == "PASS"
    for wrong in ({"scales": (2.0, 4)}, {"scales": (2.0, 3.5)}):
        other = tables()
        other["extra"] |= wrong
        example = ropeexport.Example(module, other, axes)
        assert ropeexport.check(tmp_path, module=example, cases=4).verdict == "FAIL"


class Layers(nn.Module):
    def forward(self, x, past):
        present = [(torch.cat((k, x), 1), torch.cat((v, -x), 1)) for k, v in past]
        return x * 2, present


class Named(nn.Module):
    """A name that is an input's too, an output twice, an input as it came, and none."""

    def forward(self, x, past):
        return {"x": x + 1, "past": [x * 2, past[0], None, past[0]], "mul": (x + 1) * 3}


class Handed(nn.Module):
    def forward(self, x, past):
        return x + past[0].sum(), past[0]


class Between(nn.Module):
    """A key that torch gives to a value in between."""

    def forward(self, x, past):
        return {"mul": x * 3 + past[0].sum(), "more": [x - 1]}


@pytest.mark.parametrize(
    ("module", "count", "names"),
    [
        (Layers(), 2, ["out.0", "out.1.0.0", "out.1.0.1", "out.1.1.0", "out.1.1.1"]),
        (Named(), 0, ["out.x", "out.past.0", "out.past.1", "out.past.3", "out.mul"]),
        (Handed(), 0, ["out.0", "out.1"]),
        (Between(), 0, ["mul", "more.0"]),
    ],
)
def test_a_tree_of_outputs_is_named_by_its_paths(tmp_path: Path, module, count, names) -> None:
    x = torch.randn(1, 3, 4)
    pairs = [(torch.randn(1, 5, 4), torch.randn(1, 5, 4)) for _ in range(count)]
    axes = {"x": {1: "length"}, "past": {1: "past"}}
    made = ropeexport.export(
        module, {"x": x, "past": pairs or [torch.randn(1, 5, 4)]}, tmp_path, dynamic_axes=axes
    )
    assert [spec.name for spec in made.manifest.model.outputs] == names
    report = made.check(cases=4)
    assert report.verdict == "PASS"
    assert {"onnxruntime", "openvino"} <= {n for n, s in statuses(report).items() if s == "PASS"}


@dataclass
class Pair:
    key: torch.Tensor
    value: torch.Tensor


torch.export.register_dataclass(Pair)


class Registered(nn.Module):
    def forward(self, past, x):
        return Pair(torch.cat((past.key, x), 1), past.value * 2)


def test_a_registered_class_is_a_tree(tmp_path: Path) -> None:
    given = {"past": Pair(torch.randn(1, 5, 4), torch.randn(1, 5, 4)), "x": torch.randn(1, 3, 4)}
    module = Registered()
    made = ropeexport.export(
        module, given, tmp_path, dynamic_axes={"past": {1: "past"}, "x": {1: "length"}}
    )
    assert [spec.path for spec in made.manifest.model.inputs] == [
        ("past", "key"), ("past", "value"), (),
    ]  # fmt: skip
    assert made.check(cases=4).verdict == "PASS"
    with pytest.raises(
        UsageError, match=r"the manifest cannot hold \(past\): pass ropeexport.Exam"
    ):
        ropeexport.check(tmp_path, module=module)


def test_a_part_of_a_tree_may_have_axes_of_its_own(tmp_path: Path) -> None:
    axes = {"past": {1: "past"}, "past.1.1": {1: "other"}, "x": {1: "length"}}
    pairs = [tuple(torch.randn(1, n, 4) for n in sizes) for sizes in ((5, 5), (5, 6))]
    example = ropeexport.Example(Layers(), {"x": torch.randn(1, 3, 4), "past": pairs}, axes)
    made = ropeexport.export(example, out=tmp_path)
    shapes = {spec.name: spec.shape for spec in made.manifest.model.inputs}
    assert shapes["past.1.0"] == (1, "past", 4)
    assert shapes["past.1.1"] == (1, "other", 4)


class Grid(nn.Module):
    """Positions that look like any other floats."""

    def forward(self, ids, x):
        return x * ids["row"]


def test_roles_are_as_they_are_said(tmp_path: Path) -> None:
    given = {"ids": {"row": torch.zeros(1, 6, 3)}, "x": torch.randn(1, 6, 3)}
    axes = {"ids": {1: "length"}, "x": {1: "length"}}
    plain = ropeexport.export(Grid(), given, tmp_path / "plain", dynamic_axes=axes)
    assert [spec.role for spec in plain.manifest.model.inputs] == ["data", "data"]
    said = ropeexport.export(
        Grid(), given, tmp_path / "said", dynamic_axes=axes, roles={"ids": "positions"}
    )
    assert [spec.role for spec in said.manifest.model.inputs] == ["positions", "data"]
    assert ropeexport.inspect(tmp_path / "said").model.inputs[0].role == "positions"
    assert said.check(cases=4).verdict == "PASS"
    assert {case.kind for case in select(said.manifest).cases} == {
        "flux positions", "long positions",
    }  # fmt: skip


def export(tmp_path: Path, given: dict[str, object], **options: object) -> None:
    ropeexport.export(Layers(), given, tmp_path / "out", **options)


def layers(**more: object) -> dict[str, object]:
    pair = (torch.randn(1, 5, 4), torch.randn(1, 5, 4))
    return {"x": torch.randn(1, 3, 4), "past": [pair], **more}


@pytest.mark.parametrize(
    ("more", "options", "words"),
    [
        ({}, {"dynamic_axes": {"pas": {1: "past"}}}, "dynamic axes: no input 'pas'; the example"),
        ({}, {"dynamic_axes": {"past": {3: "past"}}}, r"past.0.0: expected an axis in 0..2, got 3"),
        ({}, {"dynamic_axes": {"past": {"key": {1: "past"}}}}, r"past.0.0: expected an axis in"),
        ({}, {"roles": {"past.1": "data"}}, "roles: no input 'past.1'; the example has x"),
        ({}, {"roles": {"past": "keys"}}, "past.0.0: expected one of data, matrices, positions"),
        ({}, {"roles": {"x": "matrices"}}, r"x: expected matrices .* got float32 of \(1, 3, 4\)"),
        ({}, {"roles": {"x": "rotated"}}, "x: expected one of data, matrices, positions"),
        ({"past": [{"a b": torch.zeros(1)}]}, {}, "'past.0.a b': expected keys of letters"),
        ({"past": {"a": torch.zeros(1), "b": {1: np.zeros(1)}}}, {}, "past.b.1: expected a tensor"),
        (
            {"past": {"a.b": torch.zeros(1), "a": {"b": torch.zeros(1)}}}, {},
            "past.a.b: expected one input of that name",
        ),
        ({}, {"dynamic_axes": {"past": {1: "n"}}, "axes": {"n": (2, 1, 2)}}, "expected 0 <= min"),
        ({}, {"dynamic_axes": {"past": {1: "n"}}, "axes": {"n": (-1, 1, 2)}}, "number of 0 to"),
        ({}, {"dynamic_axes": {"past": {1: "n"}}, "axes": {"n": (0, 0, 0)}}, "max of at least 1"),
        (
            {}, {"dynamic_axes": {"x": {1: "n"}}, "axes": {"n": (0, 1, 2)}},
            r"'n': expected a min of at least 1, got 0: output out.0 would be empty",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_tree_is_one_line(tmp_path: Path, more, options, words) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        export(tmp_path, layers(**more), **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_input_with_the_name_of_a_weight_is_refused(tmp_path: Path) -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key = nn.Linear(4, 4)

        def forward(self, key):
            return self.key(key["weight"])

    with pytest.raises(UsageError, match=r"'key.weight' is a weight or a buffer of the module too"):
        ropeexport.export(Same(), {"key": {"weight": torch.zeros(2, 4)}}, tmp_path / "out")


def test_a_tensor_that_nobody_uses_is_an_input_all_the_same(tmp_path: Path) -> None:
    class First(nn.Module):
        def forward(self, x, past):
            return x + past[0]

    given = {"x": torch.zeros(2, 4), "past": [torch.zeros(2, 4), torch.zeros(2, 4)]}
    made = ropeexport.export(First(), given, tmp_path / "out")
    assert made.check(cases=2).verdict == "PASS"
    assert ropeexport.check(tmp_path / "out", module=First(), cases=2).verdict == "PASS"


class InPlace(nn.Module):
    def forward(self, x, past):
        past["key"].add_(x)
        return x + 1


def test_a_cache_that_is_changed_in_place_is_refused_by_its_path(tmp_path: Path) -> None:
    given = {"x": torch.zeros(2, 4), "past": {"key": torch.zeros(2, 4)}}
    with pytest.raises(ExportError, match=r"input 'past.key': forward changes it in place"):
        ropeexport.export(InPlace(), given, tmp_path / "out")


class Scaled(nn.Module):
    def forward(self, x, scale=1.0):
        return x * scale


def test_a_folder_of_an_older_version_is_checked(tmp_path: Path) -> None:
    ropeexport.export(Scaled(), {"x": torch.zeros(2, 4), "scale": 3.0}, tmp_path)
    path = tmp_path / manifest.FILE_NAME
    record = json.loads(path.read_text())
    del record["arguments"]
    for spec in record["model"]["inputs"]:
        del spec["path"]
    record["source"]["options"] = {"constants": {"scale": 3.0}, "unknown": []}
    path.write_text(json.dumps(record))
    assert ropeexport.check(tmp_path, module=Scaled(), cases=2).verdict == "PASS"
    record["source"]["options"] = {"constants": {}, "unknown": ["scale"]}
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"cannot hold \(scale\)"):
        ropeexport.check(tmp_path, module=Scaled(), cases=2)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"kind": "input", "value": "y"}, "arguments.x: expected an input, got 'y'"),
        ({"kind": "dict", "keys": ["a"]}, "expected a key for each of 0 parts"),
        ({"kind": "set"}, "arguments.x.kind"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path: Path, argument, words) -> None:
    ropeexport.export(Scaled(), {"x": torch.zeros(2, 4)}, tmp_path)
    path = tmp_path / manifest.FILE_NAME
    record = json.loads(path.read_text())
    record["arguments"]["x"] = argument
    path.write_text(json.dumps(record))
    with pytest.raises((UsageError, ManifestError), match=words):
        ropeexport.check(tmp_path, module=Scaled(), cases=2)


def test_plain_operations_take_the_tree_too() -> None:
    example = checked(Example(cached(), kwargs(), AXES))
    plain = replace(example, module=plain_program(example).module(check_guards=False))
    with torch.no_grad():
        found, expected = (bound(x)(**example.tensors) for x in (plain, example))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1]["key"], expected[1]["key"])


@pytest.mark.parametrize(
    "value",
    [[1, (2.5, None, True)], {"a": [], 3: ("x",)}, {"t": torch.ones(2), "u": [torch.zeros(1), 7]}],
)
def test_a_manifest_holds_what_json_can(value) -> None:
    record = recorded({"given": value}, {})["given"]
    text = record.model_dump_json()
    again = type(record).model_validate_json(text)
    assert again == record
    tree = tree_of({"given": value})
    tensors = dict(zip(tree.paths, input_tree.tensors_of({"given": value}), strict=True))
    made = restored(again, tensors)
    assert repr(made) == repr(value)
    assert repr(tree.filled(tensors)["given"]) == repr(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1}, [slice(1)], {(1, 2): 3}])
def test_a_manifest_says_what_json_cannot_hold(value) -> None:
    assert recorded({"x": value}, {})["x"].kind == "unknown"
    assert recorded({}, {"x": [torch.zeros(1)]})["x"].kind == "unknown"


@pytest.mark.parametrize("module", [example_module, input_tree])
def test_examples_run(module) -> None:
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted


class Attended(nn.Module):
    def forward(self, q, k, v, pe):
        return ropeexport.attention(q, k, v, pe)


def test_one_tensor_given_twice_is_two_inputs(tmp_path) -> None:
    x, pe = torch.randn(1, 2, 8, 16), torch.zeros(1, 1, 8, 8, 2, 2)
    axes = {name: {2: "length"} for name in ("q", "k", "v", "pe")}
    module = Attended()
    made = ropeexport.export(
        module, {"q": x, "k": x, "v": x, "pe": pe}, tmp_path / "out", dynamic_axes=axes
    )
    assert [spec.name for spec in made.manifest.model.inputs] == ["q", "k", "v", "pe"]
    report = made.check(cases=4)
    assert report.verdict == "PASS", report.reason
