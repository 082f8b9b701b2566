"""Modules of public repositories export as they are written, and compute what eager computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from exporting.public_modules import MODULES, MORE, SOURCES, Case

import ropeexport

EPS = float(np.finfo(np.float32).eps)
LARGEST = 68  # position, at which a float32 angle is off by as many half units of rounding
# rotary applications found, and those that are ops: q and k share their tables, or each is one
ROPES = {
    "llama": (1, 1),
    "rotary_embedding_torch": (1, 1),
    "sam2": (2, 2),
    "gpt_neox": (1, 1),
    "torchtune": (1, 1),
    "nanochat": (1, 1),
    "gemma": (1, 1),
    "litgpt": (1, 1),
    "x_transformers": (0, 0),
    "mochi": (1, 1),
    "sam2_memory": (2, 2),
}
EXACT = [
    "rotary_embedding_torch",
    "gpt_neox",
]  # those whose angles are made of positions in the graph
LEFT = {"mochi": {"einsum is no product of positions and frequencies"}}  # it sums three of them
# a scale by position between cosine and sum (xPos), which no op has; q and k
NOT_JUDGED = {"x_transformers": 2}


def compare(case: Case, folder: Path) -> float:
    """Return the largest error at the case's sizes, as a share of what float32 angles explain."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [value.name for value in session.get_inputs()]
    shares = []
    for batch, length in case.sizes:
        inputs = case.inputs(batch, length)
        eager = case.module(**inputs)
        ours = session.run(None, {name: inputs[name].numpy() for name in names})
        for x, y in zip(ours, eager if isinstance(eager, tuple) else (eager,), strict=True):
            assert x.shape == tuple(y.shape)
            size = max(1.0, float(y.abs().max()))
            shares.append(np.abs(x - y.numpy()).max(initial=0.0) / (LARGEST * EPS * size))
    return max(shares)


@pytest.mark.parametrize("name", MODULES | MORE)
@torch.no_grad()
def test_a_public_module_exports_as_it_is_written(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    case = (MODULES | MORE)[name]()
    made = ropeexport.export(
        case.module.eval(), case.inputs(2, 16), tmp_path,
        dynamic_axes=case.dynamic_axes, axes=case.axes,
    )  # fmt: skip
    assert (made.found, made.replaced) == ROPES[name]
    assert len(made.manifest.model.recognition.not_judged) == NOT_JUDGED.get(name, 0)
    assert (made.manifest.model.max_position is not None) == (name in EXACT)
    assert {left.reason for left in made.manifest.model.comparison.left} == LEFT.get(name, set())
    assert compare(case, tmp_path) <= 1.0


def test_each_is_of_another_repository() -> None:
    assert list(SOURCES) == list(MODULES)
    assert len({repository for repository, *_ in SOURCES.values()}) == 10
