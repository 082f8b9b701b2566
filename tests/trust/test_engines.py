"""An engine that this user has not built: no byte of it reaches TensorRT unless that is allowed."""

from __future__ import annotations

import shutil
import stat
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import assert_one_line
from command_line import ropeexport as command
from made_tensorrt import A_GPU, Cuda, TensorRT
from trust.keys import make_keys

import ropeexport
from ropeexport import atomic
from ropeexport.artifact import Artifact, Trust
from ropeexport.errors import EngineError, UntrustedError, UsageError
from ropeexport.manifest import EngineRecord, PluginRecord, Profile
from ropeexport.runners import trt
from ropeexport.runners.runner import Arrays
from ropeexport.runners.trt import TensorrtRunner
from ropeexport.trust import known
from ropeexport.trust.signing import require_signed

ENGINE, LIBRARY = b"an engine", b"\x7fELF and code"
ASKS = r"neither built on this machine nor trusted yet.*--trust .*--key PUBLIC\.pem"


class Seen(TensorRT):
    """The stand-in, which keeps what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.engines: list[bytes] = []
        self.libraries: list[str] = []
        self.all_creators: list[SimpleNamespace] = []

    def deserialize_cuda_engine(self, data):
        self.engines.append(bytes(data))
        return super().deserialize_cuda_engine(data)

    def get_plugin_registry(self):
        return self

    def load_library(self, path):
        self.libraries.append(path)
        made = SimpleNamespace(name="ApplyRope", plugin_version="1", plugin_namespace="ropeexport")
        self.all_creators.append(made)
        return made


@pytest.fixture
def seen(monkeypatch) -> Seen:
    made = Seen()
    Cuda(made.told).install(monkeypatch)
    monkeypatch.setattr(trt, "find_gpu", lambda: A_GPU)
    monkeypatch.setattr("ropeexport.inference.choosing.find_gpu", lambda: A_GPU)
    monkeypatch.setattr(trt, "require_gpu", lambda device, provider: None)
    monkeypatch.setattr(trt.flavour, "load", lambda name: made.flavour)
    monkeypatch.setattr(trt.preflight, "available_flavours", lambda: {"tensorrt-rtx": "1.7.1"})
    return made


def with_engine(folder: Path, *, library: bool = False) -> Path:
    """Put somebody's engine into an export, with a library beside it."""
    artifact = Artifact.read(folder)
    (folder / "model.engine").write_bytes(ENGINE)
    plugin = None
    if library:
        (folder / "evil.so").write_bytes(LIBRARY)
        plugin = PluginRecord(
            name="ApplyRope", version="1", namespace="ropeexport", file="evil.so",
            sha256=atomic.sha256_of(folder / "evil.so"), embedded=False,
        )  # fmt: skip
    model = artifact.manifest.model
    shapes = {"q": (1, 2, 32, 64), "k": (1, 2, 32, 64), "v": (1, 2, 32, 64),
              "pe": (1, 1, 32, 32, 2, 2)}  # fmt: skip
    engine = EngineRecord(
        file="model.engine", sha256=atomic.sha256_of(folder / "model.engine"),
        model_sha256=model.sha256, flavour="tensorrt-rtx", version="1.7.1", inputs=model.inputs,
        outputs=model.outputs, profile=Profile(min=shapes, opt=shapes, max=shapes), ropes={},
        attention="none", compute_capabilities=(), plugin=plugin,
    )  # fmt: skip
    artifact.updated(engine=engine).write()
    return folder


@pytest.fixture
def strangers(exported) -> Path:
    return with_engine(exported(dtype="fp32"))


@pytest.fixture
def with_library(exported) -> Path:
    return with_engine(exported(dtype="fp32"), library=True)


def test_it_is_refused_by_name_and_nothing_of_it_is_loaded(strangers, seen) -> None:
    with pytest.raises(UntrustedError, match=rf"out/model\.engine: {ASKS}"):
        ropeexport.load(strangers)  # and onnxruntime does not take its place without a word
    with pytest.raises(UntrustedError, match=ASKS):
        ropeexport.load(strangers, runtime="tensorrt")
    assert seen.engines == []


def test_a_library_beside_it_is_no_more_trusted(with_library, seen) -> None:
    engine = Artifact.read(with_library).manifest.engine
    with pytest.raises(UntrustedError, match=ASKS):
        ropeexport.load(with_library)
    known.remember(engine.sha256, "the engine alone")
    with pytest.raises(UntrustedError, match=rf"out/evil\.so: {ASKS}"):
        ropeexport.load(with_library)
    assert (seen.engines, seen.libraries) == ([], [])
    ropeexport.load(with_library, trust=True).close()
    assert (seen.engines, seen.libraries) == ([ENGINE], [str(with_library / "evil.so")])


def test_a_library_that_the_user_names_is_theirs(with_library, seen, tmp_path) -> None:
    own = Path(shutil.copy(with_library / "evil.so", tmp_path / "mine.so"))
    engine = Artifact.read(with_library).manifest.engine
    known.remember(engine.sha256, "the engine alone")
    ropeexport.load(with_library, plugin=own).close()
    assert seen.libraries == [str(own)]


def test_trust_is_asked_once(strangers, seen, own_cache) -> None:
    ropeexport.load(strangers, trust=True).close()
    ropeexport.load(strangers).close()
    assert seen.engines == [ENGINE, ENGINE]
    assert stat.S_IMODE((own_cache / "trusted").stat().st_mode) == 0o700
    (strangers / "model.engine").write_bytes(b"another")
    with pytest.raises(EngineError, match="not the engine of its manifest"):
        ropeexport.load(strangers, trust=True)
    with_engine(strangers, library=True)  # the same engine, and code beside it
    with pytest.raises(UntrustedError, match=r"evil\.so"):
        ropeexport.load(strangers)
    assert seen.engines == [ENGINE, ENGINE]


def test_what_was_trusted_is_no_record_of_somebody_elses(
    strangers, seen, own_cache, caplog
) -> None:
    ropeexport.load(strangers, trust=True).close()
    (own_cache / "trusted").chmod(0o777)  # whoever may write here could have put it there
    with pytest.raises(UntrustedError, match=ASKS):
        ropeexport.load(strangers)
    assert "expected a folder of this user's alone (mode 700)" in caplog.text


def test_without_a_place_for_the_record_it_is_asked_each_time(
    strangers, seen, tmp_path, monkeypatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROPEEXPORT_CACHE", str(tmp_path / "file"))
    ropeexport.load(strangers, trust=True).close()
    with pytest.raises(UntrustedError, match=ASKS):
        ropeexport.load(strangers)


def test_what_is_built_here_is_trusted(exported, seen, monkeypatch) -> None:
    folder = exported(dtype="fp32")
    ropeexport.build(folder, impl="decomposed")
    version = Artifact.read(folder).manifest.engine.version
    monkeypatch.setattr(trt.preflight, "available_flavours", lambda: {"tensorrt-rtx": version})
    ropeexport.load(folder).close()
    assert seen.engines == [(folder / "model.engine").read_bytes()]


def test_a_run_with_a_folder_of_its_own_for_what_is_compiled_keeps_no_trust(
    strangers, seen, tmp_path, own_cache
) -> None:
    artifact = Artifact.read(strangers, Trust(engines=True))
    with TensorrtRunner(artifact, kept_in=tmp_path / "runtime"):
        pass
    assert seen.engines == [ENGINE]
    assert not (own_cache / "trusted").exists()


@pytest.fixture
def keys(tmp_path) -> tuple[Path, Path]:
    return make_keys(tmp_path)


def test_a_signature_stands_for_trust(with_library, seen, keys) -> None:
    private, public = keys
    with pytest.raises(UntrustedError, match=r"not signed: expected model\.sig"):
        ropeexport.load(with_library, trust=public)
    ropeexport.sign(with_library, private)
    moved = with_library.rename(with_library.with_name("moved"))
    (moved / "notes.txt").write_text("of mine")
    ropeexport.load(moved, trust=str(public)).close()
    assert (seen.engines, seen.libraries) == ([ENGINE], [str(moved / "evil.so")])


@pytest.mark.parametrize("file", ["model.engine", "manifest.json", "evil.so", "model.onnx"])
def test_what_is_not_as_it_was_signed_is_not_loaded(with_library, seen, keys, file) -> None:
    private, public = keys
    ropeexport.sign(with_library, private)
    content = bytearray((with_library / file).read_bytes())
    content[-1] ^= 1
    (with_library / file).write_bytes(content)
    if file == "manifest.json":  # other bytes, and the same values
        (with_library / file).write_bytes(content[:-1] + b"\n\n")
    else:  # whoever changes a file changes its hash in the manifest
        artifact = Artifact.read(with_library)
        sha256 = atomic.sha256_of(with_library / file)
        engine, model = artifact.manifest.engine, artifact.manifest.model
        if file == "model.onnx":
            model = model.changed(sha256=sha256)
            engine = engine.changed(model_sha256=sha256)
        elif file == "evil.so":
            engine = engine.changed(plugin=engine.plugin.changed(sha256=sha256))
        else:
            engine = engine.changed(sha256=sha256)
        artifact.updated(engine=engine, model=model).write()
    with pytest.raises(UntrustedError, match="not as it was signed with") as raised:
        ropeexport.load(with_library, runtime="tensorrt", trust=public)
    assert f"{file} is changed" in str(raised.value)
    assert (seen.engines, seen.libraries) == ([], [])


def test_an_engine_beside_what_was_signed_is_not_loaded(exported, seen, keys) -> None:
    private, public = keys
    folder = exported(dtype="fp32")
    ropeexport.sign(folder, private)
    with_engine(folder, library=True)
    with pytest.raises(UntrustedError, match=r"model\.engine is not signed, evil"):
        ropeexport.load(folder, trust=public)
    assert seen.engines == []


def test_what_was_read_is_what_has_to_be_signed(strangers, keys) -> None:
    private, public = keys
    ropeexport.sign(strangers, private)
    read = {"model.engine": atomic.sha256_of(strangers / "model.engine")}
    require_signed(strangers, public, ("manifest.json",), read)
    with pytest.raises(UntrustedError, match=r"model\.engine is changed"):
        require_signed(strangers, public, ("manifest.json",), {"model.engine": "0" * 64})


def test_a_key_is_a_demand_where_no_engine_is_loaded_too(exported, keys, tmp_path) -> None:
    folder, (private, public) = exported(dtype="fp32"), keys
    for verb in (ropeexport.load, partial(ropeexport.check, cases=1)):
        with pytest.raises(UsageError, match="no such file"):
            verb(folder, trust=tmp_path / "none.pem")
        with pytest.raises(UntrustedError, match="not signed"):
            verb(folder, trust=public)
    ropeexport.sign(folder, private)
    ropeexport.load(folder, device="cpu", trust=public).close()
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UntrustedError, match=r"model\.onnx is changed"):
        ropeexport.load(folder, device="cpu", trust=public)


def test_anothers_signature_does_not(strangers, seen, keys, tmp_path) -> None:
    _, other = make_keys(tmp_path, "other")
    ropeexport.sign(strangers, keys[0])
    with pytest.raises(UntrustedError, match=r"model\.sig: not signed with .*other\.pub"):
        ropeexport.load(strangers, trust=other)
    assert seen.engines == []


@pytest.fixture
def checked(seen, monkeypatch) -> Seen:
    """For a check, whose eager module has no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(trt, "_require_cuda_torch", lambda: None)
    return seen


def test_check_skips_it_and_says_why(strangers, checked) -> None:
    report = ropeexport.check(strangers, cases=1, runtimes="tensorrt")
    row = next(each for each in report.runtimes if each.name == "tensorrt")
    assert row.status == "SKIPPED"
    assert "--trust" in row.reason
    with pytest.raises(ropeexport.MissingError, match="tensorrt was required: SKIPPED"):
        ropeexport.check(strangers, cases=1, runtimes="tensorrt", require="tensorrt")
    assert checked.engines == []


def test_check_passes_trust_on(strangers, checked, monkeypatch) -> None:
    def zeros(self: TensorrtRunner, inputs: Arrays, out: Arrays | None = None) -> Arrays:
        return {"out": inputs["q"][:, 0, :, :1]}

    monkeypatch.setattr(TensorrtRunner, "run", zeros)
    report = ropeexport.check(strangers, cases=1, runtimes="tensorrt", trust=True)
    row = next(each for each in report.runtimes if each.name == "tensorrt")
    assert row.status == "FAIL"  # it ran, on what is no engine
    assert checked.engines == [ENGINE]


def test_nothing_else_of_a_folder_is_loaded(with_library, seen) -> None:
    for look in (ropeexport.inspect, ropeexport.lint, ropeexport.verify):
        look(with_library)
    ropeexport.load(with_library, runtime="onnxruntime", device="cpu").close()
    assert (seen.engines, seen.libraries) == ([], [])


@pytest.mark.parametrize("trust", [None, 1, "", b"key.pub"])
def test_trust_is_yes_or_a_key(strangers, seen, trust) -> None:
    with pytest.raises(
        ropeexport.UsageError, match=r"key's file, got|expected a file, got a folder"
    ):
        ropeexport.load(strangers, trust=trust)
    assert seen.engines == []


def test_one_of_the_options_is_given(strangers) -> None:
    done = command("run", strangers, "--random", "--trust", "--key", "k.pem")
    assert done.returncode == 2
    assert "give one of them" in done.stderr
    missing = command("verify", strangers, "--key", "k.pem")
    assert_one_line(missing, 2, "k.pem: no such file")
