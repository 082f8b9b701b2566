"""Where a benchmark runs, and what its record says of that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import ropeexport

from benchmarks.gpu.device import CudaDevice
from benchmarks.machine import describe
from ropeexport import machine
from ropeexport.artifact import Artifact
from ropeexport.bench import device
from ropeexport.bench.bench import BenchOptions, bench
from ropeexport.bench.device import choose_device
from ropeexport.bench.records import Bench
from ropeexport.errors import MissingError
from ropeexport.machine import Gpu, find_gpu

NO_GPU = pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")


@NO_GPU
def test_a_gpu_that_is_not_there_is_missing(export_once) -> None:
    done = ropeexport("bench", export_once(), "--device", "cuda", "--against", "eager")
    assert done.returncode == 3
    assert "--device cuda: torch" in done.stderr
    assert "sees no NVIDIA GPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (export_once() / "bench.json").exists()


def test_the_gpu_is_taken_where_torch_sees_one(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [choose_device(asked) for asked in (None, "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [choose_device(asked) for asked in (None, "cpu")] == ["cpu", "cpu"]
    with pytest.raises(MissingError):
        choose_device("cuda")


def test_a_device_is_in_the_command_that_runs_it_again() -> None:
    folder = Path("out")
    assert "--device cuda" in BenchOptions(device="cuda").command(folder)
    assert "--device" not in BenchOptions().command(folder)


def test_records_of_before_devices_are_the_cpus() -> None:
    environment = dict.fromkeys(("ropeexport", "python", "platform", "machine"), "")
    old = {
        **dict.fromkeys(("model", "source", "dtype", "model_sha256", "code_sha256"), "some"),
        **dict.fromkeys(("date", "command", "processor"), "some"),
        **dict.fromkeys(("seed", "threads", "rounds", "repeats", "cores"), 1),
        "environment": {**environment, "packages": {}},
        "contenders": [{"name": "eager", "label": "eager torch", "status": "TIMED"}],
        "groups": [
            {
                "sizes": {"length": 8},
                "tokens": 8,
                "timings": [{"contender": "eager", "turns_ms": [1.0], "peak_mb": 1.0}],
            }
        ],
    }
    assert Bench.model_validate(old).device == "cpu"
    assert Bench.model_validate(old | {"device": "cuda"}).device == "cuda"


def test_the_machine_line_names_the_gpu(monkeypatch) -> None:
    monkeypatch.setattr(machine, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9", "13.0"))
    assert machine.processor("cuda") == f"NVIDIA L4, {machine.processor('cpu')}"
    assert "NVIDIA" not in machine.processor()
    assert describe()["processor"] == machine.processor()


def test_a_launch_is_timed_on_the_host_while_the_gpu_is_idle(monkeypatch) -> None:
    asked: list[str] = []
    clock = iter([1.0, 1.25])
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: asked.append("wait"))
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(clock))
    assert device.CudaDevice().launch_us(lambda: asked.append("work")) == 250_000
    assert asked == ["wait", "work", "wait"]


def test_the_measurements_of_the_kernel_ask_the_same_device(monkeypatch) -> None:
    stand_ins = {"mem_get_info": (1000, 2000), "memory_reserved": 500, "memory_allocated": 100}
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    found = CudaDevice()
    assert (found.untaken_bytes, found.free_bytes) == (1000, 1000 + 500 - 100)
    assert isinstance(found, device.CudaDevice)


@pytest.mark.gpu
@pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU")
def test_a_whole_run_on_a_gpu(export_once) -> None:
    options = BenchOptions(device="cuda", lengths=(64,), rounds=2, repeats=1)
    found = bench(Artifact.read(export_once("flux-attention", "fp16", 128)), options)
    status = {record.name: record for record in found.contenders}
    assert found.device == "cuda"
    assert status["eager"].status == "TIMED"
    assert status["openvino"].reason == "OpenVINO runs on a CPU"
    assert not [record for record in found.contenders if record.status in ("WRONG", "FAILED")]
    for timing in found.groups[0].timings:
        assert 0 < timing.best < 1000
        assert 0 < timing.launch_ms < 1000
        assert 0 < timing.gpu_peak_mb < 80_000
