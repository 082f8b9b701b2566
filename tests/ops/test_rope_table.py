"""Exact angles: within 2^-23 of float64 to position 2^20, where float32 angles are far off."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from ropeexport.errors import UsageError
from ropeexport.models.builtin_models import flux_axes
from ropeexport.onnx_files.contract import input_specs
from ropeexport.ops import rope_table

PROMISED = 2.0**-23
LAST = 1 << 20


def session(pairs: int) -> onnxruntime.InferenceSession:
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23, "ropeexport": 1]>
        g (int64[l] pos, float[a, {pairs}, 4] coarse, float[b, {pairs}, 4] fine)
        => (float[l, {pairs}, 2, 2] pe) {{ pe = ropeexport.RopeTable (pos, coarse, fine) }}"""
    )
    model.functions.append(rope_table.rope_table_function(23))
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString())


def frequencies(dim: int, theta: float) -> np.ndarray:
    return 1.0 / theta ** (np.arange(0, dim, 2) / dim)


def table(pos: np.ndarray, omega: np.ndarray) -> np.ndarray:
    coarse, fine = rope_table.digit_tables(omega)
    return session(len(omega)).run(None, {"pos": pos, "coarse": coarse, "fine": fine})[0]


def positions() -> np.ndarray:
    rng = np.random.default_rng(0)
    edges = [0, 1, 1023, 1024, 1025, LAST - 1, LAST, rope_table.MAX_POSITION]
    return np.concatenate([rng.integers(-LAST, LAST + 1, 20_000), edges, np.negative(edges)])


def exact(pos: np.ndarray, omega: np.ndarray) -> np.ndarray:
    angle = pos[:, None] * omega
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos, -sin, sin, cos], axis=-1).reshape(*angle.shape, 2, 2)


@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6, 1e7])
@pytest.mark.parametrize("dim", [128, 64])
def test_angles_are_exact(dim: int, theta: float) -> None:
    omega = frequencies(dim, theta)
    error = np.abs(table(positions(), omega) - exact(positions(), omega)).max()
    assert error <= rope_table.ERROR_BOUND <= PROMISED


@pytest.mark.parametrize("dim", flux_axes(128))
def test_angles_are_exact_on_the_axes_of_flux(dim: int) -> None:
    omega = frequencies(dim, 1e4)
    assert np.abs(table(positions(), omega) - exact(positions(), omega)).max() <= PROMISED


def test_the_naive_float32_graph_is_far_off() -> None:
    omega = frequencies(128, 1e4)
    pos = positions()[:20_000]
    naive = np.cos(pos.astype(np.float32)[:, None] * omega.astype(np.float32))
    naive_error = np.abs(naive - np.cos(pos[:, None] * omega)).max()
    ours_error = np.abs(table(pos, omega)[..., 0, 0] - np.cos(pos[:, None] * omega)).max()
    print(f"worst error of cos to position 2^20: naive {naive_error:.2e}, ours {ours_error:.2e}")
    assert naive_error > 1e4 * PROMISED > 1e4 * ours_error


def test_matrices_are_rotations_bit_for_bit() -> None:
    pe = table(positions()[:1000], frequencies(64, 1e4))
    np.testing.assert_array_equal(pe[..., 0, 0], pe[..., 1, 1])
    np.testing.assert_array_equal(pe[..., 1, 0], -pe[..., 0, 1])


def test_positions_beyond_the_tables_are_nan() -> None:
    far = rope_table.MAX_POSITION + 1
    pe = table(np.array([far, -far, 1 << 40, 7]), frequencies(8, 1e4))
    assert np.isnan(pe[:3]).all()
    assert np.isfinite(pe[3]).all()


def test_a_float_input_that_reaches_the_table_is_known_as_positions() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 23, "ropeexport": 1]>
        g (float[t, 3] txt_ids, float[l, 3] img_ids, float[l, 4] x,
           float[a, 2, 4] coarse, float[b, 2, 4] fine) => (float[n, 2, 2, 2] pe, float[l, 4] y) {
            ids = Concat<axis = 0>(txt_ids, img_ids)
            last = Constant<value_int = 2>()
            column = Gather<axis = 1>(ids, last)
            pos = Cast<to = 7>(column)
            pe = ropeexport.RopeTable (pos, coarse, fine)
            y = Neg(x)
        }"""
    )
    roles = {spec.name: spec.role for spec in input_specs(ir.from_proto(model))}
    assert (roles["txt_ids"], roles["img_ids"], roles["x"]) == ("positions", "positions", "data")


def test_what_the_op_means_in_numpy_is_what_its_body_computes() -> None:
    omega = frequencies(16, 1e4)
    pos = np.array([0, 1, -1, 1023, 1024, -70_000, rope_table.MAX_POSITION])
    tables = [table.astype("f8") for table in rope_table.digit_tables(omega)]
    meaning = rope_table.rope_table(pos, *tables)
    assert np.abs(meaning - exact(pos, omega)).max() <= 2.0**-35
    assert np.abs(table(pos, omega) - meaning).max() <= rope_table.ERROR_BOUND


@pytest.mark.parametrize("limit", [1, 1023, 1024, 3_000_000, rope_table.LARGEST_POSITION])
def test_tables_hold_the_positions_that_they_are_asked_for(limit: int) -> None:
    omega = frequencies(8, 1e4)
    coarse, fine = rope_table.digit_tables(omega, limit)
    held = rope_table.limit_of(len(coarse))
    assert limit <= held < limit + 1024
    pos = np.array([held, -held, held // 3, held + 1])
    pe = session(len(omega)).run(None, {"pos": pos, "coarse": coarse, "fine": fine})[0]
    assert np.abs(pe[:3] - exact(pos[:3], omega)).max() <= PROMISED
    assert np.isnan(pe[3]).all()


@pytest.mark.parametrize("limit", [0, -1, rope_table.LARGEST_POSITION + 1])
def test_a_limit_that_tables_cannot_have_is_refused(limit: int) -> None:
    with pytest.raises(UsageError, match=rf"expected a whole .* 1 to 16,777,215, got {limit}"):
        rope_table.check_limit(limit)
