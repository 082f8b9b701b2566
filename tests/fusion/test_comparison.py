"""A rewrite that computes anything else is found, taken back, and named; whatever made it wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from fusion.writings import Half
from torch import Tensor, nn

import ropeexport
from ropeexport import manifest
from ropeexport.errors import ExportError
from ropeexport.exporting import passes
from ropeexport.fusion import angles, products, rewrite
from ropeexport.fusion.op_inputs import Tables
from ropeexport.models.example import Example

AXES = {0: "batch", 1: "length"}
EPS = float(np.finfo(np.float32).eps)


class FloatPositions(Half):
    """Positions that may have fractions, which a floor and a rest stand for."""

    def forward(self, x: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x, pos * 0.37)


def export(folder: Path, module: nn.Module) -> manifest.ModelRecord:
    pos = torch.arange(6.0 if isinstance(module, FloatPositions) else 6).repeat(2, 1)
    example = Example(module, {"x": torch.randn(2, 6, 16), "pos": pos}, {"x": AXES, "pos": AXES})
    return ropeexport.export(example, out=folder).manifest.model


def assert_right(folder: Path, module: nn.Module) -> None:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    kind = np.float32 if isinstance(module, FloatPositions) else np.int64
    pos = np.arange(5, 14)[None].repeat(3, 0).astype(kind)
    x = torch.randn(3, 9, 16)
    expected = module(x, torch.from_numpy(pos))
    for ours, eager in zip(session.run(None, {"x": x.numpy(), "pos": pos}), expected, strict=True):
        size = float(eager.detach().abs().max())
        assert np.abs(ours - eager.detach().numpy()).max() <= 32 * EPS * max(1.0, size)


def wrong_scale(patch: pytest.MonkeyPatch) -> None:
    real = angles.exact_frequencies
    patch.setattr(angles, "exact_frequencies", lambda stored: real(stored) * 1.0001)


def wrong_frequency(patch: pytest.MonkeyPatch) -> None:
    def last_doubled(stored):
        return np.where(np.arange(len(stored)) == len(stored) - 1, 2 * stored, stored)

    patch.setattr(angles, "exact_frequencies", last_doubled)


def swapped_table(patch: pytest.MonkeyPatch) -> None:
    real = angles._Builder._whole
    patch.setattr(angles._Builder, "_whole", lambda *a: real(*a)[::-1])


def wrong_digits(patch: pytest.MonkeyPatch) -> None:
    """The coarse digit alone is off, which positions beyond 1023 show."""
    real = angles.digit_tables

    def off(frequencies, limit):
        coarse, fine = real(frequencies, limit)
        return np.roll(coarse, 1, axis=0), fine

    patch.setattr(angles, "digit_tables", off)


def dropped_floor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(angles, "is_whole", lambda *_: True)


def dropped_factor(patch: pytest.MonkeyPatch) -> None:
    real = products.unscaled
    patch.setattr(products, "unscaled", lambda *a: (real(*a)[0], 1.0))


OF_ANGLES = [wrong_scale, wrong_frequency, swapped_table, wrong_digits]


@pytest.mark.parametrize("fault", OF_ANGLES)
def test_wrong_angles_are_taken_back(tmp_path: Path, monkeypatch, fault) -> None:
    fault(monkeypatch)
    module = Half().eval()
    record = export(tmp_path, module)
    assert record.recognition.replaced == 1
    names = [refusal.node for refusal in record.comparison.left]
    assert len(names) == 2  # the cosine and the sine
    assert all("departs from the graph as it was" in r.reason for r in record.comparison.left)
    assert record.max_position is None
    assert_right(tmp_path, module)


@pytest.mark.parametrize("fault", [dropped_floor, dropped_factor])
def test_wrong_fractions_are_taken_back(tmp_path: Path, monkeypatch, fault) -> None:
    fault(monkeypatch)
    module = FloatPositions().eval()
    record = export(tmp_path, module)
    assert len(record.comparison.left) == 2
    assert_right(tmp_path, module)


def swapped_entries(patch: pytest.MonkeyPatch) -> None:
    real = Tables.of
    patch.setattr(Tables, "of", lambda *a: real(*a)[::-1])


def wrong_pairing(patch: pytest.MonkeyPatch) -> None:
    real = rewrite._form

    def form(group):
        made = real(group)
        return type(made)(made.tables, "interleaved", made.tensors, made.partial)

    patch.setattr(rewrite, "_form", form)


def exchanged_tensors(patch: pytest.MonkeyPatch) -> None:
    real = rewrite._op
    patch.setattr(rewrite, "_op", lambda g, data, shared: real(g, data[::-1], shared))


@pytest.mark.parametrize("fault", [swapped_entries, wrong_pairing])
@pytest.mark.parametrize("proof", ["before", "after"])
def test_a_wrong_op_is_taken_back(tmp_path: Path, monkeypatch, fault, proof: str) -> None:
    """Two comparisons hold an op: one before it is put in; and, that one off, one of the result."""
    fault(monkeypatch)
    if proof == "after":
        monkeypatch.setattr(rewrite, "_difference", lambda *_: None)
    module = Half().eval()
    record = export(tmp_path, module)
    count = record.recognition
    assert (count.found, count.replaced, record.ropes) == (1, 0, ())
    words = "the op would" if proof == "before" else "departs from the graph as it was"
    assert words in count.refused[0].reason
    assert_right(tmp_path, module)


@pytest.mark.parametrize("proof", ["before", "after"])
def test_two_that_no_op_can_stand_for_are_two_ops(tmp_path: Path, monkeypatch, proof: str) -> None:
    exchanged_tensors(monkeypatch)
    if proof == "after":
        monkeypatch.setattr(rewrite, "_difference", lambda *_: None)
    module = Half().eval()
    count = export(tmp_path, module).recognition
    assert (count.found, count.replaced, count.refused) == (2, 2, ())
    assert_right(tmp_path, module)


def test_a_fault_elsewhere_ends_the_export(tmp_path: Path, monkeypatch) -> None:
    """No region sees what another pass does; the whole graph does, and nothing is written."""

    def halve(model: ir.Model) -> int:
        node = next(n for n in model.graph if n.op_type in ("MatMul", "Gemm"))
        value = node.outputs[0]
        half = ir.node("Constant", [], {"value": ir.tensor(np.float32(0.5))})
        readers = list(value.uses())
        scaled = ir.node("Mul", [value, half.outputs[0]])
        model.graph.insert_after(node, [half, scaled])
        for reader, index in readers:
            reader.replace_input_with(index, scaled.outputs[0])
        return 1

    monkeypatch.setattr(passes, "make_portable", halve)
    with pytest.raises(
        ExportError, match=r"output '\w+': the rewritten graph departs.*nothing was written"
    ):
        export(tmp_path, Half().eval())
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_what_was_compared(tmp_path: Path) -> None:
    compared = export(tmp_path, Half().eval()).comparison
    assert compared.regions == 1
    assert [set(shape) for shape in compared.shapes] == [{"batch", "length"}] * 3
    assert compared.max_position > 1 << 16
    assert 0.0 <= compared.worst_region <= 1.0
    assert 0.0 <= compared.worst_whole <= 1.0
    assert (compared.left, compared.without_whole) == ((), "")
    assert manifest.read(tmp_path).model.comparison == compared
