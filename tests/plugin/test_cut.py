"""How a launch is cut: by a GPU's wave, and by plain numbers where they are given."""

from __future__ import annotations

import ctypes
import itertools
from ctypes import POINTER, Structure, byref, c_int32, c_int64
from pathlib import Path

import pytest
import torch
from plugin.host_walk import TYPES, Coefficients, HostWalk, Params, Rotated, Strides

H100 = 132 * 8
WAVES = sorted({m * b for m in range(20, 193) for b in (5, 8, 10, 16)})
HEADS = [(1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (3, 1), (4, 1), (5, 5), (7, 1), (8, 8), (12, 12)]
HEADS += [(13, 13), (14, 2), (16, 16), (24, 24), (28, 4), (32, 8), (32, 32), (40, 8), (64, 8)]
HEADS += [(71, 1), (96, 8), (128, 128), (1, 0), (2, 0), (3, 0), (24, 0), (25, 0), (0, 8)]
LENGTHS = sorted({2**n for n in range(18)} | {3 * 2**n for n in range(16)} | {77, 333, 4608, 4429})
# type, head size, pairing, cos and sin: 1 to 32 units of a row, 1 to 4 heads in flight
KINDS = [
    (torch.float16, 128, "interleaved", False),
    (torch.float32, 128, "interleaved", False),
    (torch.bfloat16, 64, "interleaved", False),
    (torch.float16, 72, "interleaved", True),
    (torch.float16, 128, "half", True),
    (torch.float16, 8, "interleaved", True),
]
FLUX = KINDS[0]


def launch(kind, heads: tuple[int, int], length: int, batch: int = 1, pe_heads: int = 1) -> Params:
    """Describe a launch whose arrays are nowhere."""
    dtype, size, _, tables = kind
    address = 1 << 20
    q, k = (
        Rotated(address, address, h, *[Strides(h * length * size, length * size, size)] * 2)
        for h in heads
    )
    row = size // 2 if tables else size * 2
    strides = Strides(pe_heads * length * row, length * row, row)
    pe = Coefficients(address, address if tables else None, 1, pe_heads, strides)
    return Params(TYPES[dtype], batch, length, size, 0, q, k, pe)


def ends_idle(blocks: int, wave: int) -> bool:
    return wave < blocks < 1.5 * wave


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_second_wave_is_almost_empty(walk: HostWalk, kind) -> None:
    seen = set()
    for heads, length in itertools.product(HEADS, LENGTHS):
        params = launch(kind, heads, length)
        # every cut there is, by the plain rule
        cuts = {walk.cuts(params, [0], kind[2], (1 << 30, 1, n))[0][0] for n in range(1, 13)}
        chosen = walk.cuts(params, WAVES, kind[2])
        for wave, (blocks, _) in zip(WAVES, chosen, strict=True):
            good = [b for b in cuts if 2 * b >= wave and not ends_idle(b, wave)]
            # the fewest blocks that fill the GPU, else the most there are
            assert blocks == (min(good) if good else max(cuts)), (heads, length, wave)
            assert not ends_idle(blocks, wave) or max(heads) == 1, (heads, length, wave)
            seen.add((bool(good), 2 * blocks < wave, ends_idle(blocks, wave)))
    # filled, too small for the GPU, and the one cut of one head a tensor
    assert seen == {(True, False, False), (False, True, False), (False, False, True)}


def test_matrices_of_each_head(walk) -> None:
    for heads, length in itertools.product([1, 2, 3, 5, 24], LENGTHS):
        params = launch(FLUX, (heads, heads), length, pe_heads=heads)
        for wave, (blocks, _) in zip(WAVES, walk.cuts(params, WAVES), strict=True):
            assert not ends_idle(blocks, wave) or heads == 1


@pytest.mark.parametrize(
    ("length", "blocks"),
    [(4608, 2304), (1536, 768)],  # FLUX at 1024 pixels: 2.18 waves; at 512: 0.73
)
def test_flux_on_an_h100(walk, length, blocks) -> None:
    assert walk.cuts(launch(FLUX, (24, 24), length), [H100]) == [(blocks, 12)]


def test_gpus_of_other_sizes(walk) -> None:
    """FLUX at 512 pixels: 12, 8, 6, 4 heads a thread are 768, 1152, 1536, 2304 blocks."""
    waves = [132 * 8, 192 * 8, 108 * 16, 20 * 8, 600, 3000]
    chosen = walk.cuts(launch(FLUX, (24, 24), 1536), waves)
    assert chosen == [(768, 12), (768, 12), (1152, 8), (768, 12), (1152, 8), (2304, 4)]


def test_a_small_launch_has_all_the_threads_there_are(walk) -> None:
    assert walk.cuts(launch(FLUX, (32, 8), 1, batch=2), [H100]) == [(40, 1)]


def test_given_blocks_are_the_plain_rule(walk) -> None:
    """Blocks of one head a thread by `enough_blocks`, whatever the GPU."""
    for heads, length in [((24, 24), 1536), ((24, 24), 4608), ((32, 8), 333), ((1, 1), 7)]:
        single = -(-length * 16 // 128) * sum(heads)
        for enough, most in itertools.product([1, 1056, 4000, 1 << 40], [1, 4, 12, 100]):
            tuning = (1 << 30, enough, most)
            cuts = walk.cuts(launch(FLUX, heads, length), [1, H100, 10**9], tuning=tuning)
            assert len(set(cuts)) == 1
            by_rule = max(1, min(most, single // enough))
            plain = (1 << 30, 1, by_rule)
            assert cuts[0] == walk.cuts(launch(FLUX, heads, length), [0], tuning=plain)[0]
    flux = launch(FLUX, (24, 24), 1536)
    assert walk.cuts(flux, [1], tuning=(1 << 30, 1056, 12)) == [(1152, 8)]
    assert walk.cuts(flux, [1], tuning=(1 << 30, 1 << 40, 12)) == [(9216, 1)]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 12, 100, 1 << 62])
def test_most_heads_a_thread_bound_the_cut_by_a_wave(walk, most) -> None:
    for heads in (1, 6, 24, 130):
        params = launch(FLUX, (heads, heads), 4608)
        for _, per_thread in walk.cuts(params, WAVES, tuning=(1 << 30, 0, most)):
            assert per_thread <= most
    (largest,) = walk.cuts(launch(FLUX, (6, 6), 1 << 20), [H100], tuning=(1 << 30, 0, most))
    assert largest[1] == {1: 1, 2: 2, 3: 3, 5: 4}.get(most, 6)


class Gpu(Structure):
    _fields_ = [
        ("device", c_int32),
        ("multiprocessors", c_int32),
        ("blocks", c_int32),
        ("failing", c_int32),
    ]


class Resident:
    """``libropeexport_resident.so``: a wave asked of GPUs that are made up."""

    def __init__(self, path: Path) -> None:
        self._wave = ctypes.CDLL(str(path)).ropeexport_wave
        self._wave.argtypes = [POINTER(Gpu), c_int32, POINTER(c_int64), POINTER(c_int32)]
        self._wave.restype = c_int64
        self.questions = 0

    def __call__(self, device: int, multiprocessors: int, blocks: int, failing: int = 0) -> int:
        asked, error = c_int64(), c_int32()
        gpu = Gpu(device, multiprocessors, blocks, failing)
        wave = self._wave(byref(gpu), 5, byref(asked), byref(error))
        assert error.value == 0, "an error is left behind"
        self.questions = asked.value
        return int(wave)


@pytest.fixture(scope="module")
def resident(plugin_folder) -> Resident:
    return Resident(plugin_folder / "test" / "libropeexport_resident.so")


def test_a_device_is_asked_once(resident) -> None:
    assert resident(0, 132, 8) == 1056
    before = resident.questions
    assert resident(0, 1, 1) == 1056
    assert resident.questions == before
    assert resident(1, 20, 16) == 320  # another device of the process
    assert (resident(0, 1, 1), resident(1, 1, 1)) == (1056, 320)
    assert resident.questions == before + 1


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_device_that_does_not_answer(resident, failing) -> None:
    """The launch is cut as on 132 multiprocessors, and the next one asks again."""
    assert resident(10 + failing, 100, 8, failing) == 132 * 5
    assert resident(10 + failing, 100, 8) == 800


def test_a_kernel_of_which_no_block_fits(resident) -> None:
    assert resident(20, 100, 0) == 132 * 5


def test_more_devices_than_are_remembered(resident) -> None:
    for device in (63, 64, 1000):
        assert resident(device, 100, 8) == 800
        assert resident(device, 50, 8) == (800 if device == 63 else 400)
