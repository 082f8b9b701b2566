"""``check --locate`` names the tensor where a fault was seeded, and accuses no sound one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import ropeexport
from onnx_edits import make_causal

from mutants.catalogue import MUTANTS
from mutants.trial import FACTORIES, Court
from ropeexport.artifact import Artifact
from ropeexport.locate import locate as locating
from ropeexport.locate.locate import locate, options_of
from ropeexport.manifest import EngineRecord, Profile
from ropeexport.parity.check import Options, check
from ropeexport.report import html, markdown

ATTENDED, EMBEDDED = "scaled_dot_product_attention(q, k, v", "tables = [rope(ids"
ROTATED = "q, k = apply_rope(q, k, pe)"
# a mutant, the first tensor that it spoils, and the line of torch code that made that one
PLACES = {
    "swapped pairing": ("k_rotated", ROTATED),
    "sign of sin": ("q_rotated", ROTATED),
    "positions of k off by one": ("k_rotated", ROTATED),
    "dropped tail of D": ("k_rotated", ROTATED),
    "bf16 tables": ("q_rotated", ROTATED),
    "products in half precision": ("k_rotated", ROTATED),
    "missing cast back after the rope": ("q_rotated", ROTATED),
    "float32 angles at long positions": ("pe_0", EMBEDDED),
    "coarse digit off by one": ("pe_0", EMBEDDED),
    "rows and columns exchanged": ("select", EMBEDDED),
    "softmax without scale": ("scaled_dot_product_attention", ATTENDED),
    "causal flag": ("scaled_dot_product_attention", ATTENDED),
    "GQA groups exchanged": ("scaled_dot_product_attention", ATTENDED),
    "heads merged without transpose": ("transpose", "x.transpose(1, 2).flatten(2)"),
    "one wrong element of a million, attention": ("out", "x.transpose(1, 2).flatten(2)"),
    "NaN in one lane": ("q_rotated", ROTATED),
}


@pytest.fixture(scope="module")
def court():
    with Court() as made:
        yield made


STOCK = ("onnxruntime",)
IN_OPENVINO = ("swapped pairing", "float32 angles at long positions", "GQA groups exchanged")


def trial(court: Court, name: str, runtimes: tuple[str, ...] = ()):
    """Return the report of a mutant, and where it departs."""
    mutant = next(m for m in MUTANTS if m.name == name)
    dtype = mutant.dtypes[0]
    options = Options(lengths=mutant.lengths, count=mutant.count, runtimes=runtimes)
    report = court.check(mutant.kind, dtype, mutant.edit, options)
    return report, locate(
        Artifact.read(court.place / "broken"), report, f"{FACTORIES}:{mutant.kind}_{dtype}"
    )


@pytest.mark.parametrize("name", IN_OPENVINO)
def test_a_fault_is_located_in_openvino_too(court: Court, name: str) -> None:
    pytest.importorskip("openvino")
    _, found = trial(court, name, ("openvino",))
    (location,) = found.locations
    tensor, source = PLACES[name]
    assert (location.runtime, location.tensor.rstrip("_12")) == ("openvino", tensor)
    assert source in location.source


def test_openvino_computes_the_products_of_a_float16_file_in_float32(court: Court) -> None:
    pytest.importorskip("openvino")
    report, _ = trial(court, "products in half precision", ("openvino",))
    assert report.verdict == "PASS"


@pytest.mark.parametrize("name", PLACES)
def test_a_fault_is_located(court: Court, name: str) -> None:
    _, found = trial(court, name)
    tensor, source = PLACES[name]
    assert [location.runtime for location in found.locations] == ["onnxruntime"]
    location = found.locations[0]
    assert location.tensor.rstrip("_12") == tensor
    assert source in location.source
    assert location.compared >= 5
    assert location.tensor in markdown.render(found).replace("\\_", "_")
    assert location.source.split(":")[0] in html.render(found)


MODELS = [
    ("flux-attention", "fp16"),
    ("flux-self-attention", "fp32"),
    ("flux-self-attention-ids", "fp16"),
]


@pytest.mark.parametrize(("model", "dtype"), MODELS)
def test_no_sound_tensor_is_accused(export_once, model: str, dtype: str) -> None:
    folder = export_once(model, dtype)
    strict = check(Artifact.read(folder), options=Options(count=6, atol=1e-30, runtimes=STOCK))
    assert strict.verdict == "FAIL"
    (location,) = locate(Artifact.read(folder), strict).locations
    assert location.tensor == ""
    assert "each is within its derived bound" in location.reason
    assert location.compared >= 4


def test_a_runtime_that_computes_wrongly_is_located(export_once, monkeypatch) -> None:
    folder = export_once("flux-self-attention", "fp32")
    opened = locating.open_tapped

    def spoiled(*arguments):
        contender = opened(*arguments)
        right = contender.runner.run

        def run(inputs):
            outputs = right(inputs)
            wrong = np.array(outputs["scaled_dot_product_attention"])
            wrong[..., 0] *= 1.001
            return outputs | {"scaled_dot_product_attention": wrong}

        contender.runner.run = run
        return contender

    monkeypatch.setattr(locating, "open_tapped", spoiled)
    strict = check(Artifact.read(folder), options=Options(count=2, atol=1e-30, runtimes=STOCK))
    (location,) = locate(Artifact.read(folder), strict).locations
    assert (location.tensor, location.op) == ("scaled_dot_product_attention", "Attention")
    assert set(location.sound) == {"q_rotated_0", "k_rotated_0", "transpose"}


def broken(folder: Path) -> Path:
    model = onnx.load(folder / "model.onnx")
    make_causal(model)
    onnx.save(model, folder / "model.onnx")
    return folder


def test_from_the_command_line(exported) -> None:
    folder = broken(exported())
    done = ropeexport("check", folder, "--cases", "6", "--locate")
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "departs first at scaled_dot_product_attention (Attention" in text
    assert "made by ropeexport/modules.py:" in text
    written = json.loads((folder / "parity.json").read_text())["locations"]
    assert written[0]["op"] == "Attention"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["manifest.json", "model.onnx", "parity.json"]


def test_a_pass_locates_nothing(exported) -> None:
    done = ropeexport("check", exported(), "--cases", "6", "--locate")
    assert done.returncode == 0, done.stderr
    assert "departs" not in done.stdout


def test_an_engine_is_built_as_it_was() -> None:
    shapes = {"q": (1, 2, 8, 64)}
    record = EngineRecord(
        file="model.engine", sha256="0", model_sha256="0", flavour="tensorrt-rtx", version="1.7",
        inputs=(), outputs=(), profile=Profile(min=shapes, opt=shapes, max=shapes),
        ropes={"ApplyRope_0": "native"}, attention="fused", compute_capabilities=(),
    )  # fmt: skip
    options = options_of(record)
    assert (options.impl, options.flavour, options.max_shapes) == ("native", "tensorrt-rtx", shapes)


@pytest.mark.trt
def test_a_failing_engine_is_built_with_its_inner_tensors(exported, monkeypatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    from ropeexport import manifest
    from ropeexport.locate import locate as engines
    from ropeexport.parity.records import CaseRecord, Comparison, Numbers
    from ropeexport.trt.build import BuildOptions, build

    folder = exported("flux-attention", "fp16", 64)
    build(Artifact.read(folder), BuildOptions(impl="decomposed"))
    report = check(Artifact.read(folder), options=Options(count=4))
    case = next(c.case for c in report.comparisons if c.case)
    numbers = Numbers(elements=1, max_abs=1, max_rel=1, max_ulps=1, ulps_at_rms=1, rms=1,
                      relative_l2=1, cosine=0, worst=None)  # fmt: skip
    failing = Comparison(
        runtime="tensorrt", implementation="decomposed", output="out",
        case=CaseRecord(**case.model_dump()), status="FAIL", reason="made up", numbers=numbers,
    )  # fmt: skip
    built = {}

    def recorded(place, options):
        made = build(place, options)
        built.update(made.model_dump())
        return made

    monkeypatch.setattr(engines, "build", recorded)
    found = locate(Artifact.read(folder), report.model_copy(update={"comparisons": (failing,)}))
    assert [spec["name"] for spec in built["outputs"]][-1] == "out"
    assert len(built["outputs"]) >= 4
    # the engine was built; that it runs needs a GPU, and says so where there is none
    assert found.locations[0].runtime == "tensorrt"
    assert manifest.read(folder).engine.outputs != built["outputs"]
    if not found.locations[0].compared:
        assert "no NVIDIA GPU" in found.locations[0].reason
