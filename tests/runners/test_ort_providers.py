"""onnxruntime's CUDA provider: what is loaded before a session, with which options, by whom."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import onnx
import onnxruntime
import pytest

from ropeexport.bench.contenders import BY_NAME, CONTENDERS, Setting
from ropeexport.errors import MissingError, UntrustedError
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.runners import registry
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.ort_providers import cuda_provider, device_of

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


COMPILED = """
<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1, "l" : 1]>
g (float[2] x, bool b) => (float[2] y) { y = %s }
<domain: "l", opset_import: ["" : 23, "com.microsoft" : 1]>
f (a) => (c) { c = com.microsoft.EPContext <embed_mode = 1, ep_cache_context = "engine"> (a) }
"""
IN_PARTS = (
    'com.microsoft.EPContext <embed_mode = 1, ep_cache_context = "engine"> (x)',
    "If (b) <then_branch = t () => (float[2] u) { u = com.microsoft.EPContext (x) }, "
    "else_branch = e () => (float[2] v) { v = Identity (x) }>",
    "l.f (x)",
)


@pytest.mark.parametrize("part", IN_PARTS)
@pytest.mark.parametrize("package", ["", "onnxruntime_ep_nv_tensorrt_rtx"])
def test_an_engine_within_a_file_is_given_to_no_provider(tmp_path, part, package) -> None:
    onnx.save(onnx.parser.parse_model(COMPILED % part), tmp_path / "model.onnx")
    provider = registry.Provider("rtx", "NvTensorRTRTXExecutionProvider", "cuda", package=package)
    runner = OrtRunner(OnnxFile(tmp_path / "model.onnx"), provider=provider)
    with pytest.raises(UntrustedError, match=r"compiled for a provider \(EPContext\)"):
        runner.__enter__()


def test_an_onnxruntime_of_before_loads_nothing(monkeypatch) -> None:
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    assert cuda_provider() == (CUDA, {"use_tf32": "0"})


def test_a_check_loads_them_before_its_session(told, export_once) -> None:
    with OrtRunner(OnnxFile(export_once() / "model.onnx")) as runner:
        # it is onnxruntime's own choice, so what the session has in the end is reported
        assert (runner.facts.provider, runner.facts.device) == ("CPUExecutionProvider", "cpu")
    assert told == ["preload", str((CUDA, {"use_tf32": "0"}))]


def test_a_bench_loads_them_before_its_session(told, export_once, tmp_path, monkeypatch) -> None:
    class Stream:
        cuda_stream, device = 7, SimpleNamespace(index=0)

    monkeypatch.setattr("torch.cuda.current_stream", Stream)
    setting = Setting(export_once(), tmp_path, None, threads=1, device="cuda")
    with pytest.raises(MissingError, match="cannot load its CUDAExecutionProvider"):
        BY_NAME["ropeexport"].set_up(setting)
    provider = (CUDA, {"use_tf32": "0", "device_id": "0", "user_compute_stream": "7"})
    assert told == ["preload", str(provider)]


PLUGIN = registry.choice("onnxruntime:openvino").provider


class Plugin:
    """OpenVINO's plug-in as onnxruntime meets it: its library, its devices, what it took."""

    def __init__(self, monkeypatch) -> None:
        self.registered: list[tuple[str, str]] = []
        self.fault = ""
        self.devices = ["GPU", "CPU"]
        self.taken = [PLUGIN.executes, "CPUExecutionProvider"]
        self.executes = PLUGIN.executes
        self.told: list[object] = []
        package = SimpleNamespace(get_library_path=lambda: "/somewhere/plugin.so")
        monkeypatch.setitem(sys.modules, PLUGIN.package, package)
        monkeypatch.setattr("ropeexport.machine.find_spec", lambda name: name)
        for name in ("register_execution_provider_library", "get_ep_devices", "SessionOptions",
                     "InferenceSession"):  # fmt: skip
            monkeypatch.setattr(onnxruntime, name, getattr(self, name))

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.registered.append((name, path))
        if self.fault:
            raise RuntimeError(self.fault)

    def get_ep_devices(self) -> list[SimpleNamespace]:
        def device(executes: str, kind: str) -> SimpleNamespace:
            kinds = SimpleNamespace(type=SimpleNamespace(name=kind))
            return SimpleNamespace(ep_name=executes, device=kinds)

        own = [device(PLUGIN.executes, kind) for kind in self.devices]
        return [device("CPUExecutionProvider", "CPU"), *own]

    def SessionOptions(self) -> SimpleNamespace:  # noqa: N802 - onnxruntime's name
        return SimpleNamespace(
            add_session_config_entry=lambda *entry: None,
            add_provider_for_devices=lambda devices, options: self.told.append((devices, options)),
        )

    def InferenceSession(self, model, options, providers):  # noqa: N802
        assert providers is None  # else onnxruntime forgets the devices
        return SimpleNamespace(
            get_providers=lambda: [self.executes, "CPUExecutionProvider"],
            get_inputs=list,
            get_outputs=list,
            get_provider_graph_assignment_info=lambda: [
                SimpleNamespace(ep_name=name) for name in self.taken
            ],
        )


@pytest.fixture
def plugin(monkeypatch) -> Plugin:
    return Plugin(monkeypatch)


def test_a_plug_in_is_registered_and_given_its_device_and_precision(plugin) -> None:
    with OrtRunner(b"", provider=PLUGIN) as runner:
        facts = runner.facts
    assert (facts.provider, facts.device) == ("OpenVINOExecutionProvider", "cpu")
    assert plugin.registered == [("onnxruntime_ep_openvino", "/somewhere/plugin.so")]
    (((device,), options),) = plugin.told
    assert device.device.type.name == "CPU"
    assert options == {"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'}
    plugin.fault = "EP library is already registered under onnxruntime_ep_openvino"
    with OrtRunner(b"", provider=PLUGIN):
        pass


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"devices": ["GPU"]}, "onnxruntime-ep-openvino is loaded, and finds no CPU here"),
        ({"fault": "no libcuda"}, "onnxruntime-ep-openvino: its library cannot be loaded: no libc"),
        ({"taken": ["CPUExecutionProvider"]}, "took no node of this model"),
        ({"executes": "CPUExecutionProvider"}, "cannot load its OpenVINOExecutionProvider"),
    ],
)
def test_a_plug_in_that_does_not_execute_is_missing_and_not_the_cpu(plugin, change, reason) -> None:
    for name, value in change.items():
        setattr(plugin, name, value)
    with pytest.raises(MissingError, match=reason), OrtRunner(b"", provider=PLUGIN):
        pass


def test_a_bench_has_plug_ins_where_they_are_named(monkeypatch) -> None:
    assert PLUGIN is not None
    contender = BY_NAME["onnxruntime:openvino"]
    assert contender not in CONTENDERS
    monkeypatch.setattr("ropeexport.machine.find_spec", lambda name: name)
    with pytest.raises(MissingError, match="OpenVINOExecutionProvider runs on a CPU"):
        contender.needs("cuda")
    contender.needs("cpu")
    monkeypatch.setattr("ropeexport.machine.find_spec", lambda name: name == "onnxruntime" or None)
    with pytest.raises(MissingError, match="pip install 'onnxruntime-ep-openvino'"):
        contender.needs("cpu")


def test_where_a_provider_computes() -> None:
    assert device_of("CUDAExecutionProvider") == "cuda"
    assert device_of("CPUExecutionProvider") == "cpu"
    assert device_of("SomebodysExecutionProvider") == ""
