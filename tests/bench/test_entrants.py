"""Contenders of a run: what their records say of loads and builds that came a second time."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from made_tensorrt import A_GPU, engine_record

from ropeexport.artifact import Artifact
from ropeexport.bench import entrants
from ropeexport.bench.contenders import BY_NAME, Recipe, Setting, kept_beside
from ropeexport.bench.entrants import Entrant, Setup, megabytes
from ropeexport.bench.processes import Made
from ropeexport.trt.cache import RuntimeCache

FILE = "native/model.engine"


class Process:
    """Takes less time to load where what the first one compiled was kept."""

    made: list[Process]

    def __init__(self, order) -> None:
        self.order, self.closed = order, False
        self.made.append(self)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def ready(self) -> float:
        return 9.0 / len(self.made)

    def outputs(self, *_) -> dict[str, object]:
        return {}


@pytest.fixture
def setup(monkeypatch, export_once, tmp_path) -> Setup:
    """A run whose engine was built, and built again, by nobody."""
    folder = export_once()
    Process.made = []
    made = Made(seconds=60.0, version="tensorrt 10.14", again_seconds=5.0)
    checker = SimpleNamespace(wrong=lambda *_, **__: None)
    monkeypatch.setattr(entrants, "Process", Process)
    monkeypatch.setattr(entrants, "make", lambda order: made)
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_bytes(b"engine")
    setting = Setting(folder, tmp_path, None, threads=1, device="cuda")
    return Setup(Artifact.read(folder), setting, 0, checker, {}, ())


def opened(setup: Setup) -> Entrant:
    contender = Recipe("tensorrt-native", "native", BY_NAME["tensorrt-native"].set_up, (FILE,))
    with ExitStack() as stack:
        entrant = setup.open(contender, stack, lambda *_: None)
        assert entrant.process is not None, entrant.record.reason
        assert not entrant.process.closed
        assert entrant.process is Process.made[-1]
    return entrant


def test_an_engine_that_kept_what_it_compiled_is_loaded_again(setup) -> None:
    RuntimeCache(kept_beside(setup.setting.prepared / FILE), engine_record(), A_GPU).write(
        b"kernels"
    )
    record = opened(setup).record
    assert (record.load_seconds, record.load_again_seconds) == (9.0, 4.5)
    assert [process.order for process in Process.made] == [Process.made[0].order] * 2
    assert Process.made[0].closed


def test_one_that_kept_nothing_is_loaded_once(setup) -> None:
    record = opened(setup).record
    assert (record.load_seconds, record.load_again_seconds) == (9.0, None)
    assert len(Process.made) == 1


def test_a_build_with_what_the_first_one_measured_is_recorded(setup) -> None:
    record = opened(setup).record
    assert (record.prepare_seconds, record.prepare_again_seconds) == (60.0, 5.0)


def test_the_size_of_a_model_counts_its_weights_once(tmp_path) -> None:
    for name, size in (("m.onnx", 1), ("m.onnx.data", 2), ("w.safetensors", 4), ("other", 8)):
        (tmp_path / name).write_bytes(bytes(size * 1000))
    path = tmp_path / "m.onnx"
    assert megabytes(path) == pytest.approx(0.003)
    found = megabytes(path, tmp_path / "m.onnx.data", tmp_path / "w.safetensors")
    assert found == pytest.approx(0.007)
