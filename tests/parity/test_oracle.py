"""The torch oracle: nothing that the module narrows reaches it, and what that costs is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ropeexport.ops.rope_table import MAX_POSITION
from ropeexport.parity import tolerance
from ropeexport.parity.oracle import Oracle, Widened
from ropeexport.parity.references import size_of
from ropeexport.parity.tolerance import Yardstick

_POSITIONS = np.arange(100_000, 100_064)[None]
_THETA, _DIM = 1e4, 16


class _FloatAngles(nn.Module):
    """Angles as transformers computes them: in float32, from a buffer of frequencies."""

    def __init__(self) -> None:
        super().__init__()
        exponent = torch.arange(0, _DIM, 2).float() / _DIM
        self.register_buffer("inverse", 1.0 / _THETA**exponent, persistent=False)

    def forward(self, position_ids: Tensor) -> Tensor:
        inverse: Tensor = self.inverse  # type: ignore[assignment]
        angles = inverse[None, :, None].float() @ position_ids[:, None].float()
        return angles.transpose(1, 2).cos()


class _NoCasts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cos()


def test_what_float32_angles_cost_is_measured_apart() -> None:
    module, inputs = _FloatAngles(), {"position_ids": _POSITIONS}
    frequencies = _THETA ** -(np.arange(0, _DIM, 2) / _DIM)
    exact = np.cos(_POSITIONS[..., None] * frequencies)
    eager = module(torch.from_numpy(_POSITIONS)).numpy()
    truth = Oracle(module, ["cos"]).truth(inputs, seed=1)
    cost = np.abs(eager - exact).max()
    assert cost > 1e-3, "this test's own angles are too short to show anything"
    assert np.abs(truth.outputs["cos"] - exact).max() < 4 * cost
    assert cost / 8 < truth.conversions["cos"].largest < 8 * cost
    assert truth.sensitivity["cos"].largest == 0, "whole numbers are exact in every type"


def test_the_modules_tables_are_as_they_were_after_a_run() -> None:
    oracle, inputs = Oracle(_FloatAngles(), ["cos"]), {"position_ids": _POSITIONS}
    first, second = (oracle.truth(inputs, seed).outputs["cos"] for seed in (1, 2))
    np.testing.assert_array_equal(first, second)


def test_where_nothing_is_narrowed_the_inputs_alone_are_perturbed() -> None:
    inputs = {"x": np.linspace(0, 1, 64, dtype=np.float32)}
    truth = Oracle(_NoCasts(), ["y"]).truth(inputs, seed=0)
    np.testing.assert_array_equal(truth.outputs["y"], np.cos(inputs["x"].astype(np.float64)))
    assert 0 < truth.sensitivity["y"].largest <= 2.0**-24
    assert not truth.conversions


def test_whole_numbers_are_exact_and_so_not_perturbed() -> None:
    truth = Oracle(_NoCasts(), ["y"]).truth({"x": np.arange(64, dtype=np.float32)}, seed=0)
    assert truth.sensitivity["y"].largest == 0


@pytest.mark.parametrize("single", [True, False])
def test_functions_that_ask_for_a_narrower_type(single: bool) -> None:
    x = torch.ones(2, dtype=torch.float64)
    float32 = torch.float64 if single else torch.float32
    with Widened(kept=frozenset() if single else frozenset({torch.float32})) as mode:
        assert x.half().dtype is torch.float64
        assert x.bfloat16().dtype is torch.float64
        assert x.to(torch.float16).dtype is torch.float64
        assert mode.asked == {torch.float16, torch.bfloat16}
        assert x.float().dtype is float32
        assert torch.float32 in mode.asked
        assert x.to(dtype=torch.float32).dtype is float32
        assert x.type(torch.float32).dtype is float32
        assert torch.softmax(x, -1, dtype=torch.float32).dtype is float32
        assert torch.arange(4, dtype=torch.float32).dtype is float32
        assert torch.linalg.vector_norm(x, dtype=torch.float32).dtype is float32
        assert torch.linalg.norm(x, dim=-1, dtype=torch.float32).item() == pytest.approx(2**0.5)
        assert torch.ops.aten._to_copy.default(x, dtype=torch.float32).dtype is float32
        assert x.to(torch.int64).dtype is torch.int64
        assert x.view(torch.float32).dtype is torch.float32, "bits, not numbers"


@pytest.mark.parametrize(
    "cast",
    [Tensor.float, Tensor.half, lambda x: x.to(torch.float16), lambda x: x.to(torch.float32)],
)
def test_a_cast_gives_a_copy_that_may_be_changed_in_place(cast) -> None:
    x = torch.ones(2, dtype=torch.float64)
    with Widened():
        cast(x).add_(1)
        assert x.to(torch.float64) is x
    assert x.tolist() == [1, 1]


def test_an_op_of_ours_keeps_its_contract() -> None:
    from ropeexport import rope

    with Widened():
        assert rope(torch.arange(3)[None], 8, 10_000).dtype is torch.float32


def test_a_module_with_float32_angles_is_checked_up_to_a_million_with_something_proven() -> None:
    module = _FloatAngles()
    rng = np.random.default_rng(0)
    for length in (1, 2, 64):
        for seed in range(40):
            positions = rng.integers(0, MAX_POSITION + 1, (1, length))
            truth = Oracle(module, ["cos"]).truth({"position_ids": positions}, seed)
            error = size_of(
                module(torch.from_numpy(positions)).double().numpy() - truth.outputs["cos"]
            )
            known = Yardstick(
                "float32", 2.0**-24, _DIM, truth.sizes["cos"], truth.sensitivity["cos"],
                truth.data_rms, truth.conversions["cos"],
            )  # fmt: skip
            own = tolerance.eager_bound(known)
            assert error.largest <= own.max_abs
            assert error.rms <= own.rms
            assert own.too_wide_for(truth.sizes["cos"]) is None
            assert tolerance.bound(known.with_eager(error)).too_wide_for(truth.sizes["cos"]) is None


class _Norm(nn.Module):
    """As Kandinsky 5 and Chroma norm: what is added to the mean square is the type's own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_norm_adds_what_torch_adds_in_the_modules_type(dtype: torch.dtype) -> None:
    module = _Norm().to(dtype).eval()
    x = (1e-3 * torch.randn(4, 8)).to(dtype)
    exact = nn.functional.rms_norm(x.double(), (8,), eps=2.0**-23)
    truth = Oracle(module, ["y"]).truth({"x": x.numpy()}, seed=0)
    np.testing.assert_array_equal(truth.outputs["y"], exact.numpy())


class _PlainTable(nn.Module):
    """As Kandinsky 5 embeds a timestep: frequencies that are no buffer, cast to float32 before."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = torch.exp(-torch.arange(4, dtype=torch.float32))
        self.layer = nn.Linear(4, 4)

    def forward(self, time: Tensor) -> Tensor:
        return self.layer(torch.outer(time.to(torch.float32), self.frequencies))


def test_what_was_cast_to_float32_meets_weights_of_the_copy() -> None:
    module = _PlainTable().eval()
    time = torch.linspace(0.0, 1000.0, 5)
    truth = Oracle(module, ["y"]).truth({"time": time.numpy()}, seed=0)
    with torch.no_grad():
        expected = module.double().layer(torch.outer(time.double(), module.frequencies.double()))
    np.testing.assert_array_equal(truth.outputs["y"], expected.numpy())
    assert truth.conversions["y"].largest > 0


class _Rounded(nn.Module):
    """As Kandinsky 5 rotates: what it rotated is rounded to bfloat16, in every type."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).type_as(x) * 3


def test_a_half_type_in_a_module_of_float32_is_a_conversion_of_its_own() -> None:
    module, x = _Rounded().eval(), np.linspace(1.0, 2.0, 64, dtype=np.float32)
    truth = Oracle(module, ["y"]).truth({"x": x}, seed=0)
    np.testing.assert_array_equal(truth.outputs["y"], 3.0 * x.astype(np.float64))
    error = np.abs(module(torch.from_numpy(x)).numpy() - truth.outputs["y"]).max()
    assert truth.conversions["y"].largest == pytest.approx(error)
    half = Oracle(module, ["y"]).truth({"x": x.astype(np.float16)}, seed=0)
    assert half.conversions == {}, "a half type rounds as it computes"
