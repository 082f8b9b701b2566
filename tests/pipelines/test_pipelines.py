"""The picture of a pipeline with the export in its transformer's place, and with a faulty one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from pipelines import faults
from pipelines.subjects import Subject, differing, exported
from small_pipelines import PIPELINES

pytestmark = pytest.mark.pipelines

# inputs' dynamic axes, and rotary applications
AXES = {
    "flux": ({"batch", "length", "text_length"}, 2),
    "flux2": ({"batch", "length", "text_length"}, 2),
    "qwen_image": ({"batch", "length", "text_length"}, 4),
    "wan": ({"batch", "frames", "height", "width", "text_length"}, 2),
    "cogview4": ({"batch", "_height", "_width", "text_length"}, 2),
}
# what is where another thing should be: text and image, or rows and columns
EXCHANGED = {
    "flux": faults.text_and_image_exchanged,
    "flux2": faults.text_and_image_exchanged,
    "qwen_image": faults.image_and_text_exchanged,
    "wan": faults.rows_and_columns_exchanged(before=3, pairs=3),
    "cogview4": faults.rows_and_columns_exchanged(before=0, pairs=4),
}


@pytest.fixture(scope="session", params=PIPELINES)
def subject(request, tmp_path_factory) -> tuple[str, Subject]:
    return request.param, exported(request.param, tmp_path_factory.mktemp(request.param) / "out")


def test_one_file_serves_every_call(subject) -> None:
    name, made = subject[0], subject[1].made
    axes, ropes = AXES[name]
    assert set(made.manifest.axes) == axes
    assert (made.found, made.replaced, made.refused, made.not_judged) == (ropes, ropes, (), ())


def test_the_picture_is_eagers(subject) -> None:
    own = subject[1]
    report = own.made.check(module=None, pipeline=own.given, runtimes=["onnxruntime"])
    assert report.verdict == "PASS", report.reason
    assert len(report.pipeline.calls) == len(own.calls)
    counts = [x.pixels.refused for x in report.pipeline.pictures if x.runtime == "onnxruntime"]
    assert counts == [0] * len(own.calls)


@pytest.mark.parametrize("fault", ["a row late", "exchanged", "sin negated"])
def test_a_fault_shows_in_every_picture(subject, fault, tmp_path) -> None:
    name, own = subject
    edits = {"a row late": faults.a_row_late, "sin negated": faults.sin_negated}
    broken = faults.planted(own.made.folder, tmp_path / "out", edits.get(fault, EXCHANGED[name]))
    counts = differing(own.eager, own.pictures(broken))
    assert all(count > 0.1 * x.size for count, x in zip(counts, own.eager, strict=True)), counts


def test_what_changes_nothing_shows_in_none(subject, tmp_path) -> None:
    own = subject[1]
    edited = faults.planted(own.made.folder, tmp_path / "out", faults.nothing)
    assert differing(own.pictures(own.made.folder), own.pictures(edited)) == [0, 0, 0]


def test_a_half_type_is_held_by_its_latents(tmp_path) -> None:
    own = exported("wan", tmp_path / "out", torch.float16)
    types = {spec.name: spec.dtype for spec in own.made.manifest.model.inputs}
    assert types["timestep"] == "float32"  # as the pipeline has it, up to 1000
    assert types["hidden_states"] == "float16"
    given = (own.pipe, own.calls[:1])
    report = own.made.check(module=None, pipeline=given, runtimes=["onnxruntime"])
    assert report.verdict == "PASS", report.reason
    assert not report.pipeline.pixels_decide
