"""The front door as a caller meets it: names, options, held modules, and what is left behind."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import NamedTuple

import onnx
import pytest
import torch
from torch import nn

import ropeexport as package
from ropeexport.cli import main
from ropeexport.testing import assert_export_parity

VERBS = ("export", "fuse", "build", "check", "locate", "inspect", "lint", "bench", "report",
         "doctor", "sign", "verify")  # fmt: skip
PRINTING = {"as_json", "help", "verbose"}  # options of the command line that choose what is printed
AXES = {"x": {0: "batch", 1: "length"}, "pe": {2: "length"}}
TEST = Path(__file__)


class Attention(nn.Module):
    """A module with a dropout: in training mode it draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, pe, scale=1.0, *, cause=None):
        if cause is not None:
            raise RuntimeError(cause)
        qkv = self.qkv(self.dropout(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return package.attention(*qkv, pe) * scale


class Two(nn.Module):
    """Two outputs."""

    def forward(self, q, pe):
        return package.apply_rope(q, q, pe)


def kwargs(**more: object) -> dict[str, object]:
    return {"x": torch.zeros(1, 6, 32), "pe": torch.zeros(1, 1, 6, 8, 2, 2), **more}


def factory():
    return Attention(), kwargs(), AXES


def export(out, module=None, **options):
    given = options.pop("kwargs", kwargs())
    return package.export(module or Attention(), given, out, dynamic_axes=AXES, **options)


def status(report, name: str = "onnxruntime") -> str:
    return next(runtime.status for runtime in report.runtimes if runtime.name == name)


def test_names_for_type_checkers_are_the_names_at_run_time() -> None:
    tree = ast.parse(Path(package.__file__).read_text())
    block = next(
        n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    )
    listed = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    }
    assert listed == package._HOMES
    assert set(package.__all__) == {*listed, "__version__"} == set(dir(package))
    assert set(VERBS) < set(package.__all__)


def test_a_verb_is_a_function_whatever_was_imported() -> None:
    for name in ("bench", "doctor", "lint", "locate", "report"):
        import_module(f"ropeexport.{name}")
        assert inspect.isfunction(getattr(package, name)), name
    code = (
        "import ropeexport.lint.rule, ropeexport; from ropeexport.report import view\n"
        "assert callable(ropeexport.lint) and callable(ropeexport.report) and view.read"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("locate", "lint")])
def test_options_have_the_names_of_the_command_line(verb: str) -> None:
    command = main.cli.get_command(None, verb)
    function = inspect.signature(getattr(package, verb))
    keywords = set(function.parameters)
    if verb == "export":
        from ropeexport.api.making import ModelOptions

        keywords |= set(ModelOptions.__annotations__)
    options = {
        p.name: p for p in command.params if p.param_type_name == "option" and p.expose_value
    }
    if "trust" in keywords:  # which is a key's file too
        keywords.add("key")
    missing = set(options) - keywords - PRINTING - {"output", "lint"}
    assert not missing
    for name, parameter in function.parameters.items():
        given = options[name].default if name in options else None
        if name in options and isinstance(given, int | str):
            assert parameter.default == given, name


def test_errors_and_results_are_public() -> None:
    assert issubclass(package.UsageError, package.RopeExportError)
    for name in package.__all__:
        kind = getattr(package, name)
        if inspect.isclass(kind) and issubclass(kind, Exception):
            assert issubclass(kind, package.RopeExportError)
    with pytest.raises(package.ManifestError):
        package.check("nothing here")


def test_paths_are_str_or_path_and_results_are_typed(tmp_path: Path) -> None:
    for out in (tmp_path / "one", str(tmp_path / "two")):
        made = package.export("flux-attention", out=out, heads=2, head_dim=16, length=32)
        assert isinstance(made, package.Export)
        assert isinstance(package.check(out, cases=2), package.Report)
        assert isinstance(package.inspect(out), package.Inspection)
        assert isinstance(package.lint(out), package.Lint)
        page = f"{out}.html"
        assert package.report(out, html=page).verdict == "PASS"
        assert "<html" in Path(page).read_text()
    assert isinstance(package.doctor(), package.Diagnosis)


def test_a_held_module_is_what_is_compared(tmp_path: Path) -> None:
    module = Attention()
    made = export(tmp_path, module)
    report = package.check(tmp_path, module=module, cases=6)
    assert (report.verdict, status(report)) == ("PASS", "PASS")
    assert report == package.report(tmp_path)
    assert report.command == (
        f"ropeexport.check({str(tmp_path)!r}, module=Attention(...), seed=0, cases=6)"
    )
    with torch.no_grad():
        module.qkv.weight.mul_(1.5)  # another module than the file's
    wrong = package.check(tmp_path, module=module, cases=6)
    assert (wrong.verdict, status(wrong)) == ("FAIL", "FAIL")
    assert made.module.module is module, "not copied"
    assert made.check(cases=6).verdict == "FAIL"


def test_a_factory_its_reference_and_an_example_check_too(tmp_path: Path) -> None:
    module = Attention()
    export(tmp_path, module)
    example = package.Example(module, kwargs(), AXES)
    for held in (factory, Attention, f"{TEST}:factory", example):
        assert package.check(tmp_path, module=held, cases=3).verdict == "PASS"
    with pytest.raises(package.ParityError, match="module= also takes the module itself"):
        package.check(tmp_path)


def test_fixed_arguments_are_those_of_the_export(tmp_path: Path) -> None:
    module = Attention()
    made = export(tmp_path / "plain", module, kwargs=kwargs(scale=3.0))
    assert made.check(cases=4).verdict == "PASS"
    assert package.check(tmp_path / "plain", module=module, cases=4).verdict == "PASS"
    made = export(tmp_path / "tuple", Scaled(), kwargs=kwargs(scales=(2.0, 3.0)))
    assert made.check(cases=4).verdict == "PASS"
    assert package.check(tmp_path / "tuple", module=made.module.module, cases=4).verdict == "PASS"
    made = export(tmp_path / "named", Scaled(), kwargs=kwargs(scales=Scales(2.0, 3.0)))
    assert made.check(cases=4).verdict == "PASS"
    with pytest.raises(
        package.UsageError, match=r"cannot hold \(scales\): pass ropeexport.Example"
    ):
        package.check(tmp_path / "named", module=made.module.module)


class Scales(NamedTuple):
    first: float
    second: float


class Scaled(Attention):
    def forward(self, x, pe, scales):
        return super().forward(x, pe) * scales[0]


@pytest.mark.parametrize("training", [True, False])
def test_a_module_is_left_as_it_was(tmp_path: Path, training: bool) -> None:
    module = Attention().train(training)
    module.dropout.train(not training)

    def modes() -> list[bool]:
        return [part.training for part in module.modules()]

    before = modes()
    made = export(tmp_path / "out", module)
    assert modes() == before
    assert made.check(cases=2).verdict == "PASS"
    assert modes() == before
    with pytest.raises(package.ExportError, match="no more of it"):
        export(tmp_path / "failed", module, kwargs=kwargs(cause="no more of it"))
    with pytest.raises(package.UsageError):
        export(tmp_path / "failed", module, axes={"nothing": (1, 2, 3)})
    assert modes() == before
    assert not (tmp_path / "failed").exists()


def test_a_held_module_is_located(tmp_path: Path) -> None:
    module = Attention()
    made = export(tmp_path, module)
    proto = onnx.load(tmp_path / "model.onnx")
    node = next(n for n in proto.graph.node if n.op_type == "ApplyRope")
    node.input[0] = node.input[1]
    onnx.save(proto, tmp_path / "model.onnx")
    for found in (
        package.locate(tmp_path, module=module, cases=2),
        package.locate(tmp_path, report=made.check(cases=2), module=module),
        made.check(cases=2, locate=True),
    ):
        assert {"onnxruntime"} <= {location.runtime for location in found.locations}
        for location in found.locations:
            assert (location.tensor, location.op) == ("q_rotated_0", "ApplyRope")
            assert "test_api.py" in location.source


BENCH = {"against": ["eager"], "rounds": 1, "repeats": 1, "threads": 1, "device": "cpu"}


def benched(folder: Path, module: object, *against: str) -> dict[str, str]:
    found = package.bench(folder, module=module, **{**BENCH, "against": ["eager", *against]})
    return {contender.name: contender.status for contender in found.contenders}


def test_bench_takes_a_held_module_as_it_is(tmp_path: Path) -> None:
    class Local(Attention):  # no other process can import it
        pass

    module = Local()
    export(tmp_path, module)
    both = {"eager": "TIMED", "ropeexport": "TIMED"}
    assert benched(tmp_path, module, "plain") == both | {"plain": "TIMED"}
    assert module.training
    assert benched(tmp_path, Local) == both  # the weights are then the file's
    module.qkv.weight.data += 1  # no longer what was exported, here and in every process
    found = benched(tmp_path, module, "plain")
    assert found == {"eager": "TIMED", "ropeexport": "WRONG", "plain": "TIMED"}


def test_the_record_of_a_bench_says_how_it_was_called(tmp_path: Path) -> None:
    module = Attention()
    export(tmp_path, module)
    held = package.bench(tmp_path, module=module, **BENCH).command
    assert held.startswith(f"ropeexport.bench({str(tmp_path)!r}, module=Attention(...), device=")
    named = package.bench(tmp_path, module=f"{TEST}:factory", **BENCH).command
    assert named.endswith(f"--module {TEST}:factory")


def test_bench_of_what_does_not_pickle_says_what_to_pass(tmp_path: Path) -> None:
    module = Attention()
    export(tmp_path, module)
    module.lock = Lock()
    with pytest.raises(package.UsageError, match=r"^module: .* pickles.*file.py:factory'$"):
        package.bench(tmp_path, module=module, **BENCH)
    assert module.training
    assert not (tmp_path / "bench.json").exists()


def test_code_that_no_other_process_can_import_fails_in_one_line(tmp_path: Path) -> None:
    class Gone(Attention):
        pass

    Gone.__module__, Gone.__qualname__ = "gone", "Gone"
    sys.modules["gone"] = ModuleType("gone")
    sys.modules["gone"].Gone = Gone
    try:
        export(tmp_path, module := Gone())
        found = package.bench(tmp_path, module=module, **BENCH)
    finally:
        del sys.modules["gone"]
    assert [contender.status for contender in found.contenders] == ["FAILED", "TIMED"]
    reason = found.contenders[0].reason
    assert "No module named 'gone'" in reason
    assert "pass a factory's reference" in reason


def test_build_holds_the_file_to_the_module(tmp_path: Path) -> None:
    module = Attention()
    export(tmp_path, module)
    module.qkv.weight.data[0, 0] += 1
    with pytest.raises(package.UsageError, match=r"got another qkv\.weight; export the module"):
        package.build(tmp_path, module=module)
    with pytest.raises(package.UsageError, match=r"expected the module that was exported.* a str$"):
        package.build(tmp_path, module=f"{TEST}:factory")
    assert module.training
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.trt
def test_build_takes_shapes_both_ways(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    made = export(tmp_path, axes={"length": (1, 16, 32)})
    shapes = {"x": (3, 24, 32), "pe": (1, 1, 24, 8, 2, 2)}
    engine = package.build(tmp_path, module=made.module, max_shapes=shapes)
    assert engine.profile.max["x"] == (3, 24, 32)
    text = "x:3x24x32,pe:1x1x24x8x2x2"
    again = package.build(str(tmp_path), max_shapes=text, force=True)
    assert again.profile == engine.profile


def test_outputs_have_the_names_that_are_given(tmp_path: Path) -> None:
    given = {"q": torch.zeros(2, 2, 6, 16), "pe": torch.zeros(1, 1, 6, 8, 2, 2)}
    axes = {"q": {2: "length"}, "pe": {2: "length"}}
    made = package.export(Two(), given, tmp_path, dynamic_axes=axes, output_names=("left", "right"))
    assert [spec.name for spec in made.manifest.model.outputs] == ["left", "right"]
    assert [v.name for v in onnx.load(tmp_path / "model.onnx").graph.output] == ["left", "right"]
    assert made.check(cases=3).verdict == "PASS"
    for names, words in (
        (["one"], "expected 2, one for each that the module returns, got 1"),
        (["q", "r"], "'q' is an input"),
        (["r", "r"], "expected different names"),
        (["", "r"], "expected different names"),
    ):
        with pytest.raises(package.UsageError, match=f"output names: .*{words}"):
            package.export(Two(), given, tmp_path / "no", dynamic_axes=axes, output_names=names)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: package.export(Attention(), kwargs()), "out: expected the output folder"),
        (lambda: package.export(Attention(), None, "o"), "kwargs: expected the arguments"),
        (
            lambda: package.export(Attention(), (1,), "o"),
            "kwargs: expected .* by name, .* got tuple",
        ),
        (
            lambda: package.export(Attention(), kwargs(), "o", dynamic_axes=[0]),
            "dynamic axes: expected {input: {axis: name}}, got list",
        ),
        (
            lambda: package.export(Attention(), kwargs(), "o", dynamic_axes={"q": [0]}),
            r"dynamic axes: q: expected {axis: name}, .* got \[0\]",
        ),
        (
            lambda: package.export(Attention(), kwargs(), "o", dynamic_axes={"x": {0: 5}}),
            "dynamic axes: x: expected a name like batch, .* got 5",
        ),
        (
            lambda: package.export(Attention(), kwargs(), "o", axes=[1]),
            "axes: expected {name: .*}, got list",
        ),
        (
            lambda: package.export(Attention(), kwargs(), "o", roles=["data"]),
            "roles: expected {input: what it holds}, got list",
        ),
        (
            lambda: package.export(Attention(), kwargs(), "o", output_names=5),
            "output names: expected a sequence of str, got 5",
        ),
        (lambda: package.Example(Attention(), (1,), {}), "inputs: expected {argument: .*got tuple"),
        (
            lambda: package.Example(Attention(), kwargs(), {}, axes={"batch": (1, "2", 3)}),
            "axis 'batch': expected a whole number",
        ),
        (lambda: package.check("o", lengths="8"), "lengths: expected a sequence of int, got '8'"),
        (lambda: package.check("o", runtimes=None), "runtimes: expected a sequence of str"),
        (lambda: package.export(Attention, kwargs(), "o"), "module: expected an nn.Module"),
        (lambda: package.export("flux-attention", kwargs(), "o"), "are for a module"),
        (lambda: package.export(Attention(), kwargs(), "o", heads=2), "heads: only for a MODEL"),
        (lambda: package.export("a.py:f", out="o", heads=2), "--heads: only for the built-in"),
        (lambda: package.check("one.onnx"), "expected a second file"),
        (lambda: package.check("a.onnx", "b.onnx", module="m.py:f"), "--module: not for"),
        (lambda: package.build("o", max_shapes="x=1"), "shapes: expected"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, monkeypatch, call, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(package.UsageError, match=words):
        call()
    assert list(tmp_path.iterdir()) == []


def test_a_required_runtime_that_did_not_run_raises(tmp_path: Path) -> None:
    made = export(tmp_path)
    with pytest.raises(package.MissingError, match="tensorrt was required: SKIPPED: no engine"):
        made.check(cases=1, require=["tensorrt"])
    assert (tmp_path / "parity.json").is_file()
    with pytest.raises(package.UsageError, match="expected a runtime, one of onnxruntime"):
        made.check(cases=1, require=["nobody"])


def test_one_name_or_length_is_one(tmp_path: Path) -> None:
    module = Attention()
    made = package.export(
        module, kwargs(), tmp_path, dynamic_axes={"x": {1: "length"}, "pe": {2: "length"}},
        output_names="attended",
    )  # fmt: skip
    assert [spec.name for spec in made.manifest.model.outputs] == ["attended"]
    report = package.check(
        tmp_path, module=module, runtimes="onnxruntime", require="openvino", lengths=5, cases=2
    )
    ran = {runtime.name for runtime in report.runtimes if runtime.status == "PASS"}
    assert {"onnxruntime", "openvino"} <= ran
    assert {found.case.sizes["length"] for found in report.comparisons} == {5}
    asserted = assert_export_parity(tmp_path, module=module, lengths=5, require="onnxruntime")
    assert asserted.verdict == "PASS"


def test_the_axes_of_an_example_are_ranges_too(tmp_path: Path) -> None:
    axes = {"x": {1: "length"}, "pe": {2: "length"}}
    example = package.Example(Attention(), kwargs(), axes, axes={"length": (1, 8, 16)})
    made = package.export(example, out=tmp_path)
    assert made.manifest.axes["length"] == package.Axis(min=1, opt=8, max=16)
    other = package.Example(Attention(), kwargs(), axes, axes={"heads": (1, 8, 16)})
    with pytest.raises(package.UsageError, match="axis 'heads': no such dynamic axis; there are l"):
        package.export(other, out=tmp_path / "no")
