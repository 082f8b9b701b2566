"""New values for an export's weights: what goes where, and each refusal by the weight's name."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from user_models import CACHE_AXES, cache_inputs, cached

import ropeexport
from ropeexport.artifact import Artifact
from ropeexport.errors import UsageError
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.weights.updating import changed, new_values, weights_of

pytestmark = pytest.mark.pipelines  # minutes of them, see Makefile


class Held(nn.Module):
    """Tied weights, a buffer, a weight that nothing depends on, and one that has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(8)
        self.unused = nn.Linear(3, 3)

    def forward(self, ids):
        x = self.norm(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        return self.head(x * 0.5)


def exported(folder, dtype: torch.dtype = torch.float32) -> tuple[Held, Artifact]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Held().eval().to(dtype)
    ids = torch.arange(10).reshape(2, 5)
    axes = {"ids": {0: "batch", 1: "length"}}
    return module, ropeexport.export(module, {"ids": ids}, folder, dynamic_axes=axes).artifact


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> tuple[Held, Artifact]:
    return exported(tmp_path_factory.mktemp("held"))


def test_a_whole_state_dict_is_taken(held) -> None:
    module, artifact = held
    state = module.state_dict()
    record = artifact.manifest.model
    found = new_values(state, artifact)
    unused = {"unused.weight", "unused.bias", "norm.num_batches_tracked"}
    assert {name for name, why in record.absent.items() if why == "unused"} == unused
    assert len(record.tied) == 1
    assert (
        set(found) == set(state) - unused - set(record.tied) == set(weights_of(artifact.file.graph))
    )
    for name, value in found.items():
        assert value.tobytes() == state[name].numpy().tobytes()
    assert changed({}, found, artifact.file.graph) == {}  # all of it is in the file


def test_a_tied_weight_goes_by_either_name(held) -> None:
    _, artifact = held
    one, other = np.ones((16, 8), np.float32), np.zeros((16, 8), np.float32)
    (kept,) = set(artifact.manifest.model.tied.values())
    for name in ("embed.weight", "head.weight"):
        assert list(new_values({name: one}, artifact)) == [kept]
    assert len(new_values({"embed.weight": one, "head.weight": one}, artifact)) == 1
    with pytest.raises(UsageError, match=r"head.weight: expected the values of embed.weight, to w"):
        new_values({"embed.weight": one, "head.weight": other}, artifact)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"norm.weigth": np.ones(8)},
            r"norm.weigth: no weight of .*model.onnx: it has norm.weight",
        ),
        (
            {"norm.weight": np.ones(9, np.float32)},
            r"norm.weight: expected shape \(8,\), got \(9,\)",
        ),
        ({"norm.weight": np.ones(8, np.int64)}, "norm.weight: expected float32, got int64"),
        ({"norm.weight": np.full(8, 0.1)}, "norm.weight: expected float32, .* got float64 values"),
        (
            {"norm.weight": torch.ones(8).to_sparse()},
            "norm.weight: expected a dense tensor with values, got one of torch.sparse_coo on cpu",
        ),
        (
            {"norm.weight": torch.ones(8, device="meta")},
            "norm.weight: expected a dense tensor with values, got one of torch.strided on meta",
        ),
        ({"norm.weight": 5}, "norm.weight: expected an array or a tensor, got a int"),
        ({}, "weights: expected those of the module's state dict by name, got none"),
        ({"unused.bias": np.ones(3)}, "got none"),
        (7, "weights: expected tensors by name, .* got a int"),
        ("nowhere", "nowhere: expected a safetensors file, or a folder with some; found none"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(held, given, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        new_values(given, held[1])
    assert "\n" not in str(error.value)


def test_a_constant_is_no_weight(held) -> None:
    _, artifact = held
    graph = artifact.file.graph
    constant = next(name for name in graph.graph.initializers if name not in weights_of(graph))
    with pytest.raises(UsageError, match=f"{constant}: a constant of .*, and no weight"):
        new_values({constant: np.ones(())}, artifact)


def test_what_the_export_has_computed_with_is_refused(tmp_path) -> None:
    module = cached()
    module.register_buffer("frequencies", module.frequencies, persistent=True)
    given = cache_inputs()
    artifact = ropeexport.export(module, given, tmp_path, dynamic_axes=CACHE_AXES).artifact
    assert artifact.manifest.model.absent == {"frequencies": "computed"}  # into exact tables
    with pytest.raises(UsageError, match=r"frequencies: .*model.onnx holds it no more, or not"):
        new_values(module.state_dict(), artifact)


class Frequencies(nn.Module):
    """Trained frequencies: of tables that the export computes, and in another place as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.inv_freq = nn.Parameter(1e4 ** -(torch.arange(4) / 4))
        self.none = nn.Parameter(torch.zeros(0, 8))

    def angles(self, positions):
        return positions[:, :, None].float() * self.inv_freq

    def forward(self, x, positions):
        cos, sin = (f(self.angles(positions)).repeat(1, 1, 2) for f in (torch.cos, torch.sin))
        left, right = x.chunk(2, -1)
        turned = (x * cos + torch.cat((-right, left), -1) * sin) * self.inv_freq.repeat(2)
        return torch.cat((turned, self.none[None]), 1)


class Static(Frequencies):
    def angles(self, positions):
        return (torch.arange(5)[:, None] * self.inv_freq)[None]


class Variance(Frequencies):
    """A buffer that is computed with in one place."""

    def __init__(self) -> None:
        super().__init__()
        del self.inv_freq
        self.register_buffer("inv_freq", torch.rand(4) + 1)

    def forward(self, x, positions):
        return x[..., :4] * self.inv_freq + x[..., 4:] / torch.sqrt(self.inv_freq + 1)


@pytest.mark.parametrize("kind", [Frequencies, Static, Variance])
def test_what_was_computed_with_in_one_place_of_two_is_refused(tmp_path, kind) -> None:
    module = kind().eval()
    given = {"x": torch.randn(1, 5, 8), "positions": torch.arange(5)[None]}
    artifact = ropeexport.export(module, given, tmp_path).artifact
    assert "inv_freq" in weights_of(artifact.file.graph)  # the other place reads it
    absent = artifact.manifest.model.absent
    assert absent == {"inv_freq": "computed", "none": "unused"}  # of no elements
    with pytest.raises(UsageError, match=r"inv_freq: .* or not in every place: the export"):
        new_values({"inv_freq": module.inv_freq}, artifact)


def test_so_it_is_in_another_exporters_file(tmp_path) -> None:
    given = {"x": torch.randn(1, 5, 8), "positions": torch.arange(5)[None]}
    program = torch.onnx.export(
        Frequencies().eval(), kwargs=given, dynamo=True, opset_version=18, optimize=False
    )
    program.save(tmp_path / "theirs.onnx")
    artifact = ropeexport.fuse(tmp_path / "theirs.onnx", tmp_path / "out").artifact
    assert "inv_freq" in weights_of(artifact.file.graph)
    with pytest.raises(UsageError, match=r"inv_freq: .* or not in every place: the export"):
        new_values({"inv_freq": np.ones(4, np.float32)}, artifact)


def test_what_is_merged_or_read_for_its_size_is_still_a_weight(tmp_path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))
            self.norm = nn.RMSNorm(4)

        def forward(self, x):
            y = self.norm(x @ self.weight.T + 1) @ self.weight.T
            return y * self.norm.weight + x.new_ones(self.weight.shape[0])

    module = Twice().eval()
    artifact = ropeexport.export(module, {"x": torch.randn(2, 4)}, tmp_path).artifact
    assert artifact.manifest.model.absent == {}
    assert set(new_values(module.state_dict(), artifact)) == {"weight", "norm.weight"}


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_float_is_cast_where_that_is_exact(held, dtype: str) -> None:
    _, artifact = held
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    given = np.array([0.0, -0.0, 1.5, -2.0, 2.0**-14, np.inf, 3.0, 1.0], kind)
    (found,) = new_values({"norm.weight": given}, artifact).values()
    assert found.dtype == np.float32
    assert found.tolist() == given.astype(np.float64).tolist()
    assert np.signbit(found[1])


def test_a_half_file_refuses_what_it_would_round(tmp_path) -> None:
    module, artifact = exported(tmp_path, torch.bfloat16)
    state = module.state_dict()
    found = new_values(
        {n: x.float() if x.is_floating_point() else x for n, x in state.items()}, artifact
    )
    assert {str(x.dtype) for x in found.values()} == {"bfloat16"}
    for name, x in found.items():
        assert x.tobytes() == state[name].view(torch.int16).numpy().tobytes()
    with pytest.raises(
        UsageError, match="expected bfloat16, which the file has it in, got float32"
    ):
        new_values({"norm.weight": torch.full((8,), 1 + 2.0**-9)}, artifact)


@pytest.mark.parametrize("folder", [True, False])
def test_safetensors_are_mapped(held, tmp_path, folder: bool) -> None:
    _, artifact = held
    path = tmp_path / "lora.safetensors"
    given = {"norm.bias": torch.arange(8.0), "embed.weight": torch.ones(16, 8).bfloat16()}
    save_file(given, path)
    found = new_values(path.parent if folder else str(path), artifact)
    assert found["norm.bias"].tolist() == list(range(8))
    (embed,) = (x for name, x in found.items() if name != "norm.bias")
    assert (embed == 1).all()
    left = changed({}, {"norm.bias": found["norm.bias"]}, artifact.file.graph)
    assert left["norm.bias"] is found["norm.bias"]  # not copied into memory
    save_file({"absent": torch.ones(1)}, path)
    with pytest.raises(UsageError, match="absent: no weight of"):
        new_values(path, artifact)


def test_what_is_kept_is_a_copy(held) -> None:
    module, artifact = held
    bias = torch.ones(8)
    left = changed({}, new_values({"norm.bias": bias}, artifact), artifact.file.graph)
    bias += 1
    assert left["norm.bias"].tolist() == [1.0] * 8
    back = changed(left, new_values({"norm.bias": module.norm.bias}, artifact), artifact.file.graph)
    assert back == {}


def test_a_mapped_array_that_may_be_written_is_copied(held, tmp_path) -> None:
    _, artifact = held
    mapped = np.memmap(tmp_path / "bias", np.float32, "w+", shape=(8,))
    mapped[:] = 1
    left = changed({}, new_values({"norm.bias": mapped[:]}, artifact), artifact.file.graph)
    mapped[:] = 2
    assert left["norm.bias"].tolist() == [1.0] * 8


def test_another_exporters_weights_are_its_floats_but_for_scalars_and_our_tables(tmp_path) -> None:
    source = """
        <ir_version: 10, opset_import: ["" : 23, "ropeexport" : 1]>
        g (float[n, 2] x, int64[n] ids, float[2, 2] fed) => (float[n, 2] y, float[n, 2, 2, 2] pe)
        <float[2, 2] w = {1, 2, 3, 4}, float scale = {2}, int64[1] axes = {0}, float[2] t = {1, 1},
         float[2, 2] fed = {1, 2, 3, 4}>
        { a = MatMul(x, w)  b = Mul(a, fed)  y = Mul(b, scale)
          pe = ropeexport.RopeTable (ids, t, t) }
    """
    onnx.save(onnx.parser.parse_model(source), tmp_path / "model.onnx")
    model = OnnxFile(tmp_path / "model.onnx").graph
    assert set(model.graph.initializers) == {"w", "scale", "axes", "t", "fed"}
    assert set(weights_of(model)) == {"w"}
