"""An exported folder in use: what a call takes and gives, in which runtime, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch
from made_tensorrt import A_GPU
from torch import nn

import ropeexport
from ropeexport import manifest
from ropeexport.errors import (
    EngineError,
    ManifestError,
    MissingError,
    ModelFileError,
    PluginError,
    RopeExportError,
    UsageError,
)
from ropeexport.machine import find_gpu
from ropeexport.trt.preflight import plugin_path


class Cached(nn.Module):
    """A cache that grows, in a tree, with a number that is fixed and one that has a default."""

    def forward(self, x, past, scale=2.0, causal=False, extra=None):
        key = torch.cat([past["key"], x], 2)
        value = torch.cat([past["value"], x], 2)
        y = nn.functional.scaled_dot_product_attention(x * scale, key, value, is_causal=causal)
        return y if extra is None else y + extra, {"key": key, "value": value}


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cached")
    past = {"key": torch.randn(1, 2, 5, 8), "value": torch.randn(1, 2, 5, 8)}
    ropeexport.export(
        Cached(),
        {"past": past, "x": torch.randn(1, 2, 3, 8), "scale": 2.0},  # not in forward's order
        folder,
        dynamic_axes={"x": {0: "batch", 2: "length"}, "past": {0: "batch", 2: "past"}},
        axes={"past": (0, 8, 16), "length": (1, 3, 8), "batch": (1, 1, 2)},
    )
    return folder


def inputs_of(batch: int = 1, length: int = 3, past: int = 5) -> dict[str, object]:
    rng = np.random.default_rng(0)
    x, key, value = (
        rng.standard_normal((batch, 2, n, 8), dtype=np.float32) for n in (length, past, past)
    )
    return {"x": x, "past": {"key": key, "value": value}}


def expected(given: dict) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    past = {name: torch.from_numpy(x) for name, x in given["past"].items()}
    y, grown = Cached()(torch.from_numpy(given["x"]), past)
    return y.numpy(), {name: x.numpy() for name, x in grown.items()}


def test_a_call_is_the_modules(cached) -> None:
    given = inputs_of(2, 4, 6)
    wanted, grown = expected(given)
    with ropeexport.load(cached, device="cpu") as model:
        y, present = model(given["x"], given["past"])  # in the order of forward
        assert isinstance(y, np.ndarray)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
        assert present.keys() == {"key", "value"}
        assert all(np.array_equal(present[name], grown[name]) for name in grown)
        by_name = model(past=given["past"], x=given["x"], scale=2.0, causal=False, extra=None)
        assert np.array_equal(by_name[0], y)
        by_path = model.run(
            {
                "x": given["x"],
                "past.key": given["past"]["key"],
                "past.value": grown["value"][:, :, :6],
            }
        )
        assert np.array_equal(by_path["out.0"], y)


def test_torch_in_torch_out(cached) -> None:
    given = inputs_of()
    x, past = (
        torch.from_numpy(given["x"]),
        {n: torch.from_numpy(a) for n, a in given["past"].items()},
    )
    with ropeexport.load(cached, device="cpu") as model:
        arrays, tensors = model(given["x"], given["past"]), model(x, past)
        assert isinstance(tensors[0], torch.Tensor)
        assert np.array_equal(tensors[0].numpy(), arrays[0])
        mixed = model(x, given["past"])  # one tensor among arrays
        assert torch.equal(mixed[0], tensors[0])
        transposed = model(x.transpose(2, 3).contiguous().transpose(2, 3), past)
        assert torch.equal(transposed[0], tensors[0])


class OnlyDlpack:
    """An array of another library, which speaks DLPack alone."""

    def __init__(self, array) -> None:
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_what_speaks_dlpack_is_taken(cached) -> None:
    given = inputs_of()
    with ropeexport.load(cached, device="cpu") as model:
        past = {name: OnlyDlpack(x) for name, x in given["past"].items()}
        y, _ = model(OnlyDlpack(given["x"]), past)
        assert np.array_equal(y, model(given["x"], given["past"])[0])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_outputs_go_into_given_memory(export_once, runtime: str, kind: str) -> None:
    with ropeexport.load(export_once(dtype="fp32"), runtime=runtime, device="cpu") as model:
        given = model.random_inputs({"batch": 2, "length": 5})
        wanted = model.run(given)["out"]
        out = np.full_like(wanted, np.nan)
        if kind == "torch":
            memory = torch.from_numpy(out)
            made = model(**{name: torch.from_numpy(x) for name, x in given.items()}, out=memory)
            assert made is memory
        else:
            assert model(**given, out=out) is out
            assert model.run(given, out={"out": out})["out"] is out
        assert np.array_equal(out, wanted)


def test_bfloat16_goes_into_given_memory(tmp_path) -> None:
    """onnxruntime has few kernels for it, and one for a sum of none: what moves alone."""

    class Moves(nn.Module):
        def forward(self, x):
            return x.transpose(0, 1)

    ropeexport.export(Moves(), {"x": torch.zeros(2, 3, dtype=torch.bfloat16)}, tmp_path / "out")
    x = torch.randn(2, 3).bfloat16()
    with ropeexport.load(tmp_path / "out", runtime="onnxruntime", device="cpu") as model:
        out = torch.empty(3, 2, dtype=torch.bfloat16)
        assert model(x, out=out) is out
        assert torch.equal(out, x.T)
        array = x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        assert np.array_equal(model(array).view("i2"), x.T.contiguous().view(torch.int16).numpy())


WRONG_OUT = {
    "shape": (lambda y: np.empty((1, 2, 4, 8), np.float32), "expected float32 (1, 2, 3, 8)"),
    "type": (lambda y: np.empty_like(y, dtype=np.float64), "got float64"),
    "order": (lambda y: np.empty_like(y).transpose(), "C-contiguous"),
    "kind": (lambda y: torch.empty(y.shape), "got Tensor"),
}


class Three(nn.Module):
    def forward(self, x):
        return x.flip(0), x * 2, x


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    ropeexport.export(Three(), {"x": torch.zeros(4, 3)}, folder)
    return folder


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_memory_that_is_shared_is_refused(three, runtime: str, kind: str) -> None:
    """An output would be written while another, or an input, still needs the memory."""
    memory = np.arange(48, dtype=np.float32)

    def place(start: int):
        part = memory[start : start + 12].reshape(4, 3)
        return part if kind == "numpy" else torch.from_numpy(part)

    with ropeexport.load(three, runtime=runtime, device="cpu") as model:
        for places in ([0, 12, 24], [12, 24, 26], [12, 12, 24], [6, 12, 24]):
            x = place(0)
            with pytest.raises(UsageError, match="expected memory of its own for each output"):
                model(x, out=[place(start) for start in places])
        _, _, same = model(x, out=[place(start) for start in (12, 24, 36)])
        assert np.array_equal(np.asarray(same), np.arange(12).reshape(4, 3))
        assert np.array_equal(memory[36:], memory[:12])
        assert not np.shares_memory(np.asarray(model(x)[2]), memory)  # an output that is an input


def test_memory_elsewhere_is_refused(three) -> None:
    with ropeexport.load(three, device="cpu") as model:
        out = [torch.empty(4, 3, device="meta") for _ in range(3)]
        with pytest.raises(UsageError, match=r"inputs' kind on cpu, got Tensor"):
            model(torch.zeros(4, 3), out=out)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_memory_that_no_runtime_reads_by_itself(three, runtime: str) -> None:
    """Torch's lazy minus sign, other orders, and what has no such memory at all."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    with ropeexport.load(three, runtime=runtime, device="cpu") as model:
        for given in (x[::-1], np.asfortranarray(x), np.broadcast_to(x[:1], (4, 3))):
            assert np.array_equal(model(given)[1], np.asarray(given) * 2)
        assert torch.equal(model(torch._neg_view(torch.from_numpy(x)))[1], torch.from_numpy(-2 * x))
        for wrong, message in {
            "sparse": (torch.from_numpy(x).to_sparse(), "expected a dense tensor"),
            "masked": (np.ma.masked_array(x, x > 3), "got a masked one"),
            "bytes": (x.astype(">f4"), "expected float32, got >f4"),
        }.values():
            with pytest.raises(UsageError, match=f"x: .*{message}"):
                model(wrong)


def test_results_reach_memory_that_a_runtime_cannot_write(three) -> None:
    """As a GPU's, of a provider that runs on arrays."""
    with ropeexport.load(three, device="cpu") as model:
        x = torch.arange(12.0).reshape(4, 3)
        out = {spec.name: torch.zeros(3, 4).T for spec in model.outputs}
        found = model._runner.run_tensors({"x": x}, out)
        assert all(found[name] is out[name] for name in out)
        assert torch.equal(out["out.1"], x * 2)


def test_a_provider_that_is_no_row_runs_on_the_cpu(three) -> None:
    with ropeexport.load(three, providers=["AzureExecutionProvider"]) as model:
        assert model.device == "cpu"
        assert torch.equal(model(torch.ones(4, 3))[1], torch.full((4, 3), 2.0))


@pytest.mark.parametrize("what", WRONG_OUT)
def test_memory_that_does_not_fit_is_refused(cached, what: str) -> None:
    make, message = WRONG_OUT[what]
    given = inputs_of()
    y, present = expected(given)
    with ropeexport.load(cached, device="cpu") as model:
        out = [make(y), *(np.empty_like(x) for x in present.values())]
        with pytest.raises(UsageError, match=message.replace("(", r"\(").replace(")", r"\)")):
            model(given["x"], given["past"], out=out)
        with pytest.raises(UsageError, match=r"expected memory for out\.0"):
            model(given["x"], given["past"], out=out[:2])


REFUSED = {
    "an argument that there is not": (lambda g: {**g, "mask": 1}, "mask: the export has no such"),
    "a default at another value": (lambda g: {**g, "causal": True}, "causal: the export has no"),
    "an argument that was fixed": (lambda g: {**g, "scale": 3.0}, r"scale: fixed as 2"),
    "True for a number": (lambda g: {**g, "scale": True}, r"scale: fixed as 2\.0 .* got True"),
    "another tree": (lambda g: {**g, "past": g["past"]["key"]}, "past: expected a dict of key"),
    "too few keys": (lambda g: {**g, "past": {"key": 1}}, "past: expected a dict of key, value"),
    "None for a tensor": (lambda g: {**g, "x": None}, "x: expected a tensor, as at the export"),
    "a list": (lambda g: {**g, "x": [1.0]}, "x: expected an array or a tensor, got list"),
    "another type": (lambda g: {**g, "x": g["x"].astype("f2")}, "x: expected float32, got float16"),
    "bytes in another order": (
        lambda g: {**g, "x": g["x"].astype(">f4")}, "x: expected float32, got >f4"),
    "another rank": (lambda g: {**g, "x": g["x"][0]}, r"x: expected shape \(batch, 2, length, 8\)"),
    "another size": (lambda g: {**g, "x": g["x"][..., :4]}, r"x: expected shape \(batch, 2"),
    "sizes that disagree": (lambda g: {**g, "x": np.repeat(g["x"], 2, 0)}, "axis batch is"),
    "beyond its range": (lambda g: {**g, "x": np.repeat(g["x"], 4, 2)}, "axis length: the export"),
    "nothing": (lambda g: {"x": g["x"]}, r"past\.key: expected as an input"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_what_the_export_is_not_for_is_refused_by_name(cached, what: str, kind: str) -> None:
    change, message = REFUSED[what]

    def to_torch(x):
        if isinstance(x, dict):
            return {name: to_torch(part) for name, part in x.items()}
        own = isinstance(x, np.ndarray) and x.dtype.isnative
        return torch.from_numpy(x) if own and kind == "torch" else x

    with (
        ropeexport.load(cached, device="cpu") as model,
        pytest.raises(UsageError, match=message) as caught,
    ):
        model(**to_torch(change(inputs_of())))
    assert "\n" not in str(caught.value)


def test_a_gradient_is_not_cut_without_a_word(cached) -> None:
    given = inputs_of()
    x = torch.from_numpy(given["x"]).requires_grad_()
    with ropeexport.load(cached, device="cpu") as model:
        with pytest.raises(UsageError, match=r"x: needs a gradient, .* torch\.no_grad"):
            model(x, given["past"])
        with torch.no_grad():
            model(x, given["past"])


def test_a_tensor_elsewhere_is_refused(cached) -> None:
    given = inputs_of()
    with (
        ropeexport.load(cached, device="cpu") as model,
        pytest.raises(UsageError, match="x: expected on cpu, got on meta"),
    ):
        model(torch.empty(1, 2, 3, 8, device="meta"), given["past"])


def test_threads_and_several_models_do_not_meet(cached, export_once) -> None:
    other = export_once(dtype="fp32")
    with (
        ropeexport.load(cached, device="cpu") as one,
        ropeexport.load(cached, runtime="openvino") as two,
        ropeexport.load(other, device="cpu") as three,
        ThreadPoolExecutor(6) as pool,
    ):
        jobs = []
        for number in range(30):
            given = inputs_of(1 + number % 2, 1 + number % 7, number % 11)
            jobs += [(expected(given)[0], pool.submit(m, **given)) for m in (one, two)]
            drawn = three.random_inputs({"length": 1 + number}, seed=number)
            jobs.append((three.run(drawn)["out"], pool.submit(three, **drawn)))
        for wanted, job in jobs:
            found = job.result(60)
            found = found[0] if isinstance(found, tuple) else found
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_closed_model_says_so(cached) -> None:
    with ropeexport.load(cached, device="cpu") as model:
        pass
    with pytest.raises(UsageError, match="closed; load it again"):
        model(**inputs_of())


def test_warmup_runs_the_shapes_that_are_named(cached) -> None:
    with ropeexport.load(cached, device="cpu") as model:
        model.warmup()
        model.warmup([{"length": 2, "past": 0}, {"x": (2, 2, 1, 8)}, "x:1x2x4x8,past.key:1x2x0x8"])
        with pytest.raises(UsageError, match="expected an axis"):
            model.warmup({"heads": 3})
        for size, said in ((9, "axis length"), (10**12, "length: expected a whole number")):
            with pytest.raises(UsageError, match=said):  # of which nothing is drawn
                model.warmup({"length": size})


def test_the_first_call_needs_neither_torch_nor_the_exporter(cached) -> None:
    code = f"""
import sys, ropeexport
with ropeexport.load({str(cached)!r}, device="cpu") as model:
    out = model.run(model.random_inputs())
    assert out["out.0"].shape == (1, 2, 3, 8)
for name in ("torch", "onnxscript", "ropeexport.exporting.exporter", "rich", "click"):
    assert name not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_runs_is_said(cached) -> None:
    model = ropeexport.load(cached)
    try:
        if find_gpu() is None:
            assert (model.runtime, model.device) == ("onnxruntime", "cpu")
            assert model.provider == "CPUExecutionProvider"
            assert model.why.startswith("the best that this machine has; onnxruntime:cuda:")
        assert [spec.name for spec in model.inputs] == ["past.key", "past.value", "x"]
        assert [spec.shape for spec in model.outputs][1] == ("batch", 2, "length + past", 8)
        assert (model.axes["past"].min, model.dtype) == (0, "fp32")
    finally:
        model.close()


NOT_HERE = {
    "a runtime without an engine": ({"runtime": "tensorrt"}, MissingError, "no engine was built"),
    "a runtime of no such name": ({"runtime": "tvm"}, UsageError, "expected a runtime, one of"),
    "a provider that is not in it": (
        {"providers": ["DmlExecutionProvider"]}, MissingError, "has no DmlExecutionProvider"),
    "two providers": ({"providers": ["cpu", "X"]}, UsageError, "expected one, and"),
    "a provider elsewhere": (
        {"runtime": "openvino", "providers": ["cpu"]}, UsageError, "for onnxruntime alone"),
    "a device of another": ({"runtime": "openvino", "device": "cuda"}, UsageError, "expected cpu"),
    "a plugin without an engine": (
        {"runtime": "openvino", "plugin": "x.so"}, UsageError, "plugin: for an engine"),
    "graphs on a CPU": (
        {"runtime": "openvino", "cuda_graphs": True}, MissingError, "records no CUDA graphs"),
    "threads that are no number": ({"threads": "x"}, UsageError, "threads: expected a whole"),
    "a check of no such name": ({"verify": "some"}, UsageError, "expected files or all"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_HERE)
def test_what_cannot_run_here_is_an_error(cached, what: str) -> None:
    options, kind, message = NOT_HERE[what]
    with pytest.raises(kind, match=message):
        ropeexport.load(cached, **options)


@pytest.mark.skipif(find_gpu() is not None, reason="a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error(cached) -> None:
    with pytest.raises(MissingError, match="no NVIDIA GPU"):
        ropeexport.load(cached, device="cuda")


def test_a_provider_is_named_as_onnxruntime_does(cached) -> None:
    options = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
    for given in (["CPUExecutionProvider"], ["cpu"], [options]):
        with ropeexport.load(cached, providers=given) as model:
            assert (model.provider, model.why) == ("CPUExecutionProvider", "as asked")


def test_a_model_that_was_changed_is_refused(exported) -> None:
    folder = exported(dtype="fp32")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelFileError, match="not the file that was exported"):
        ropeexport.load(folder)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4096, 2200)  # beyond what stays in the ONNX file

    def forward(self, x):
        return self.linear(x)


def test_weights_beside_the_file_are_verified_by_size_and_on_request_by_hash(tmp_path) -> None:
    folder = tmp_path / "out"
    ropeexport.export(Wide(), {"x": torch.zeros(1, 4096)}, folder)
    ropeexport.load(folder, device="cpu", verify="all").close()
    data = folder / "model.onnx.data"
    with data.open("r+b") as file:
        file.seek(1000)
        file.write(b"\x01\x02")
    ropeexport.load(folder, device="cpu").close()  # of its size: as documented
    with pytest.raises(ModelFileError, match=r"model\.onnx\.data: not the file that the model was"):
        ropeexport.load(folder, verify="all")
    os.truncate(data, data.stat().st_size - 1)
    with pytest.raises(ModelFileError, match="not the file that the model was"):
        ropeexport.load(folder)


def test_safetensors_are_verified_by_header_and_on_request_by_hash(tmp_path) -> None:
    from safetensors.torch import save_file

    module = nn.Linear(8, 4)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    given = {"input": torch.zeros(1, 8)}
    ropeexport.export(lambda: nn.Linear(8, 4), given, tmp_path, weights=tmp_path)
    ropeexport.load(tmp_path, device="cpu").close()
    with pytest.raises(ModelFileError, match=r"expected its hash in the manifest.*--hash-weights"):
        ropeexport.load(tmp_path, verify="all")
    options = {"weights": tmp_path, "force": True, "hash_weights": True}
    ropeexport.export(lambda: nn.Linear(8, 4), given, tmp_path, **options)
    with ropeexport.load(tmp_path, device="cpu", verify="all") as model:
        x = torch.randn(1, 8)
        torch.testing.assert_close(model(x), module(x).detach())
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    ropeexport.load(tmp_path, device="cpu").close()  # its header is as it was
    with pytest.raises(ModelFileError, match="not the file that the model was exported with"):
        ropeexport.load(tmp_path, verify="all")


def test_a_damaged_engine_is_not_hidden_by_another_runtime(built, monkeypatch) -> None:
    (built / "model.engine").write_bytes(b"not an engine")
    monkeypatch.setattr("ropeexport.inference.choosing.find_gpu", lambda: A_GPU)
    monkeypatch.setattr("ropeexport.runners.trt.require_gpu", lambda device, provider: None)
    with pytest.raises(EngineError, match="not the engine of its manifest"):
        ropeexport.load(built)


def test_an_engine_of_a_former_export_is_passed_over_and_named(built, edit_engine) -> None:
    edit_engine(built, model_sha256="0" * 64)
    with ropeexport.load(built, device="cpu") as model:
        assert model.runtime == "onnxruntime"
    with pytest.raises(MissingError, match="built from another export"):
        ropeexport.load(built, runtime="tensorrt")


def test_a_plugin_that_is_named_is_the_engines(tmp_path) -> None:
    record = manifest.PluginRecord(
        name="ApplyRope", version="1", namespace="ropeexport", file="a.so", sha256="0" * 64,
        embedded=False,
    )  # fmt: skip
    library = tmp_path / "mine.so"
    with pytest.raises(PluginError, match=r"mine\.so: expected the plugin"):
        plugin_path(tmp_path, record, library)
    library.write_bytes(b"code")
    with pytest.raises(PluginError, match="was built with another"):
        plugin_path(tmp_path, record, library)
    from ropeexport.atomic import sha256_of

    assert plugin_path(tmp_path, record.changed(sha256=sha256_of(library)), library) == library


def test_a_folder_of_a_file_takes_its_inputs(tmp_path, export_once) -> None:
    """``fuse`` knows no forward: inputs in the file's order, outputs alone or as a tuple."""
    path = Path(__file__).parents[1] / "data" / "exported-0.1.0"
    with ropeexport.load(path, device="cpu") as model:
        given = model.random_inputs({name: 2 for name in ("length",) if name in model.axes})
        session = onnxruntime.InferenceSession(str(path / "model.onnx"))
        wanted = session.run(None, given)[0]
        found = model(*given.values())
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


WRONG_RECORDS = {
    "an input that there is not": {"arguments": {"x": manifest.Argument(kind="input", value="y")}},
    "an output that there is not": {"forward": manifest.Forward(
        parameters=("x",), returns=manifest.Argument(kind="output", value="y"))},
    "an input for an output": {"forward": manifest.Forward(
        parameters=("x",), returns=manifest.Argument(kind="input", value="x"))},
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_RECORDS)
def test_a_record_that_contradicts_its_model_is_refused(three, tmp_path, what: str) -> None:
    folder = shutil.copytree(three, tmp_path / "out")
    manifest.write(folder, manifest.read(folder).changed(**WRONG_RECORDS[what]))
    with pytest.raises(ManifestError, match=r"expected (one of|an input).*export again"):
        ropeexport.load(folder, device="cpu")


def test_every_error_has_a_line() -> None:
    with pytest.raises(RopeExportError, match="expected an output folder"):
        ropeexport.load("/nowhere")
