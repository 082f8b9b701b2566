"""Flavours: which is picked, what is said of a missing one, and capabilities found by probing."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from ropeexport.errors import MissingError, UsageError
from ropeexport.machine import Gpu
from ropeexport.trt import flavour

A_GPU = Gpu("a GPU", "8.9", "13.0")
BOTH = {"tensorrt-rtx": "1.7.1.116", "tensorrt": "10.14.1.48"}


def with_members(*names: str) -> type:
    return type("Api", (), dict.fromkeys(names))


def fake_tensorrt() -> SimpleNamespace:
    """The documented API of TensorRT 10.14, as far as it is probed."""
    return SimpleNamespace(
        __version__="10.14.1.48",
        IBuilderConfig=with_members("create_timing_cache", "plugins_to_serialize"),
        IRuntimeConfig=with_members("set_execution_context_allocation_strategy"),
        Runtime=with_members("engine_host_code_allowed"),
        NetworkDefinitionCreationFlag=with_members("STRONGLY_TYPED"),
        IAttentionInputLayer=with_members("attention"),
        BuilderFlag=with_members("REFIT", "REFIT_INDIVIDUAL", "STRIP_PLAN", "WEIGHT_STREAMING"),
        INetworkDefinition=with_members("mark_weights_refittable"),
        Refitter=with_members("set_named_weights"),
        ICudaEngine=with_members("weight_streaming_budget_v2"),
    )


@pytest.fixture
def installed(monkeypatch):
    def install(versions, gpu=None):
        monkeypatch.setattr(flavour, "available_flavours", lambda: versions)
        monkeypatch.setattr(flavour, "find_gpu", lambda: gpu)

    return install


def test_full_tensorrt_times_at_build_and_needs_a_gpu() -> None:
    found = flavour.probe(fake_tensorrt())
    assert (found.timing_cache, found.runtime_cache, found.builds_without_gpu) == (
        True,
        False,
        False,
    )
    assert found.engine_host_code
    assert found.serialises_plugins
    assert found.strongly_typed_flag
    assert (found.refit, found.strip, found.weight_streaming) == (True, True, True)


def test_an_older_api_lacks_what_it_lacks() -> None:
    module = fake_tensorrt()
    del module.IAttentionInputLayer, module.NetworkDefinitionCreationFlag
    module.BuilderFlag = with_members("REFIT")  # TensorRT 9
    found = flavour.probe(module)
    assert not found.attention
    assert not found.strongly_typed_flag  # TensorRT 11 has strong types without asking
    assert (found.refit, found.strip, found.weight_streaming) == (False, False, False)


@pytest.mark.trt
def test_rtx_finishes_at_load_and_its_timing_cache_is_none() -> None:
    chosen = flavour.load("tensorrt-rtx")
    assert chosen.version == flavour.available_flavours()["tensorrt-rtx"]
    assert chosen.capabilities.builds_without_gpu
    assert chosen.capabilities.runtime_cache
    assert not chosen.capabilities.timing_cache
    assert chosen.capabilities.attention
    assert chosen.capabilities.refit
    assert chosen.capabilities.strip
    assert chosen.capabilities.weight_streaming


@pytest.mark.parametrize(
    ("versions", "gpu", "expected"),
    [
        (BOTH, None, "tensorrt-rtx"),
        (BOTH, A_GPU, "tensorrt"),
        ({"tensorrt-rtx": "1"}, A_GPU, "tensorrt-rtx"),
        ({"tensorrt": "10"}, None, "tensorrt"),
    ],
)
def test_default(installed, versions, gpu, expected: str) -> None:
    installed(versions, gpu)
    assert flavour.pick_flavour() == expected


def test_a_name_wins(installed) -> None:
    installed(BOTH, A_GPU)
    assert flavour.pick_flavour("tensorrt-rtx") == "tensorrt-rtx"


def test_none_installed_names_the_command(installed) -> None:
    installed({})
    with pytest.raises(MissingError, match=r"pip install 'ropeexport\[cpu\]'"):
        flavour.pick_flavour()


def test_a_missing_one_names_its_command(installed) -> None:
    installed({"tensorrt-rtx": "1"})
    with pytest.raises(MissingError, match=r"tensorrt is not installed.*ropeexport\[gpu\]"):
        flavour.pick_flavour("tensorrt")


def test_an_unknown_one_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="expected one of tensorrt-rtx, tensorrt, got 'openvino'"):
        flavour.pick_flavour("openvino")


def test_a_module_that_cannot_be_imported_is_missing(monkeypatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(flavour, "import_module", broken)
    with pytest.raises(MissingError, match=r"libnvinfer.so.10"):
        flavour.load.__wrapped__("tensorrt")


def test_the_parent_side_imports_no_tensorrt() -> None:
    code = (
        "import sys, ropeexport.trt.build, ropeexport.onnx_files.inspection, ropeexport.doctor;"
        "bad = {'torch', 'tensorrt', 'tensorrt_rtx', 'onnxruntime'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
