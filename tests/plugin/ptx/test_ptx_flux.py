"""FLUX's own launch: some blocks of the grid that the product cuts for a 1024x1024 image."""

from __future__ import annotations

import numpy as np
import pytest
from plugin.ptx.cases import DTYPES, Case
from plugin.ptx.launches import Form
from plugin.ptx.trial import Trial, rotated

FLUX = {"batch": 1, "heads": 24, "k_heads": 24, "length": 4608, "head_size": 128}
LLAMA = {**FLUX, "heads": 32, "k_heads": 8, "length": 2048}


def some_blocks(count: int) -> list[int]:
    """Return blocks at the start, in the middle and at the end of a grid."""
    return [*range(12), *range(count // 2, count // 2 + 4), *range(count - 12, count)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [FLUX, LLAMA], ids=["FLUX", "Llama"])
def test_some_blocks(build, dtype, sizes) -> None:
    halves = sizes is LLAMA
    trial = Trial(Case("flux", dtype, Form(halves, halves, False), tuning=None, **sizes))
    (launch,) = trial.launches(build)
    blocks = some_blocks(launch.blocks)
    assert trial.run(build, blocks) == []
    done = total = 0
    for x, source, output in zip(trial.data, trial.inputs, trial.outputs, strict=True):
        read, written = trial.memory.reads(source), trial.memory.writes(output)
        assert written.max() == 1
        assert np.array_equal(read, written)
        elements = written.reshape(*written.shape[:-1], x.shape[-1], -1).all(axis=-1)
        expected = rotated(trial.case, x, trial.first, trial.second)
        assert trial.equal(output, expected)[elements].all()
        done += int(elements.sum())
        total += x.numel()
    if not halves:  # FLUX's heads and columns are whole groups and blocks, each of the same work
        assert done * launch.blocks == total * len(blocks)
    assert done >= len(blocks) * launch.block_threads
