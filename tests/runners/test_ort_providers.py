"""onnxruntime's CUDA provider: what is loaded before a session, with which options, by whom."""

from __future__ import annotations

import onnxruntime
import pytest

from ropeexport.bench.contenders import BY_NAME
from ropeexport.bench.contenders.contender import Setting
from ropeexport.errors import MissingError
from ropeexport.runners import registry
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.ort_providers import cuda_provider

CUDA = registry.CUDA.executes


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What was asked of onnxruntime, in order; its library has a CUDA provider that cannot load."""
    asked: list[str] = []
    real = onnxruntime.InferenceSession

    def preload_dlls() -> None:
        asked.append("preload")
        print("Failed to load libcudnn.so.9")

    def session(model, options, providers):
        asked.append(str(providers[0]))
        return real(model, options, ["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return asked


def test_libraries_are_loaded_first_and_complain_on_standard_error(told, capsys) -> None:
    assert cuda_provider(user_compute_stream="7") == (
        CUDA,
        {"use_tf32": "0", "user_compute_stream": "7"},
    )
    assert told == ["preload"]
    said = capsys.readouterr()
    assert said.out == ""
    assert "Failed to load libcudnn" in said.err


def test_an_onnxruntime_of_before_loads_nothing(monkeypatch) -> None:
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    assert cuda_provider() == (CUDA, {"use_tf32": "0"})


def test_a_check_loads_them_before_its_session(told, export_once) -> None:
    with OrtRunner(export_once() / "model.onnx") as runner:
        # it is onnxruntime's own choice, so what the session has in the end is reported
        assert (runner.facts.provider, runner.facts.device) == ("CPUExecutionProvider", "cpu")
    assert told == ["preload", str((CUDA, {"use_tf32": "0"}))]


def test_a_bench_loads_them_before_its_session(told, export_once, tmp_path, monkeypatch) -> None:
    class Stream:
        cuda_stream = 7

    monkeypatch.setattr("torch.cuda.current_stream", Stream)
    setting = Setting(export_once(), tmp_path, None, threads=1, device="cuda")
    with pytest.raises(MissingError, match="cannot load its CUDAExecutionProvider"):
        BY_NAME["ropeexport"].set_up(setting)
    provider = (CUDA, {"use_tf32": "0", "user_compute_stream": "7"})
    assert told == ["preload", str(provider)]
