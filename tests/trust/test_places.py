"""Files that a manifest names lie in its folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_one_line
from command_line import ropeexport as command
from safetensors.torch import save_file
from torch import nn

import ropeexport
from ropeexport import manifest
from ropeexport.errors import ManifestError, ModelFileError, PluginError, UsageError
from ropeexport.onnx_files.onnx_file import OnnxFile, weights
from ropeexport.trt import plugin_library

pytestmark = pytest.mark.hostile

OUTSIDE = ["/etc/passwd", "../secret", "a/../../secret", "..", ".", "", "a\0b"]


def named(folder: Path, place: list, name: str) -> None:
    """Let the folder's manifest name a file in some place."""
    path = folder / manifest.FILE_NAME
    record = json.loads(path.read_text())
    record["cache"] = {"form": "grow", "capacity": 8, "pairs": [], "files": ["config.json"]}
    weights = {"file": "w.safetensors", "size": 1, "sha256": "0"}
    record["model"]["weights"] = {
        "files": [weights], "referenced_tensors": 1, "referenced_bytes": 1
    }  # fmt: skip
    record["engine"]["plugin"] = {
        "name": "a", "version": "1", "namespace": "n", "file": "a.so", "sha256": "0",
        "embedded": False,
    }  # fmt: skip
    target = record
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = name
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize(
    "place",
    [
        ["model", "file"],
        ["engine", "file"],
        ["engine", "plugin", "file"],
        ["model", "weights", "files", 0, "file"],
        ["cache", "files", 0],
    ],
)
def test_a_name_that_leads_out_is_refused(built, place, name) -> None:
    named(built, place, name)
    where = ".".join(map(str, place))
    with pytest.raises(ManifestError, match=rf"{where}: .*expected a file of the folder"):
        manifest.read(built)


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx", "..model", "a b/ä.onnx"])
def test_a_name_of_the_folder_is_taken(built, name) -> None:
    named(built, ["model", "file"], name)
    assert manifest.read(built).model.file == name


@pytest.mark.parametrize("verb", ["inspect", "check", "build", "bench", "verify"])
def test_every_verb_refuses_it_in_a_line(built, verb) -> None:
    named(built, ["model", "file"], "../secret")
    assert_one_line(command(verb, built), 1, "expected a file of the folder")


@pytest.mark.parametrize("file", ["model.onnx", "model.engine", "manifest.json"])
def test_a_link_that_leads_out_is_refused(built, tmp_path, file) -> None:
    secret = (built / file).rename(tmp_path / "secret")
    (built / file).symlink_to(secret)
    for act in (ropeexport.load, ropeexport.inspect, ropeexport.check, ropeexport.verify):
        with pytest.raises(ManifestError, match=rf"{file}: expected a file of the fol"):
            act(built)
    (built / file).unlink()
    (built / "inner").write_bytes(secret.read_bytes())
    (built / file).symlink_to("inner")  # as a tool that keeps versions has it
    ropeexport.load(built, device="cpu").close()


@pytest.mark.parametrize("file", ["model.onnx", "model.engine"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(built, file) -> None:
    (built / file).unlink()
    os.mkfifo(built / file)
    assert_one_line(command("inspect", built), 1, f"{file}: expected a regular file, got a folder")


def test_a_link_that_leads_to_itself_is_no_traceback(built) -> None:
    (built / "model.onnx").unlink()
    (built / "model.onnx").symlink_to("model.onnx")
    assert_one_line(command("inspect", built), 1, "model.onnx")


@pytest.fixture
def beside_weights(tmp_path) -> Path:
    """An export beside the safetensors file that has its weights, and a data file of its own."""
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(nn.Linear(8, 4).state_dict(), folder / "model.safetensors")
    given = {"input": torch.zeros(1, 8)}
    ropeexport.export(lambda: nn.Linear(8, 4), given, folder, weights=folder)
    return folder


def test_weights_may_be_links_to_safetensors(beside_weights, tmp_path) -> None:
    """To a user's own store, or to a hub's cache, whose files have no suffix."""
    path = beside_weights / "model.safetensors"
    values = dict(weights(OnnxFile(beside_weights / "model.onnx").whole))
    (tmp_path / "hub" / "snapshots").mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    for place in (tmp_path / "store.safetensors", tmp_path / "hub" / "blobs" / "abc"):
        shutil.copy(path, place)
        path.unlink()
        path.symlink_to(place)
        assert {each.status for each in ropeexport.verify(beside_weights).files} == {
            "no hash", "verified", "header only",
        }  # fmt: skip
        for name, x in weights(OnnxFile(beside_weights / "model.onnx").whole):
            np.testing.assert_array_equal(x, values[name])


class Attends(nn.Module):
    """Attention, which onnxruntime is given in another form than the file's, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(self.linear(x), x, x)


X = torch.randn(1, 2, 4, 8)


@pytest.fixture(params=["store", "hub"])
def with_links(request, tmp_path) -> tuple[Path, Attends]:
    """An export whose weights are a link to a user's own store, or all of it to a hub's blobs."""
    module, folder = Attends(), tmp_path / "snapshots" / "abc"
    folder.mkdir(parents=True)
    save_file(module.state_dict(), folder / "model.safetensors")
    ropeexport.export(Attends, {"x": X}, folder, weights=folder, dynamic_axes={"x": {2: "length"}})
    if request.param == "hub":
        (tmp_path / "blobs").mkdir()
        for number, path in enumerate(list(folder.iterdir())):
            blob = path.rename(tmp_path / "blobs" / f"0{number}")
            path.symlink_to(Path("..", "..", "blobs", blob.name))
    else:
        (folder / "model.safetensors").rename(tmp_path / "store.safetensors")
        (folder / "model.safetensors").symlink_to(Path("..", "..", "store.safetensors"))
    return folder, module


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_model_whose_weights_are_links_runs(with_links, runtime: str) -> None:
    folder, module = with_links
    with ropeexport.load(folder, device="cpu", runtime=runtime) as model:
        torch.testing.assert_close(model(X), module(X).detach())
    assert ropeexport.check(folder, module=Attends, cases=1, runtimes=runtime).verdict == "PASS"


def test_an_engine_has_the_weights_that_links_lead_to(with_links) -> None:
    folder, _ = with_links
    if (folder / "manifest.json").is_symlink():  # nothing is built into a hub's cache
        with pytest.raises(UsageError, match=r"manifest\.json: expected a file or nothing"):
            ropeexport.build(folder)
        return
    assert ropeexport.build(folder).size > 0


def test_a_link_to_anything_else_is_not_read_as_weights(beside_weights, tmp_path) -> None:
    path = beside_weights / "model.safetensors"
    secret = path.rename(tmp_path / "secret")
    path.symlink_to(secret)
    refused = r"model\.safetensors: expected weights of the folder, or a link to a .safetensors fi"
    for act in (ropeexport.load, ropeexport.inspect):
        with pytest.raises(ModelFileError, match=refused):
            act(beside_weights)
    with pytest.raises(ModelFileError, match=refused):  # which the ONNX file names itself
        _ = OnnxFile(beside_weights / "model.onnx").whole


def test_a_plugin_library_that_others_can_write_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ROPEEXPORT_CACHE", str(tmp_path))
    monkeypatch.delenv(plugin_library.VARIABLE, raising=False)
    library = tmp_path / plugin_library.FILE_NAME
    library.touch(mode=0o644)
    tmp_path.chmod(0o755)
    assert plugin_library.find() == library
    for path, mode in ((tmp_path, 0o777), (library, 0o666)):
        path.chmod(mode)
        with pytest.raises(PluginError, match="expected that only this user writes there"):
            plugin_library.find()
        path.chmod(0o755)
