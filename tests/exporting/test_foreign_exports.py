"""Other exporters' files (scripts/foreign_files.py) compute what they did, their ropes as ops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import ropeexport
from ropeexport.exporting.fuse_file import fuse_file

pytestmark = pytest.mark.tools
FOREIGN = Path(__file__).parents[1] / "data" / "foreign"
# q and k of one layer share their tables: one op; ropes, and whether their angles are exact
FILES = {
    **{f"torchscript-{opset}/{name}": True for opset in (17, 18)
       for name in ("dinov3", "gemma", "gpt-neox", "llama", "qwen3")},
    **{f"optimum/{name}": True for name in ("gemma", "gpt-neox", "llama", "phi3", "qwen3")},
    **{f"genai/{name}": False for name in ("gemma2", "llama", "mistral", "phi", "qwen3")},
}  # fmt: skip
# batch, length, past: GroupQueryAttention takes several tokens after others for a batch of 1 alone
SIZES = ((1, 5, 4), (2, 7, 0), (3, 1, 6))
# float16 rounds by 2^-11, what one layer makes of a rotated element's last bit by a few of them
BOUND = {"tensor(float)": 2e-5, "tensor(float16)": 2.0**-8}


def sizes_of(dim: int | str, batch: int, length: int, past: int) -> int:
    if isinstance(dim, int):
        return dim
    if "past" in dim and "sequence_length" in dim and "+" in dim:
        return past + length
    named = {"batch": batch, "total": past + length, "past": past, "kv": 8, "seq": length,
             "height": 8 * length, "width": 16 * batch}  # fmt: skip
    return next(size for word, size in named.items() if word in dim)


def feed_of(session: onnxruntime.InferenceSession, sizes: tuple[int, int, int]) -> dict:
    rng, (_, length, past) = np.random.default_rng(0), sizes
    feed = {}
    for value in session.get_inputs():
        shape = tuple(sizes_of(dim, *sizes) for dim in value.shape)
        if value.name == "attention_mask":
            feed[value.name] = np.ones(shape, np.int64)
        elif value.name == "position_ids":
            feed[value.name] = np.broadcast_to(past + np.arange(length), shape).astype(np.int64)
        elif value.type == "tensor(int64)":
            feed[value.name] = rng.integers(0, 32, shape)
        else:
            kind = np.float16 if value.type == "tensor(float16)" else np.float32
            feed[value.name] = rng.standard_normal(shape).astype(kind)
    return feed


def opened(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_file_computes_what_it_did(name: str, tmp_path: Path) -> None:
    path = FOREIGN / name / "model.onnx"
    manifest, count = fuse_file(path, tmp_path / "out")
    assert (count.found, count.replaced, count.refused) == (1, 1, ())
    assert manifest is not None
    before, after = opened(path), opened(tmp_path / "out" / "model.onnx")
    for described in ("get_inputs", "get_outputs"):
        old, new = (getattr(session, described)() for session in (before, after))
        assert [(v.name, v.type) for v in new] == [(v.name, v.type) for v in old]
    for sizes in SIZES:
        feed = feed_of(before, sizes)
        pairs = zip(
            before.get_outputs(), before.run(None, feed), after.run(None, feed), strict=True
        )
        for value, old, new in pairs:
            assert new.shape == old.shape
            error = np.abs(new.astype(np.float64) - old).max(initial=0)
            assert error <= BOUND[value.type] * np.abs(old).max(initial=0), value.name
    assert (manifest.model.max_position is not None) == FILES[name]


@pytest.mark.parametrize("name", ["torchscript-17/llama", "optimum/llama"])
def test_a_fused_folder_is_held_to_its_file(name: str, tmp_path: Path) -> None:
    """Float32 angles of the file's own are no fault of the file with exact ones, nor of itself."""
    fuse_file(FOREIGN / name / "model.onnx", tmp_path / "out")
    report = ropeexport.check(tmp_path / "out", runtimes=["onnxruntime"], seed=1)
    assert report.verdict == "PASS"
    (kept,) = {c.status for c in report.comparisons if c.status not in ("PASS", "SKIPPED")} or {""}
    assert kept == ("NOT_SUPPORTED" if name.startswith("optimum") else "")  # it takes NaN out


def test_the_rope_inside_an_attention_is_said(tmp_path: Path) -> None:
    manifest, count = fuse_file(FOREIGN / "genai" / "llama-cpu" / "model.onnx", tmp_path / "out")
    assert manifest is None
    assert count.found == len(count.refused) == 1
    assert "GroupQueryAttention" in count.refused[0].reason
