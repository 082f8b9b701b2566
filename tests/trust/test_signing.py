"""``sign`` and ``verify``: each kind of file changed, removed and added is named."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from command_line import assert_one_line
from command_line import ropeexport as command
from safetensors.torch import save_file
from torch import nn
from trust.keys import made_rsa, make_keys

import ropeexport
from ropeexport import atomic, locking, manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import ModelFileError, UntrustedError, UsageError
from ropeexport.trust.signing import SIGNATURE, sign_files

pytestmark = pytest.mark.hostile

WEIGHTS = "model.safetensors"
NAMES = ("manifest.json", "model.engine", "model.onnx", WEIGHTS)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)

    def forward(self, x):
        return self.one(x)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An export beside its weights, with an engine, and all of it signed."""
    folder = tmp_path_factory.mktemp("signed") / "out"
    folder.mkdir()
    save_file(Two().state_dict(), folder / WEIGHTS)
    axes = {"x": {0: "n"}}
    ropeexport.export(Two, {"x": torch.zeros(2, 8)}, folder, weights=folder, dynamic_axes=axes)
    (folder / "model.engine").write_bytes(b"an engine")
    artifact = Artifact.read(folder)
    model, shapes = artifact.manifest.model, {"x": (2, 8)}
    engine = manifest.EngineRecord(
        file="model.engine", sha256=atomic.sha256_of(folder / "model.engine"),
        model_sha256=model.sha256, flavour="tensorrt-rtx", version="1", inputs=model.inputs,
        outputs=model.outputs, ropes={}, attention="none", compute_capabilities=(),
        profile=manifest.Profile(min=shapes, opt=shapes, max=shapes),
    )  # fmt: skip
    artifact.updated(engine=engine).write()
    private, _ = make_keys(folder.parent)
    assert ropeexport.sign(folder, private).files == NAMES
    return folder


@pytest.fixture
def signed(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "another name"))


@pytest.fixture
def private(made) -> Path:
    return made.parent / "key.pem"


@pytest.fixture
def public(made) -> Path:
    return made.parent / "key.pub"


def statuses(folder: Path, key: Path | None = None, **options: bool) -> dict[str, str]:
    return {each.file: each.status for each in ropeexport.verify(folder, key, **options).files}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of weights a tensor's: neither size nor header change
    path.write_bytes(content)


def test_a_renamed_folder_verifies(signed, public) -> None:
    found = ropeexport.verify(signed, public)
    assert {each.file: each.status for each in found.files} == dict.fromkeys(NAMES, "verified")
    assert found.faults == ()
    assert statuses(signed) == {
        "manifest.json": "no hash", "model.onnx": "verified", "model.engine": "verified",
        WEIGHTS: "header only",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_was_changed_or_removed_is_named(signed, public, name) -> None:
    flip(signed / name)
    expected = dict.fromkeys(NAMES, "verified")
    for unsigned in (False, True):
        found = statuses(signed, public, ignore_unsigned=unsigned)
        assert found == expected | {name: "changed"}
    (signed / name).unlink()
    for unsigned in (False, True):
        found = statuses(signed, public, ignore_unsigned=unsigned)
        assert found == expected | {name: "missing"}


def test_without_a_key_a_manifest_finds_what_its_hashes_are_of(signed) -> None:
    flip(signed / WEIGHTS)
    assert statuses(signed)[WEIGHTS] == "header only"  # which says that this was not looked for
    flip(signed / "model.onnx")
    (signed / "model.engine").unlink()
    with (signed / WEIGHTS).open("ab") as file:
        file.write(b"more")
    found = ropeexport.verify(signed)
    assert {each.file: each.status for each in found.faults} == {
        "model.onnx": "changed", "model.engine": "missing", WEIGHTS: "changed",
    }  # fmt: skip


def test_what_was_added_is_named(signed, public) -> None:
    (signed / "more").mkdir()
    (signed / "more" / "modeling.py").write_text("code")
    found = ropeexport.verify(signed, public)
    assert [(each.file, each.status) for each in found.faults] == [
        ("more/modeling.py", "not signed")
    ]
    assert ropeexport.verify(signed, public, ignore_unsigned=True).faults == ()
    done = command("verify", signed, "--key", public)
    assert done.returncode == 1
    assert "✗ more/modeling.py   not signed\n" in done.stdout
    assert "5 files, 1 wrong, signed with" in done.stdout
    done = command("verify", signed, "--key", public, "--ignore-unsigned", "--json")
    assert done.returncode == 0
    assert {each["file"] for each in json.loads(done.stdout)["files"]} == set(NAMES)


def test_reports_are_no_part_of_it(exported, tmp_path) -> None:
    folder = exported(dtype="fp32")
    private, public = make_keys(tmp_path)
    ropeexport.sign(folder, private)
    ropeexport.check(folder, cases=1, runtimes="onnxruntime")
    assert (folder / "parity.json").is_file()
    (folder / "timing.cache").write_bytes(b"of a build")
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "0.png").touch()
    assert ropeexport.verify(folder, public).faults == ()


def test_a_folder_that_is_not_its_manifests_is_not_signed(signed, private) -> None:
    flip(signed / "model.onnx")
    (signed / "model.sig").unlink()
    with pytest.raises(ModelFileError, match=r"not signed, as its files .* model\.onnx is changed"):
        ropeexport.sign(signed, private)
    assert not (signed / "model.sig").exists()


def test_what_is_changed_after_it_was_looked_at_is_not_signed(signed, private) -> None:
    (signed / SIGNATURE).unlink()
    with pytest.raises(ModelFileError, match=r"model\.onnx: not signed: it was changed"):
        sign_files(signed, private, expected={"model.onnx": "0" * 64})
    assert not (signed / SIGNATURE).exists()


def test_it_is_alone_in_the_folder_and_signs_nothing_that_a_kill_left(signed, private) -> None:
    with locking.locked(signed, "build"):
        done = command("sign", signed, "--key", private, "--force")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "writes into it: 'ropeexport build'" in done.stderr
    left = signed / f"{atomic.UNFINISHED}abcdefgh"
    (left / "new").mkdir(parents=True)
    (left / "new" / "model.engine").write_bytes(b"half")
    assert ropeexport.sign(signed, private, force=True).files == NAMES
    assert not left.exists()


def test_a_signature_is_replaced_by_force_alone(signed, private) -> None:
    with pytest.raises(UsageError, match=r"model\.sig exists already; add --force"):
        ropeexport.sign(signed, private)
    assert ropeexport.sign(signed, private, force=True).files == NAMES


def test_a_signature_of_anothers_is_none(signed, public, tmp_path) -> None:
    other, other_public = make_keys(tmp_path)
    with pytest.raises(UntrustedError, match=r"model\.sig: not signed with .*key\.pub, or changed"):
        ropeexport.verify(signed, other_public)
    flip(signed / "model.onnx")
    artifact = Artifact.read(signed)
    sha256 = atomic.sha256_of(signed / "model.onnx")
    artifact.updated(model=artifact.manifest.model.changed(sha256=sha256)).write()
    ropeexport.sign(signed, other, force=True)
    with pytest.raises(UntrustedError, match="not signed with"):
        ropeexport.verify(signed, public)


@pytest.mark.parametrize("key", ["dsseEnvelope", "dsse_envelope"])
def test_what_a_bundle_says_beside_what_was_signed_is_no_verdict(signed, public, key) -> None:
    """A second envelope, under either name of the field, with the hash of a changed file."""
    flip(signed / "model.engine")
    path = signed / "model.sig"
    bundle = json.loads(path.read_bytes())
    true = bundle.pop("dsseEnvelope")
    statement = json.loads(base64.b64decode(true["payload"]))
    for each in statement["predicate"]["resources"]:
        each["digest"] = atomic.sha256_of(signed / each["name"])
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    (other,) = {"dsseEnvelope", "dsse_envelope"} - {key}
    path.write_text(json.dumps({**bundle, key: {**true, "payload": payload}, other: true}))
    with pytest.raises(UntrustedError, match=r"model\.sig: (not signed with|does not fit)"):
        ropeexport.verify(signed, public)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\x00", b"[" * 10_000, b'{"dsseEnvelope": 3}']
)
def test_what_is_no_signature_is_one_line(signed, public, content) -> None:
    (signed / "model.sig").write_bytes(content)
    done = command("verify", signed, "--key", public)
    assert_one_line(done, 1, "model.sig: expected a signature, as 'ropeexport sign' writes it, got")


@pytest.mark.parametrize(
    ("make", "words", "over"),
    [
        (os.mkfifo, "got a named pipe", "got a pipe or a device"),
        (os.mkdir, "got a folder", "got a folder"),
        (lambda path: path.symlink_to("nowhere"), "no such file", "got a link"),
    ],
)
def test_what_is_no_file_is_no_signature(signed, private, public, make, words, over) -> None:
    (signed / "model.sig").unlink()
    make(signed / "model.sig")
    with pytest.raises(UntrustedError, match=rf"model\.sig: .*{words}"):
        ropeexport.verify(signed, public)
    with pytest.raises(UsageError, match=rf"model\.sig: .*{over}"):
        ropeexport.sign(signed, private, force=True)


def test_without_a_key_a_signature_is_named(signed, public) -> None:
    note = "note: model.sig was not read: --key PUBLIC.pem verifies it"
    assert note in command("verify", signed).stderr
    assert command("verify", signed, "--key", public).stderr == ""
    (signed / "model.sig").unlink()
    assert command("verify", signed).stderr == ""


def test_links_of_a_hubs_cache_are_what_they_lead_to(made, public, tmp_path) -> None:
    """``snapshots/REVISION/NAME`` are links to ``blobs/HASH``; elsewhere those files lie there."""
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in made.iterdir():
        shutil.copy(path, blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(os.path.join("..", "..", "blobs", f"blob-{path.name}"))
    assert ropeexport.verify(snapshot, public).faults == ()
    with ropeexport.load(snapshot, device="cpu", runtime="onnxruntime") as model:
        x = torch.ones(3, 8)
        expected = Two()
        from safetensors.torch import load_file

        expected.load_state_dict(load_file(made / WEIGHTS))
        torch.testing.assert_close(model(x), expected(x).detach())
    flip(blobs / f"blob-{WEIGHTS}")
    assert statuses(snapshot, public)[WEIGHTS] == "changed"


SPECIAL = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_no_file_is_named_beside_what_is(signed, private, public, name) -> None:
    SPECIAL[name](signed / name)
    expected = dict.fromkeys(NAMES, "verified")
    assert statuses(signed, public) == expected | {name: "not signed"}
    assert statuses(signed, public, ignore_unsigned=True) == expected
    done = command("sign", signed, "--key", private, "--force")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert str(signed / name) in done.stderr
    (signed / name).unlink()
    (signed / WEIGHTS).unlink()
    SPECIAL[name](signed / WEIGHTS)
    assert statuses(signed, public) == expected | {WEIGHTS: "changed"}


def test_what_is_of_git_is_left_out(signed, private, public) -> None:
    (signed / ".git").mkdir()
    (signed / ".git" / "HEAD").symlink_to("nowhere")
    (signed / ".gitattributes").touch()
    assert ropeexport.verify(signed, public).faults == ()
    assert ropeexport.sign(signed, private, force=True).files == NAMES


def test_a_name_of_other_bytes_is_shown_and_not_signed(signed, private, public) -> None:
    (signed / os.fsdecode(b"n\xff")).touch()
    done = command("verify", signed, "--key", public, "--json")
    assert done.returncode == 1
    files = {each["file"]: each["status"] for each in json.loads(done.stdout)["files"]}
    assert files["n\udcff"] == "not signed"
    done = command("sign", signed, "--key", private, "--force")
    assert_one_line(done, 1, "expected a name in UTF-8, which a signature can hold")


def test_keys_that_are_none_are_named(signed, private, public, tmp_path) -> None:
    for key, words in (
        (tmp_path / "none.pem", r"none\.pem: no such file"),
        (tmp_path, "expected a file, got a folder"),
        (Path("/dev/null"), "expected a file, got a device"),
        (made_rsa(tmp_path)[0], "expected a private key, .*; got one of another kind, RSA"),
        (public, r"expected a private key, an elliptic curve's"),
        (signed / "manifest.json", r"expected a private key"),
    ):
        with pytest.raises(UsageError, match=words):
            ropeexport.sign(signed, key, force=True)
    for key in (private, signed / "manifest.json", made_rsa(tmp_path)[1]):
        with pytest.raises(UsageError, match="expected a public key"):
            ropeexport.verify(signed, key)


def test_an_encrypted_key_takes_its_password(signed, tmp_path, monkeypatch) -> None:
    private, public = make_keys(tmp_path, "locked", b"open sesame")
    with pytest.raises(UsageError, match=r"locked\.pem: the private key is encrypted: give its"):
        ropeexport.sign(signed, private, force=True)
    plain, _ = make_keys(tmp_path, "plain")
    with pytest.raises(UsageError, match=r"plain\.pem: the private key is not encrypted: leave"):
        ropeexport.sign(signed, plain, password="open sesame", force=True)
    with pytest.raises(UsageError, match="has another password"):
        ropeexport.sign(signed, private, password="another", force=True)
    monkeypatch.setenv("ROPEEXPORT_KEY_PASSWORD", "open sesame")
    for key in (plain, private):  # of which the first needs none
        assert command("sign", signed, "--key", key, "--force").returncode == 0
    assert ropeexport.verify(signed, public).faults == ()


def test_without_the_library_its_install_is_named(signed, private, monkeypatch) -> None:
    monkeypatch.setattr("ropeexport.machine.find_spec", lambda name: None)
    with pytest.raises(ropeexport.MissingError, match=r"pip install 'ropeexport\[sign\]'"):
        ropeexport.sign(signed, private, force=True)


def test_the_private_key_is_no_part_of_what_is_signed(exported) -> None:
    folder = exported(dtype="fp32")
    own, _ = make_keys(folder)
    with pytest.raises(UsageError, match="lies in the folder that is signed"):
        ropeexport.sign(folder, own)


def test_a_linked_folder_is_not_signed(exported, tmp_path) -> None:
    folder, (private, public) = exported(dtype="fp32"), make_keys(tmp_path)
    ropeexport.sign(folder, private)
    (tmp_path / "elsewhere").mkdir()
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    (fault,) = ropeexport.verify(folder, public).faults
    assert (fault.file, fault.status) == ("sub", "not signed")
