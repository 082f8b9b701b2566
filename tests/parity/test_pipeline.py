"""``check`` with a pipeline: what users see, with the export in it and without."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import made_pipelines
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from made_pipelines import WIDTH, made
from onnx import numpy_helper

import ropeexport
from ropeexport.cli.main import cli
from ropeexport.errors import MissingError, ParityError, UsageError
from ropeexport.models.pipelines import Subject, subject_of
from ropeexport.onnx_files.variants import without_ropes
from ropeexport.parity.pipeline_judge import standard_of
from ropeexport.parity.pipeline_oracle import PipelineOracle
from ropeexport.parity.pipeline_runs import Studio
from ropeexport.parity.records import Report

pytestmark = pytest.mark.pipelines  # minutes of them, see Makefile

FACTORY = f"{Path(made_pipelines.__file__)}:made"
STOCK = ["onnxruntime"]


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "out"
    made_pipelines.export(folder)
    return folder


@pytest.fixture(scope="module")
def checked_once(exported_once, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(exported_once, tmp_path_factory.mktemp("checked") / "out"))
    assert ropeexport.check(folder, pipeline=made, runtimes=STOCK).verdict == "PASS"
    return folder


@pytest.fixture
def checked(checked_once, tmp_path) -> Path:
    return Path(shutil.copytree(checked_once, tmp_path / "checked"))


@pytest.fixture
def folder(exported_once, tmp_path) -> Path:
    ignored = shutil.ignore_patterns("parity.json", "pipeline")
    return Path(shutil.copytree(exported_once, tmp_path / "out", ignore=ignored))


def edit_weight(folder: Path, name: str, change) -> None:
    model = onnx.load(folder / "model.onnx")
    weight = next(x for x in model.graph.initializer if x.name == name)
    changed = change(numpy_helper.to_array(weight).copy())
    weight.CopyFrom(numpy_helper.from_array(changed, name))
    onnx.save(model, folder / "model.onnx")


def test_a_right_export_passes_and_the_pipeline_is_left_as_it_was(folder) -> None:
    painter, calls = made()
    parts, config = dict(painter.components), dict(vars(painter))
    report = ropeexport.check(folder, pipeline=(painter, calls))
    assert report.verdict == "PASS", report.reason
    assert report.headline == "2 calls of Painter, seed 0"
    assert {r.name for r in report.runtimes if r.status == "PASS"} >= {"eager", "onnxruntime"}
    found = report.pipeline
    assert (found.component, found.pixels_decide, len(found.calls)) == ("transformer", True, 2)
    for picture in found.pictures:
        if picture.runtime not in ("eager", "tensorrt"):
            assert 0 < picture.share < 1
            assert picture.pixels.refused == 0
            assert picture.pixels.values == 3 * (15 if picture.picture[0] == "1" else 48)
    assert all(call.without_rope.pixels.refused > 10 for call in found.calls)
    assert painter.components == parts
    assert vars(painter) == config
    assert "forward" not in vars(painter.transformer)
    assert not [x.name for x in folder.glob(".*")], "the file without rope is gone"


def test_what_is_written_is_read_again(checked) -> None:
    report = ropeexport.report(checked)
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert report.pipeline.pictures[1].runtime == "onnxruntime"
    names = sorted(path.name for path in (checked / "pipeline").iterdir())
    assert names == [
        f"{call}-{what}.png"
        for call in (1, 2)
        for what in ("eager", "onnxruntime-difference", "onnxruntime")
    ]


def test_a_former_runs_pictures_are_gone(checked) -> None:
    (checked / "pipeline" / "my.png").write_bytes(b"mine")
    painter, calls = made()
    ropeexport.check(checked, pipeline=(painter, calls[:1]), runtimes=STOCK)
    assert {path.name[:2] for path in (checked / "pipeline").iterdir()} == {"1-", "my"}


@pytest.mark.parametrize(
    ("weight", "change"),
    [
        ("qkv.weight", lambda x: x * np.float32(1 + 1e-4)),
        ("out.bias", lambda x: np.where(np.arange(x.size) == 3, x + np.float32(1e-3), x)),
        ("out.bias", lambda x: x * np.float32(np.nan)),
    ],
    ids=["a scale", "one bias", "nan"],
)
def test_a_fault_in_the_file_fails(folder, weight: str, change) -> None:
    edit_weight(folder, weight, change)
    report = ropeexport.check(folder, pipeline=made, runtimes=STOCK)
    assert report.verdict == "FAIL"
    assert report.reason.startswith("onnxruntime: 2 of 2 pictures of Painter failed, the first: ")
    statuses = {picture.runtime: picture.status for picture in report.pipeline.pictures}
    assert statuses == {"eager": "PASS", "onnxruntime": "FAIL"}


def test_an_export_that_rotates_by_other_angles_fails(folder) -> None:
    model = onnx.load(folder / "model.onnx")
    rope = next(node for node in model.graph.node if node.op_type == "ApplyRope")
    at = rope.input[2]
    model.graph.node.insert(
        0, onnx.helper.make_node("Transpose", [at], ["turned"], perm=[0, 1, 2, 3, 5, 4])
    )
    rope.input[2] = "turned"
    onnx.save(model, folder / "model.onnx")
    # by the opposite angles: what is relative is the mirror image, and no longer the picture
    report = ropeexport.check(folder, pipeline=made, runtimes=STOCK)
    assert report.verdict == "FAIL"
    assert all(p.pixels.refused for p in report.pipeline.pictures if p.runtime == "onnxruntime")


def test_a_picture_that_does_not_depend_on_the_rope_proves_nothing(folder) -> None:
    report = ropeexport.check(folder, pipeline=made_pipelines.blind, runtimes=STOCK)
    assert report.verdict == "FAIL"
    assert "the picture does not depend on the rope" in report.reason
    mine = [p for p in report.pipeline.pictures if p.runtime == "onnxruntime"]
    assert all(p.status == "FAIL" and p.share < 1 and not p.pixels.refused for p in mine)


def test_a_file_without_rope_proves_nothing(tmp_path) -> None:
    class Plain(made_pipelines.Denoiser):
        def forward(self, hidden_states, timestep, pe):
            return self.out(hidden_states * timestep[:, None, None] * pe.mean())

    painter, calls = made()
    painter.transformer = Plain().eval()
    inputs = {"hidden_states": torch.rand(2, 6, WIDTH), "timestep": torch.rand(2),
              "pe": torch.rand(1, 1, 6, 4, 2, 2)}  # fmt: skip
    ropeexport.export(
        painter.transformer, inputs, tmp_path / "out", dynamic_axes=made_pipelines.AXES
    )
    report = ropeexport.check(tmp_path / "out", pipeline=(painter, calls), runtimes=STOCK)
    assert report.verdict == "FAIL"
    assert "model.onnx applies none" in report.reason


def test_without_ropes_any_matrices_are_the_identity(exported_once) -> None:
    own = onnx_ir.load(exported_once / "model.onnx")
    rng = np.random.default_rng(0)
    given = {
        "hidden_states": rng.standard_normal((2, 5, WIDTH)).astype(np.float32),
        "timestep": rng.random(2).astype(np.float32),
        "pe": rng.standard_normal((1, 1, 5, WIDTH // 4, 2, 2)).astype(np.float32),
    }
    identity = np.broadcast_to(np.eye(2, dtype=np.float32), given["pe"].shape)

    def run(model, **more):
        session = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString())
        return session.run(None, {**given, **more})[0]

    plain = run(without_ropes(own))
    np.testing.assert_array_equal(plain, run(own, pe=identity))
    assert np.abs(plain - run(own)).max() > 0.1


def test_a_component_in_training_mode_is_named(folder) -> None:
    painter, calls = made()
    painter.decoder.train()
    report = ropeexport.check(folder, pipeline=(painter, calls), runtimes=STOCK)
    assert report.verdict == "FAIL"
    wanted = r"eager is no function of its seed: pixels change by up to [\d.]+ between two runs"
    assert re.match(wanted, report.reason)
    assert "decoder (Sequential) is in training mode; call .eval() on it" in report.reason
    assert "\n" not in report.reason
    assert {r.name: r.status for r in report.runtimes}["eager"] == "FAIL"


def test_half_types_count_pixels_and_judge_latents(tmp_path) -> None:
    made_pipelines.export(tmp_path / "out", torch.float16)
    pipeline = made(torch.float16)
    report = ropeexport.check(tmp_path / "out", pipeline=pipeline, runtimes=STOCK)
    assert report.verdict == "PASS", report.reason
    assert not report.pipeline.pixels_decide
    edit_weight(tmp_path / "out", "out.bias", lambda x: x + np.float16(0.25))
    assert ropeexport.check(tmp_path / "out", pipeline=pipeline, runtimes=STOCK).verdict == "FAIL"


def test_a_pipeline_without_cases_needs_no_module_and_cases_are_run_where_asked(folder) -> None:
    pipeline = made()
    both = ropeexport.check(
        folder, pipeline=pipeline, module=pipeline[0].transformer, cases=3, runtimes=STOCK
    )
    assert both.verdict == "PASS", both.reason
    assert (len(both.cases), both.headline) == (3, "3 cases, 2 calls of Painter, seed 0")
    assert both.command == (
        f"ropeexport.check({str(folder)!r}, module=Denoiser(...), pipeline=tuple(...), seed=0, "
        "cases=3, runtimes=['onnxruntime'])"
    )
    edit_weight(folder, "out.bias", lambda x: x + np.float32(1))
    both = ropeexport.check(
        folder, pipeline=pipeline, module=pipeline[0].transformer, cases=3, runtimes=STOCK
    )
    assert "onnxruntime: 3 of 6 comparisons failed; onnxruntime: 2 of 2 pictures" in both.reason


def test_the_seed_is_the_users(checked) -> None:
    painter, calls = made()
    made_now = Studio(Subject(painter, "transformer", ()), 0).shoot(calls[0])
    worst = ropeexport.report(checked).pipeline.calls[0].pictures[0].latents.worst
    assert made_now.latents[worst.index] == worst.got
    other = ropeexport.check(checked, pipeline=(painter, calls[:1]), runtimes=STOCK, seed=1)
    worst = other.pipeline.calls[0].pictures[0].latents.worst
    assert made_now.latents[worst.index] != worst.got


def test_the_oracle_is_the_pipeline_in_float64_rounded_at_each_step() -> None:
    """Beside NumPy, step by step."""
    painter, _ = made()
    call = {"height": 2, "width": 3}
    studio = Studio(Subject(painter, "transformer", ()), 5)
    shot, seen, change = studio.shoot_eager(call, "call")
    assert not change
    truth = PipelineOracle(studio).truth(call, seen, 0)
    latents = torch.randn(1, 6, WIDTH, generator=torch.Generator().manual_seed(5)).numpy()
    for timestep in (np.float32(1), np.float32(1 - 1 / 7)):
        moved = _denoised(painter.transformer, latents.astype(np.float64), float(timestep))
        latents = latents - moved.astype(np.float32) / np.float32(3)
    ulp = np.spacing(np.abs(latents).max())
    assert np.abs(truth.outputs["latents"] - latents).max() <= 2 * ulp
    assert 0 < np.abs(shot.latents - latents).max() < 100 * ulp
    # two steps, inputs off by 2^-24: about that much, times what the attention amplifies
    assert 2**-26 < truth.sensitivity["latents"].rms < 2**-18


class _Dated(made_pipelines.Denoiser):
    """Reads its timestep as a model does that makes waves of it, of high frequencies."""

    def forward(self, hidden_states, timestep, pe):
        wave = torch.sin(1000 * timestep)[:, None, None]
        return super().forward(hidden_states, timestep * 0, pe) + wave


def test_what_a_timesteps_rounding_costs_grows_in_no_sum() -> None:
    painter, _ = made()
    dated = _Dated().eval()
    dated.load_state_dict(painter.transformer.state_dict())
    painter.transformer = dated
    call = {"height": 2, "width": 3}
    studio = Studio(Subject(painter, "transformer", ()), 5)
    shot, seen, _ = studio.shoot_eager(call, "call")
    oracle = PipelineOracle(studio)
    truth = oracle.truth(call, seen, 0)
    # the second of two steps has a timestep with a fraction, 6/7, and goes a third of the way
    cost = 1000 * 6 / 7 * abs(np.cos(1000 * 6 / 7)) * 2.0**-24 / 3 / np.sqrt(3)
    assert truth.unsummed["latents"].rms == pytest.approx(cost, rel=0.4)
    assert truth.sensitivity["latents"].rms < cost / 4
    held = standard_of(shot, seen, truth, oracle.widest, None).latents
    assert held.rms < 3.5 * cost, "not the square root of 48 / 4 times as much"


def _denoised(module, x, timestep: float):
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in module.named_parameters()}
    data = x * (1 + timestep) @ weights["qkv.weight"].T + weights["qkv.bias"]
    q, k, v = data.reshape(-1, 3, 2, WIDTH // 2).transpose(1, 2, 0, 3)
    pairs = WIDTH // 4
    angles = np.arange(len(data[0]))[:, None] * 1e4 ** (-np.arange(pairs) / pairs)
    cos, sin = (f(angles).astype(np.float32).astype(np.float64) for f in (np.cos, np.sin))

    def turned(y):
        even, odd = y[..., ::2], y[..., 1::2]
        return np.stack([cos * even - sin * odd, sin * even + cos * odd], -1).reshape(y.shape)

    scores = turned(q) @ turned(k).transpose(0, 2, 1) / np.sqrt(WIDTH // 2)
    weighed = np.exp(scores - scores.max(-1, keepdims=True))
    weighed /= weighed.sum(-1, keepdims=True)
    joined = (weighed @ v).transpose(1, 0, 2).reshape(1, -1, WIDTH)
    return joined @ weights["out.weight"].T + weights["out.bias"]


def test_a_video_passes_too(folder) -> None:
    report = ropeexport.check(folder, pipeline=made(frames=4), runtimes=STOCK)
    assert report.verdict == "PASS", report.reason


def test_what_the_export_refuses_fails_and_all_is_put_back(folder) -> None:
    painter, _ = made()
    own = painter.transformer
    calls = [{"height": 2, "width": 2, "batch": 9}]  # beyond what the axis is for
    report = ropeexport.check(folder, pipeline=(painter, calls), runtimes=STOCK)
    assert report.verdict == "FAIL"
    assert "axis batch" in report.reason
    assert painter.transformer is own


class _WithoutSteps(made_pipelines.Painter):
    def __call__(self, height, width):
        return ()


class _WithoutTransformer(made_pipelines.Painter):
    @property
    def components(self):
        return {"decoder": self.decoder}


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (made_pipelines.nothing, r"expected a factory that returns \(pipeline, calls\).*NoneType"),
        (("a", []), "expected a pipeline of diffusers, got str"),
        ((made()[0], []), "not empty"),
        ((made()[0], ["w"]), "calls a list of dicts, got 'w' in it"),
        ((made()[0], [{"generator": 1}]), "generator: the check sets it itself"),
        ((_WithoutSteps(made_pipelines.Denoiser()), [{}]), "hands out no latents"),
        ((_WithoutTransformer(made_pipelines.Denoiser()), [{}]), "called transformer.*has decoder"),
        ("nowhere.py:made", "nowhere.py: no such file"),
    ],
)
def test_another_pipeline_is_one_line(folder, pipeline, message: str) -> None:
    with pytest.raises(UsageError, match=message) as found:
        ropeexport.check(folder, pipeline=pipeline)
    assert "\n" not in str(found.value)
    assert not (folder / "parity.json").exists()


def test_a_library_that_is_absent_is_one_line_with_its_cure(folder, monkeypatch) -> None:
    def factory() -> None:
        import diffusers  # noqa: F401

    monkeypatch.setitem(sys.modules, "diffusers", None)  # as where it is not installed
    with pytest.raises(MissingError, match=r"pip install 'ropeexport\[models\]'"):
        ropeexport.check(folder, pipeline=factory)


def test_a_call_that_fails_by_itself_is_one_line(folder) -> None:
    with pytest.raises(ParityError, match="call 1: Painter itself failed: TypeError: ") as found:
        ropeexport.check(folder, pipeline=(made()[0], [{"high": 3}]))
    assert "\n" not in str(found.value)


def test_a_component_that_the_pipeline_holds_elsewhere_too_is_not_proven(folder) -> None:
    class Holding(made_pipelines.Painter):
        """Asks a transformer of its own at the last step, as for a guidance's second half."""

        def __call__(self, *args, **options):
            named, calls = self.transformer, []

            def one_of_two(**given):
                calls.append(given)
                return (held if len(calls) == 2 else named)(**given)

            self.transformer = one_of_two
            try:
                return super().__call__(*args, **options)
            finally:
                self.transformer = named

    Holding.__call__.__wrapped__ = made_pipelines.Painter.__call__
    painter, calls = made()
    painter.__class__, held = Holding, painter.transformer
    report = ropeexport.check(folder, pipeline=(painter, calls), runtimes=STOCK)
    assert report.verdict == "FAIL"
    assert "called it 1 times, and its own transformer 2 times" in report.reason
    assert painter.transformer is held


@pytest.mark.parametrize(("scale", "said"), [(np.nan, "got nan to nan"), (2.0, "got .* to 2:")])
def test_a_picture_of_the_pipelines_own_that_is_none_is_one_line(folder, scale, said) -> None:
    class Scaled(made_pipelines.Painter):
        def __call__(self, *args, **options):
            pixels = super().__call__(*args, **options)[0]
            return (np.where(pixels == pixels.max(), np.float32(scale), pixels),)

    Scaled.__call__.__wrapped__ = made_pipelines.Painter.__call__
    painter, calls = made()
    painter.__class__ = Scaled
    with pytest.raises(ParityError, match=f"call 1: Scaled itself: expected .* 0 to 1, {said}"):
        ropeexport.check(folder, pipeline=(painter, calls), runtimes=STOCK)
    assert not (folder / "pipeline").exists()


def test_pictures_before_a_call_that_does_not_repeat_are_this_runs(checked) -> None:
    class Restless(made_pipelines.Painter):
        def __call__(self, *args, **options):
            self.decoder.train(options.get("batch", 1) == 2)
            return super().__call__(*args, **options)

    Restless.__call__.__wrapped__ = made_pipelines.Painter.__call__
    painter, calls = made()
    painter.__class__ = Restless
    former = (checked / "pipeline" / "1-eager.png").read_bytes()
    report = ropeexport.check(checked, pipeline=(painter, calls), runtimes=STOCK, seed=1)
    assert report.verdict == "FAIL"
    assert report.reason.startswith("eager is no function of its seed")
    (call,) = report.pipeline.calls
    assert (checked / "pipeline" / call.picture).read_bytes() != former
    assert {path.name[0] for path in (checked / "pipeline").iterdir()} == {"1"}


def test_a_component_is_found_by_the_class_that_was_exported() -> None:
    painter, calls = made()
    assert subject_of((painter, calls), "made_pipelines.Denoiser").component == "transformer"
    assert subject_of((painter, calls), "torch.nn.Sequential").component == "decoder"
    assert subject_of((painter, calls), "file.py:factory").component == "transformer"


def test_what_excludes_the_other_is_refused(folder) -> None:
    with pytest.raises(UsageError, match="--locate"):
        ropeexport.check(folder, pipeline=made, locate=True)
    with pytest.raises(UsageError, match="--pipeline: not for a comparison of files"):
        ropeexport.check(folder / "model.onnx", folder / "model.onnx", pipeline=made)


def test_the_command_line_shows_both_pictures_and_their_difference(folder, tmp_path) -> None:
    page, text, xml = (tmp_path / f"a.{kind}" for kind in ("html", "md", "xml"))
    asked = ["check", str(folder), "--pipeline", FACTORY, "--runtime", "onnxruntime"]
    forms = ["--html", str(page), "--markdown", str(text), "--junit", str(xml)]
    done = CliRunner().invoke(cli, [*asked, *forms])
    assert done.exit_code == 0, done.output
    assert "onnxruntime" in done.output
    assert f"--pipeline {FACTORY}" in ropeexport.report(folder).command
    html = page.read_text()
    assert html.count('src="data:image/png;base64,') == 3 * 2
    assert "difference: none" in html or "times as bright" in html
    assert "| call 2 | onnxruntime |" in text.read_text()
    assert xml.read_text().count('classname="onnxruntime.pipeline"') == 2
    # once more from the records alone
    again = tmp_path / "again.html"
    ropeexport.report(folder, html=again)
    assert again.read_text() == html
    edit_weight(folder, "out.bias", lambda x: x + np.float32(1))
    assert CliRunner().invoke(cli, asked).exit_code == 1


def test_a_report_names_no_file_elsewhere(checked, tmp_path) -> None:
    (checked / "secret").write_bytes(b"secret")
    record = (checked / "parity.json").read_text().replace("1-eager.png", "../secret")
    (checked / "parity.json").write_text(record)
    ropeexport.report(checked, html=tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "c2VjcmV0" not in page
    assert page.count("data:image/png;base64,") == 5
