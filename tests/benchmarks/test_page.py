"""docs/benchmarks.md is what the committed results say, and says where we are behind."""

from __future__ import annotations

import copy
import json

from benchmarks import page
from benchmarks.models.causes import KNOWN, news

CPU = json.loads((page.RESULTS / "cpu.json").read_text())


def test_the_page_is_current() -> None:
    assert page.render() == page.PAGE.read_text(), "python -m benchmarks.page"


def test_a_result_of_older_sources_is_marked() -> None:
    old = copy.deepcopy(CPU)
    old["parts"]["rope"]["bench"]["code_sha256"] = "older"
    assert "rope" in page.stale(old)
    assert "**Older than the code it measures.**" in "\n".join(page._part(old, "rope"))


def test_who_is_faster_or_lighter_is_named() -> None:
    changed = copy.deepcopy(CPU)
    timings = changed["parts"]["attention"]["bench"]["groups"][0]["timings"]
    by_name = {timing["contender"]: timing for timing in timings}
    by_name["eager"]["turns_ms"] = [x / 10 for x in by_name["ropeexport"]["turns_ms"]]
    by_name["plain"]["peak_mb"] = by_name["ropeexport"]["peak_mb"] / 2
    said = "\n".join(page._behind_in(changed, "attention"))
    assert "attention, batch 1, length 256: eager torch takes 0.10 of our time" in said
    assert "the peak memory is 2.00 of the plain export's" in said


def test_news_of_a_model_class() -> None:
    good = {"name": "llama", "fp32": "PASS", "fp16": "PASS", "engine": "built", "found": 2,
            "replaced": 2}  # fmt: skip
    assert news(good) == []
    assert news(good | {"fp16": "FAIL 1"}) == ["llama: fp16: FAIL 1"]
    assert news(good | {"replaced": 1}) == ["llama: 1 of 2 replaced"]
    known = good | {"name": "MochiTransformer3DModel", "engine": "BuildError: NonZero"}
    assert news(known) == []
    assert "works now" in news(known | {"engine": "built"})[0]
    assert "another failure" in news(known | {"engine": "BuildError: other"})[0]
    assert set(KNOWN) <= {row["name"] for row in json.loads(
        (page.RESULTS / "models.json").read_text()).values()}  # fmt: skip
