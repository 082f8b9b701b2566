"""One pipeline of diffusers in the everyday tests: FLUX, its transformer exported."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from pipelines.faults import planted, sin_negated
from pipelines.subjects import differing, exported

pytestmark = pytest.mark.pipelines  # minutes of them, see Makefile


def test_the_picture_is_eagers_and_a_fault_shows_in_it(tmp_path) -> None:
    own = exported("flux", tmp_path / "out")
    pipe, calls = own.given
    # two prompts, and sizes that the export was not traced with
    report = own.made.check(module=None, pipeline=(pipe, calls[2:]), runtimes=["onnxruntime"])
    assert report.verdict == "PASS", report.reason
    broken = planted(own.made.folder, tmp_path / "broken", sin_negated)
    assert min(differing(own.eager, own.pictures(broken))) > 100
