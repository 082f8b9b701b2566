"""GPUs that a flavour's documents do not name: tried, and what is said there is a refusal."""

from __future__ import annotations

import pytest

from ropeexport.bench import refusal
from ropeexport.bench.refusal import refusable
from ropeexport.errors import BuildError, EngineError, MissingError, ModelFileError
from ropeexport.trt.flavour import FULL, RTX, names_gpu
from ropeexport.trt.gpu import Gpu

HOPPER = Gpu("NVIDIA H100 80GB HBM3", "9.0", "13.0")
ADA = Gpu("NVIDIA L4", "8.9", "13.0")


def raising(error: Exception):
    def work(*arguments, **options):
        raise error

    return work


@pytest.fixture
def on_gpu(monkeypatch):
    return lambda gpu: monkeypatch.setattr(refusal, "find_gpu", lambda: gpu)


@pytest.mark.parametrize(
    ("flavour", "compute_capability", "named"),
    [(RTX, "8.9", True), (RTX, "12.0", True), (RTX, "9.0", False), (FULL, "9.0", True)],
)
def test_which_gpus_a_flavour_names(flavour, compute_capability, named) -> None:
    assert names_gpu(flavour, compute_capability) is named


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EngineError("model.engine: cannot be loaded: SM 9.0 is not supported"), "SM 9.0 is not"),
        (BuildError("model.onnx: tensorrt-rtx built no engine"), "built no engine"),
        (TypeError("factory function returned nullptr"), "factory function returned nullptr"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_refusal_keeps_its_text_and_names_the_gpu(on_gpu, error, text) -> None:
    on_gpu(HOPPER)
    with pytest.raises(MissingError) as raised:
        refusable(RTX, raising(error))()
    assert str(raised.value).startswith(str(error) or text)
    assert text in str(raised.value)
    end = "tensorrt-rtx's documents do not name compute capability 9.0 (NVIDIA H100 80GB HBM3)"
    assert str(raised.value).endswith(end)


def test_what_the_gpu_has_no_part_in_stays_a_failure(on_gpu) -> None:
    on_gpu(HOPPER)
    with pytest.raises(ModelFileError, match="not the file"):
        refusable(RTX, raising(ModelFileError("not the file that was exported")))()


def test_a_gpu_that_is_not_named_is_tried(on_gpu) -> None:
    on_gpu(HOPPER)
    assert refusable(RTX, lambda a, b: a - b)(3, b=1) == 2


@pytest.mark.parametrize(("flavour", "gpu"), [(RTX, ADA), (FULL, HOPPER), (RTX, None)])
def test_elsewhere_the_work_is_left_as_it_is(on_gpu, flavour, gpu) -> None:
    on_gpu(gpu)
    work = raising(EngineError("broken"))
    assert refusable(flavour, work) is work
