"""Engines that a benchmark builds for itself; TensorRT-RTX builds them without a GPU."""

from __future__ import annotations

import pytest

from ropeexport import export, manifest
from ropeexport.artifact import Artifact
from ropeexport.atomic import sha256_of
from ropeexport.axes import axis_sizes
from ropeexport.bench import bench as benchmark
from ropeexport.bench import prepare, processes
from ropeexport.bench.clocks import InputSets
from ropeexport.bench.contenders import BY_NAME, PLAIN, Setting
from ropeexport.bench.processes import ContenderError, Made, MakeFile
from ropeexport.runners.trt import TensorrtRunner
from ropeexport.trt.build import TIMING_CACHE_NAME

pytestmark = pytest.mark.trt
BEYOND = 1 << 17  # a length that the export's own profile does not hold


def at(folder, *lengths: int) -> list[dict[str, int]]:
    axes = dict.fromkeys(manifest.read(folder).axes, 1)
    return [axes | {"length": length} for length in lengths]


def make(folder, prepared, kind, sizes=None) -> Made:
    sizes = tuple(sizes or at(folder, 64))
    setting = Setting(folder, prepared, None, threads=1)
    return processes.make(MakeFile(kind=kind, setting=setting, sizes=sizes))


def contents(folder) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def prepared(export_once, tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.mark.parametrize("implementation", ["native", "decomposed"])
def test_an_engine_of_each_implementation_is_built_beside_the_folder(
    export_once, prepared, implementation
) -> None:
    folder = export_once()
    before = contents(folder)
    kind = BY_NAME[f"tensorrt-{implementation}"].files[-1]
    answer = make(folder, prepared, kind, at(folder, 64, 96, BEYOND, 128))
    assert answer.seconds > 0
    assert answer.again_seconds is None  # TensorRT-RTX measures nothing while it builds
    assert answer.version.startswith("tensorrt-rtx ")
    assert contents(folder) == before
    runner = TensorrtRunner(Artifact.read((prepared / kind).parent))
    facts = runner.facts
    assert (facts.implementation, facts.version) == ((implementation,), answer.version)
    engine = manifest.read((prepared / kind).parent).engine
    assert engine.sha256 == sha256_of(prepared / kind)
    points = engine.profile.min, engine.profile.opt, engine.profile.max
    # the sizes that run, not the export's own; the last is what it is tuned for
    assert [point["q"][:3] for point in points] == [(1, 2, n) for n in (64, 128, BEYOND)]
    assert [point["pe"][:3] for point in points] == [(1, 1, n) for n in (64, 128, BEYOND)]
    assert not list(prepared.rglob("*.onnx*"))  # neither model nor weights are copied


def test_a_plain_export_becomes_an_engine(export_once, tmp_path) -> None:
    folder = export_once()
    before = contents(folder)
    files = BY_NAME["tensorrt-plain"].files
    assert files[0] == PLAIN
    for kind in files:
        make(folder, tmp_path, kind, at(folder, 96))
    engine = manifest.read((tmp_path / files[-1]).parent).engine
    assert engine.ropes == {}
    assert {spec.name for spec in engine.inputs} == {"q", "k", "v", "pe"}
    assert next(spec.shape[:3] for spec in engine.inputs if spec.name == "pe") == (
        *("batch", 1, "length"),
    )
    assert contents(folder) == before


def test_a_plain_engine_of_a_larger_batch_takes_what_is_timed(tmp_path) -> None:
    folder, prepared = tmp_path / "out", tmp_path / "prepared"
    prepared.mkdir()
    export("flux-attention", out=folder, heads=2, head_dim=64, length=32, dtype="fp16", batch=2)
    record = manifest.read(folder)
    sizes = [benchmark.checked_sizes(record), *benchmark.timed_sizes(record, (96,))]
    files = BY_NAME["tensorrt-plain"].files
    for kind in files:
        make(folder, prepared, kind, sizes)
    engine = manifest.read((prepared / files[-1]).parent).engine
    for each, reached in zip(sizes, (engine.profile.min, engine.profile.max), strict=True):
        shapes = {name: x.shape for name, x in InputSets(record, each, seed=0)[0].items()}
        # its matrices have the data's batch, so no other size of either would be taken
        assert axis_sizes(engine.inputs, shapes) == {"batch": 1, "length": each["length"]}
        assert shapes == reached


def test_weights_are_read_where_they_lie(export_once, tmp_path) -> None:
    folder = export_once("flux-self-attention", "fp16")
    make(folder, tmp_path, "decomposed/model.engine")
    made = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert made == ["manifest.json", "model.engine"]


def test_without_a_plugin_library_the_reason_names_the_command(export_once, tmp_path) -> None:
    text = r"^plugin/model\.engine cannot be made: .*compile one with 'ropeexport plugin build'"
    with pytest.raises(ContenderError, match=text) as raised:
        make(export_once(), tmp_path, "plugin/model.engine")
    assert raised.value.missing


def test_what_cannot_be_built_is_a_failure_with_its_reason(exported, tmp_path) -> None:
    folder = exported()
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\0")
    text = r"^decomposed/model\.engine cannot be made: .*model\.onnx"
    with pytest.raises(ContenderError, match=text) as raised:
        make(folder, tmp_path, "decomposed/model.engine")
    assert not raised.value.missing


@pytest.mark.parametrize("keeps", [True, False])
def test_a_flavour_with_a_timing_cache_builds_again(
    export_once, tmp_path, monkeypatch, built_once, keeps
) -> None:
    made = iter([manifest.read(built_once).engine.model_copy(update={"sha256": n}) for n in "12"])

    def make_engine(artifact, target, options):
        if keeps:
            (target / TIMING_CACHE_NAME).write_bytes(b"measured")
        return next(made)

    monkeypatch.setattr(prepare, "make_engine", make_engine)
    kind = "native/model.engine"
    ours = Artifact.read(export_once())
    built = prepare.build_engine(ours, tmp_path, kind, at(ours.folder, 64))
    assert (built.again_seconds is not None) == keeps
    # the manifest beside it is of the engine that lies there: the last one that was built
    assert manifest.read(tmp_path / "native").engine.sha256 == ("2" if keeps else "1")
