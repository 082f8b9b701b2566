"""The functions and modules elsewhere in torch: compiled, traced by torch.fx, saved and loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import fx

import ropeexport
from ropeexport.modules import (
    FluxAttention,
    FluxPositionEmbedding,
    FluxSelfAttention,
    FluxSelfAttentionIds,
    RMSNorm,
)
from ropeexport.testing import assert_parity

IDS = torch.arange(16).view(1, 8, 2)


def qkvpe(heads: int, of_keys: int, length: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(heads + length)
    q = torch.randn(2, heads, length, 16)
    k, v = torch.randn(2, 2, of_keys, length, 16)
    return q, k, v, ropeexport.rope(torch.arange(length)[None], 16, 1e4)[:, None]


def exact(q, k, v, pe) -> list[np.ndarray]:
    """Return attention over rotated heads in NumPy."""

    def rotated(x: np.ndarray) -> np.ndarray:
        pairs = x.reshape(*x.shape[:-1], -1, 1, 2)
        return (pe * pairs).sum(-1).reshape(x.shape)

    repeat = q.shape[1] // k.shape[1]
    q, k, v = rotated(q), rotated(k).repeat(repeat, 1), v.repeat(repeat, 1)
    scores = np.exp(q @ k.swapaxes(-1, -2) / 4)
    attended = scores / scores.sum(-1, keepdims=True) @ v
    return [attended.swapaxes(1, 2).reshape(2, q.shape[2], -1)]


def test_attention_compiles_twice_for_all_numbers_of_heads() -> None:
    """Once for as many heads of keys, once for fewer; no size is another's, which torch ties."""
    compiled = torch.compile(
        ropeexport.attention, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    sizes = [
        (4, 4, 6),
        (6, 6, 7),
        (12, 3, 7),
        (8, 4, 9),
        (6, 3, 9),
        (3, 3, 5),
        (5, 5, 7),
        (9, 3, 6),
    ]
    with torch._dynamo.config.patch(recompile_limit=2):
        for heads, of_keys, length in sizes:
            q, k, v, pe = qkvpe(heads, of_keys, length)
            found = [compiled(q, k, v, pe).numpy()]
            assert_parity(found, exact, inputs={"q": q, "k": k, "v": v, "pe": pe})


def test_symbolic_trace_keeps_the_calls_whole() -> None:
    traced = fx.symbolic_trace(FluxAttention())
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"] == [
        ropeexport.attention
    ]
    q, k, v, pe = qkvpe(4, 2, 8)
    found = [traced(q, k, v, pe).numpy()]
    assert_parity(found, exact, inputs={"q": q, "k": k, "v": v, "pe": pe})


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (FluxSelfAttention(32, 2), (torch.randn(1, 8, 32), qkvpe(2, 2, 8)[3])),
        (FluxSelfAttentionIds(32, 2, (8, 8)), (torch.randn(1, 8, 32), IDS)),
        (FluxPositionEmbedding((8, 8)), (IDS,)),
        (RMSNorm(8), (torch.randn(2, 8),)),
    ],
)  # fmt: skip
def test_modules_are_traced_and_exported_from_their_trace(module, given) -> None:
    traced = fx.symbolic_trace(module)
    assert torch.equal(traced(*given), module(*given))
    program = torch.export.export(traced, given)
    assert torch.equal(program.module()(*given), module(*given))


def test_the_op_alone_is_traced() -> None:
    class Rotates(torch.nn.Module):
        def forward(self, q, k, pe):
            q, k = ropeexport.apply_rope(q, k, pe)
            return q + k

    q, k, _, pe = qkvpe(2, 2, 4)
    traced = fx.symbolic_trace(Rotates())
    assert torch.equal(traced(q, k, pe), Rotates()(q, k, pe))


@pytest.mark.parametrize(
    "imports",
    [
        "import ropeexport, torch",
        "import torch, ropeexport",
        "import ropeexport, importlib.util; importlib.util.find_spec('torch'); import torch",
    ],
)
def test_a_saved_program_is_read_after_an_import(tmp_path, imports) -> None:
    q, k, v, pe = qkvpe(2, 2, 8)
    ids = torch.arange(16).view(1, 8, 2)
    x = torch.randn(1, 8, 32)
    torch.export.save(torch.export.export(FluxAttention(), (q, k, v, pe)), tmp_path / "a.pt2")
    whole = FluxSelfAttentionIds(32, 2, (8, 8))
    torch.export.save(torch.export.export(whole, (x, ids)), tmp_path / "b.pt2")
    torch.save((q, k, v, pe, x, ids), tmp_path / "inputs")
    code = (
        f"{imports}\n"
        "*given, x, ids = torch.load('inputs')\n"
        "a = torch.export.load('a.pt2').module()(*given)\n"
        "b = torch.export.load('b.pt2').module()(x, ids)\n"
        "torch.save((a, b), 'outputs')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-400:]
    a, b = torch.load(tmp_path / "outputs")
    assert torch.equal(a, ropeexport.attention(q, k, v, pe))
    assert torch.equal(b, whole(x, ids))


def test_torch_is_found_where_it_would_be() -> None:
    code = (
        "import sys, ropeexport, importlib.util\n"
        "assert importlib.util.find_spec('torch').name == 'torch'\n"
        "assert 'torch' not in sys.modules\n"
        "import torch, importlib.resources\n"
        "assert importlib.resources.files(torch).joinpath('version.py').is_file()\n"
        "assert torch.__spec__.name == 'torch' and torch.__spec__.origin == torch.__file__\n"
        "assert not [x for x in sys.meta_path if 'ropeexport' in type(x).__module__]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-400:]
