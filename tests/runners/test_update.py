"""Weights exchanged in a loaded model: held to eager of the changed module, and switched back."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ropeexport
from ropeexport.artifact import Artifact
from ropeexport.errors import MissingError, UsageError
from ropeexport.runners import registry
from ropeexport.runners.ort import OrtRunner
from ropeexport.runners.ort_emulated import EmulatedRunner
from ropeexport.runners.registry import CPU, CUDA, Opening
from ropeexport.testing import assert_parity
from ropeexport.weights.updating import new_values

pytestmark = pytest.mark.pipelines  # minutes of them, see Makefile

WIDTH, HEADS = 32, 4
RANK = 2


class Block(nn.Module):
    """Attention with a rope between linear layers, whose weights the graph uses transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x, pe):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return x + self.out(ropeexport.attention(q, k, v, pe)) * self.scale


def made(dtype: torch.dtype = torch.float32) -> Block:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Block().eval().to(dtype)


def inputs(dtype: torch.dtype = torch.float32, length: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    angle = torch.rand(1, 1, length, WIDTH // HEADS // 2, generator=generator)
    cos, sin = angle.cos(), angle.sin()
    pe = torch.stack((cos, -sin, sin, cos), -1).unflatten(-1, (2, 2))
    return {"x": torch.randn(2, length, WIDTH, generator=generator).to(dtype), "pe": pe}


AXES = {"x": {0: "batch", 1: "length"}, "pe": {2: "length"}}


def merge_lora(module: Block, strength: float = 0.1) -> None:
    """Add a product of two thin matrices to each linear weight, as merging a LoRA does."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for layer in (module.qkv, module.out):
            rows, columns = layer.weight.shape
            up = torch.randn(rows, RANK, generator=generator)
            down = torch.randn(RANK, columns, generator=generator)
            layer.weight += (strength * up @ down).to(layer.weight.dtype)


def arrays(given: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in given.items()}


def assert_is_eager(got: np.ndarray, module: Block, given: dict[str, torch.Tensor]) -> None:
    double = Block().eval().double()
    double.load_state_dict({name: x.double() for name, x in module.state_dict().items()})

    def exact(**wide: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return double(**{name: torch.from_numpy(x) for name, x in wide.items()}).numpy()

    with torch.no_grad():
        eager = module(**given)
    assert_parity(got, exact, inputs=given, eager=eager)


def exported(folder, module: Block, dtype: torch.dtype, how: str) -> Artifact:
    """Export with weights in the file's body, in a data file, or in safetensors as they lie."""
    given = inputs(dtype)
    if how == "safetensors":
        save_file(dict(module.named_parameters()), folder / "model.safetensors")
        with default_dtype(dtype):
            return ropeexport.export(
                Block, given, folder, dynamic_axes=AXES, weights=folder
            ).artifact
    made = ropeexport.export(module, given, folder, dynamic_axes=AXES).artifact
    if how == "data":
        proto = onnx.load(made.model_path)
        onnx.save(proto, made.model_path, save_as_external_data=True, location="model.onnx.data",
                  size_threshold=256)  # fmt: skip
        return Artifact.read(folder)
    return made


class default_dtype:  # noqa: N801 - a context manager
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.former = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self.former)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("how", ["body", "data", "safetensors"])
def test_a_merged_lora_is_eager_of_the_changed_module_and_back(tmp_path, dtype, how) -> None:
    module, given = made(dtype), inputs(dtype)
    artifact = exported(tmp_path, module, dtype, how)
    qkv = artifact.file.graph.graph.initializers["qkv.weight"]
    assert [node.op_type for node in qkv.consumers()] == ["Transpose"]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    original = {name: x.clone() for name, x in module.state_dict().items()}
    with OrtRunner(artifact.file) as runner:
        first = runner.run(arrays(given))["out"]
        assert_is_eager(first, module, given)
        merge_lora(module)
        runner.update(new_values(module.state_dict(), artifact))
        merged = runner.run(arrays(given))["out"]
        assert_is_eager(merged, module, given)
        with pytest.raises(AssertionError):
            assert_is_eager(first, module, given)  # so the change is one that the bound sees
        longer = inputs(dtype, 9)
        assert_is_eager(runner.run(arrays(longer))["out"], module, longer)
        runner.update(new_values(original, artifact))
        assert runner.run(arrays(given))["out"].tobytes() == first.tobytes()
        assert runner._updated == {}  # all of it lies in the file again
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_openvino_compiles_the_changed_module(tmp_path) -> None:
    openvino = pytest.importorskip("openvino")
    assert openvino
    from ropeexport.runners.openvino import OpenvinoRunner

    module, given = made(), inputs()
    artifact = exported(tmp_path, module, torch.float32, "data")
    original = {name: x.clone() for name, x in module.state_dict().items()}
    with OpenvinoRunner(artifact.file) as runner:
        first = runner.run(arrays(given))["out"]
        merge_lora(module)
        runner.update(new_values({"qkv.weight": module.qkv.weight}, artifact))
        runner.update(new_values({"out.weight": module.out.weight}, artifact))
        assert_is_eager(runner.run(arrays(given))["out"], module, given)
        runner.update(new_values(original, artifact))
        assert runner.run(arrays(given))["out"].tobytes() == first.tobytes()


def test_a_second_update_keeps_the_firsts_values(tmp_path) -> None:
    module, given = made(), inputs()
    artifact = exported(tmp_path, module, torch.float32, "body")
    with OrtRunner(artifact.file) as runner, torch.no_grad():
        module.scale += 1
        runner.update(new_values({"scale": module.scale}, artifact))
        module.out.weight *= 2
        runner.update(new_values({"out.weight": module.out.weight}, artifact))
        module.qkv.bias += 3
        runner.update(new_values({"qkv.bias": module.qkv.bias.numpy()}, artifact))
        assert_is_eager(runner.run(arrays(given))["out"], module, given)
        kept = runner.run(arrays(given))["out"]
        module.scale += 5  # in place, which no loaded model sees
        assert runner.run(arrays(given))["out"].tobytes() == kept.tobytes()


@pytest.mark.parametrize("how", ["data", "safetensors"])
def test_only_what_differs_from_the_file_is_in_memory(tmp_path, how, monkeypatch) -> None:
    module = made()
    artifact = exported(tmp_path, module, torch.float32, how)
    opened = onnxruntime.InferenceSession
    models = []

    def session(model, *arguments, **options):
        models.append(model)
        return opened(model, *arguments, **options)

    with OrtRunner(artifact.file) as runner, torch.no_grad():
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        module.out.weight += 1
        runner.update(new_values(module.state_dict(), artifact))
        assert list(runner._updated) == ["out.weight"]
    graph = onnx.load_from_string(models[0]).graph
    outside = {t.name: t.external_data[0].value for t in graph.initializer if t.external_data}
    files = {path.name for path in tmp_path.iterdir()}
    assert outside.pop("out.weight") not in files
    # the others are where they were: the graph has none of them in its body
    assert {"qkv.weight", "qkv.bias"} <= set(outside)
    assert set(outside.values()) <= files


def test_the_weights_of_another_exporters_file(tmp_path) -> None:
    class Rotated(nn.Module):
        """A rope as anyone writes it, between two layers."""

        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(WIDTH, WIDTH, bias=False)
            self.out = nn.Linear(WIDTH, WIDTH)

        def forward(self, x, cos, sin):
            q = self.q(x)
            left, right = q.chunk(2, -1)
            return self.out(q * cos + torch.cat((-right, left), -1) * sin)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Rotated().eval()
    angle = torch.rand(7, WIDTH // 2).repeat(1, 2)
    given = {"x": torch.randn(2, 7, WIDTH), "cos": angle.cos(), "sin": angle.sin()}
    program = torch.onnx.export(module, kwargs=given, dynamo=True, opset_version=18)
    for value in program.model.graph.initializers.values():
        value.metadata_props.clear()  # of an exporter that says nothing of parameters
    program.save(tmp_path / "theirs.onnx")
    artifact = ropeexport.fuse(tmp_path / "theirs.onnx", tmp_path / "out").artifact
    assert artifact is not None
    with OrtRunner(artifact.file) as runner, torch.no_grad():
        module.out.bias += 1
        runner.update(new_values({"out.bias": module.out.bias}, artifact))
        (got,) = runner.run(arrays(given)).values()

        def exact(**wide):
            return module.double()(**{n: torch.from_numpy(x) for n, x in wide.items()}).numpy()

        with torch.no_grad():
            assert_parity(got, exact, inputs=given)


def test_bfloat16_weights_that_the_graph_casts(tmp_path) -> None:
    module, given = made(), inputs()
    halves = {name: x.bfloat16() for name, x in module.named_parameters()}
    save_file(halves, tmp_path / "model.safetensors")
    artifact = ropeexport.export(
        Block, given, tmp_path, dynamic_axes=AXES, weights=tmp_path
    ).artifact
    module.load_state_dict(halves)
    with OrtRunner(artifact.file) as runner:
        first = runner.run(arrays(given))["out"]
        assert_is_eager(first, module, given)
        merge_lora(module)
        with pytest.raises(UsageError, match=r"qkv.weight: expected bfloat16, which the file has"):
            new_values(module.state_dict(), artifact)
        rounded = {name: x.bfloat16() for name, x in module.state_dict().items()}
        module.load_state_dict(rounded)
        runner.update(new_values(rounded, artifact))
        assert_is_eager(runner.run(arrays(given))["out"], module, given)


def test_weights_come_from_safetensors(tmp_path) -> None:
    module, given = made(), inputs()
    artifact = exported(tmp_path / "out", module, torch.float32, "body")
    merge_lora(module)
    save_file({"out.weight": module.out.weight.data, "qkv.weight": module.qkv.weight.data},
              tmp_path / "merged.safetensors")  # fmt: skip
    with OrtRunner(artifact.file) as runner:
        runner.update(new_values(tmp_path / "merged.safetensors", artifact))
        assert_is_eager(runner.run(arrays(given))["out"], module, given)


def test_a_run_is_of_the_old_or_of_the_new_weights_and_of_no_mixture(tmp_path) -> None:
    module, given = made(), arrays(inputs(length=64))
    artifact = exported(tmp_path, module, torch.float32, "body")
    original = {name: x.clone() for name, x in module.state_dict().items()}
    merge_lora(module)
    values = [new_values(state, artifact) for state in (module.state_dict(), original)]
    seen: set[bytes] = set()
    ended = False

    def run_on() -> None:
        while not ended:
            seen.add(runner.run(given)["out"].tobytes())

    with OrtRunner(artifact.file, threads=1) as runner:
        expected = {runner.run(given)["out"].tobytes()}
        runner.update(values[0])
        expected.add(runner.run(given)["out"].tobytes())
        threads = [Thread(target=run_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(6):
            runner.update(values[number % 2])
        ended = True
        for thread in threads:
            thread.join()
    assert len(expected) == 2
    assert seen
    assert seen <= expected


class Product(nn.Module):
    """One whose weight a runtime reads as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64))

    def forward(self, x):
        return x @ self.weight


def test_exchanged_weights_stay_in_memory_while_a_call_reads_them(tmp_path) -> None:
    """onnxruntime reads them where they lie: of any order, and while others take their place."""
    ropeexport.export(Product(), {"x": torch.zeros(2, 64)}, tmp_path / "out")
    rng = np.random.default_rng(0)
    x, one, other = (rng.standard_normal((n, 64), np.float32) for n in (2, 64, 64))

    def used_again() -> list[np.ndarray]:
        return [np.full((64, 64), np.nan, np.float32) for _ in range(1000)]

    with ropeexport.load(tmp_path / "out", runtime="onnxruntime", device="cpu") as model:
        model.update({"weight": np.asfortranarray(one)})
        used_again()
        np.testing.assert_allclose(model(x), x @ one, rtol=1e-4, atol=1e-4)
        under_way = model._runner._session  # as a call has it
        model.update({"weight": other})
        used_again()
        np.testing.assert_allclose(model(x), x @ other, rtol=1e-4, atol=1e-4)
        (old,) = under_way.run(None, {"x": x})
        np.testing.assert_allclose(old, x @ one, rtol=1e-4, atol=1e-4)
        under_way = model._runner._session
    used_again()
    (old,) = under_way.run(None, {"x": x})
    np.testing.assert_allclose(old, x @ other, rtol=1e-4, atol=1e-4)


def test_what_fails_leaves_the_loaded_model_as_it_was(tmp_path) -> None:
    module, given = made(), arrays(inputs())
    artifact = exported(tmp_path, module, torch.float32, "body")
    with OrtRunner(artifact.file) as runner:
        first = runner.run(given)["out"]
        with pytest.raises(ropeexport.RopeExportError):
            runner.update({"out.weight": np.zeros((3, 3), np.float32)})
        assert runner.run(given)["out"].tobytes() == first.tobytes()


def test_a_runtime_that_cannot_is_named(exported) -> None:
    from ropeexport.runners.eager import EagerRunner

    file = Artifact.read(exported(dtype="bf16")).file
    for runner in (EagerRunner(nn.Identity(), ["out"]), EmulatedRunner(file), OrtRunner(file)):
        with pytest.raises(MissingError, match="weights"):
            runner.update({})


@pytest.mark.parametrize(
    ("name", "opening", "said"),
    [
        ("onnxruntime", {}, "onnxruntime takes none; choose onnxruntime:cuda or tensorrt"),
        ("onnxruntime", {"device": "cpu"}, "onnxruntime with CPUExecutionProvider takes none"),
        ("onnxruntime", {"provider": CPU}, "onnxruntime with CPUExecutionProvider takes none"),
        ("openvino", {}, "OpenVINO takes none"),
        ("onnxruntime", {"device": "cuda", "memory_budget": -1}, "expected bytes, 0 or more"),
    ],
)
def test_a_memory_budget_is_refused_by_name(exported, name, opening, said) -> None:
    file = Artifact.read(exported()).file
    with pytest.raises(UsageError, match=f"memory_budget: {said}"):
        registry.find(name).open(Opening(file, **{"memory_budget": 1 << 30, **opening}))


def test_cuda_runs_on_the_gpu_of_its_stream(exported, monkeypatch) -> None:
    told = []

    def session(model, options, providers):
        told.extend(providers)
        raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("no GPU")

    stream = SimpleNamespace(cuda_stream=7, device=torch.device("cuda", 1))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr("ropeexport.runners.ort.stream_of_its_own", lambda: stream)
    file = Artifact.read(exported()).file
    with pytest.raises(ropeexport.RopeExportError), OrtRunner(file, provider=CUDA, timed=True):
        pass
    assert told[0][1] | {"device_id": "1", "user_compute_stream": "7"} == told[0][1]
    other = replace(CUDA, options=(("device_id", "0"),))
    with (
        pytest.raises(UsageError, match=r"device_id: expected 1, .* got 0: load it under"),
        OrtRunner(file, provider=other, timed=True),
    ):
        pass


def test_cuda_is_told_its_budget(exported, monkeypatch) -> None:
    told = []

    def session(model, options, providers):
        told.extend(providers)
        raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("no GPU")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    file = Artifact.read(exported()).file
    for device in ({"provider": CUDA}, {"device": "cuda"}):
        opening = Opening(file, memory_budget=5 << 20, **device)
        with pytest.raises(ropeexport.RopeExportError), registry.find("onnxruntime").open(opening):
            pass
        provider, options = told[0]
        assert provider == "CUDAExecutionProvider"
        assert options["gpu_mem_limit"] == str(5 << 20)
        told.clear()
