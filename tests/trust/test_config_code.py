"""Code that a config of transformers brings along: refused by name, or allowed by its option."""

from __future__ import annotations

import json
import os
import pty
import sys
from pathlib import Path

import pytest
from command_line import ROOT, assert_one_line
from command_line import ropeexport as command

import ropeexport
from ropeexport import manifest
from ropeexport.errors import UntrustedError, UsageError

pytestmark = pytest.mark.hostile

transformers = pytest.importorskip("transformers")

CONFIGURATION = """
from pathlib import Path
from transformers import PretrainedConfig
Path({ran!r}).open("a").write("configuration ")
class ToyConfig(PretrainedConfig):
    model_type = "ropeexport_toy"
    def __init__(self, vocab_size=64, hidden_size=32, max_position_embeddings=64, **more):
        super().__init__(**more)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.max_position_embeddings = max_position_embeddings
"""
MODELING = """
from pathlib import Path
import torch
from transformers import PreTrainedModel
from .configuration_toy import ToyConfig
Path({ran!r}).open("a").write("modeling ")
def rotate_half(x):
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)
class ToyModel(PreTrainedModel):
    config_class = ToyConfig
    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        half = torch.arange(0, config.hidden_size, 2).float() / config.hidden_size
        self.register_buffer("inv_freq", 1.0 / 10000.0**half, persistent=False)
        self.post_init()
    def forward(self, input_ids, position_ids):
        x = self.embed(input_ids)[:, None]
        angles = position_ids[:, None, :, None].float() * self.inv_freq
        angles = torch.cat((angles, angles), -1)
        y = x * angles.cos() + rotate_half(x) * angles.sin()
        return torch.nn.functional.scaled_dot_product_attention(y, y, x)
"""
TOY = {
    "model_type": "ropeexport_toy",
    "auto_map": {
        "AutoConfig": "configuration_toy.ToyConfig",
        "AutoModel": "modeling_toy.ToyModel",
        "AutoModelForCausalLM": "modeling_toy.ToyModel",
    },
}
LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
MINUTES = pytest.mark.tools  # exports of another library's models
NAMED = r"modeling_toy\.py, which the config names \(auto_map\).*--trust-remote-code"


@pytest.fixture
def ran(tmp_path) -> Path:
    """A file that the folder's code writes to."""
    return tmp_path / "ran"


@pytest.fixture
def strangers(tmp_path, ran, monkeypatch):
    """Return a function that writes a config with code beside it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.syspath_prepend(str(tmp_path / "hf"))

    def write(config: dict) -> Path:
        folder = tmp_path / "strangers"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "configuration_toy.py").write_text(CONFIGURATION.format(ran=str(ran)))
        (folder / "modeling_toy.py").write_text(MODELING.format(ran=str(ran)))
        return folder

    return write


@pytest.mark.parametrize("options", [{}, {"cache": "grow"}])
def test_an_export_refuses_it_by_name(strangers, ran, tmp_path, options) -> None:
    folder = strangers(TOY)
    with pytest.raises(UntrustedError, match=rf"strangers: its model is the code of {NAMED}"):
        ropeexport.export(f"transformers:{folder}", out=tmp_path / "out", **options)
    assert not ran.exists()
    assert not (tmp_path / "out").exists()


def test_for_a_class_of_transformers_own_no_code_is_offered(strangers, ran, tmp_path) -> None:
    words = r"expected a config\.json of a model that transformers knows.*auto_map.* is for transf"
    with pytest.raises(UsageError, match=words):
        ropeexport.export("transformers:LlamaModel", out=tmp_path / "out", config=strangers(TOY))
    assert not ran.exists()


def test_nobody_is_asked_on_a_terminal(strangers, ran, tmp_path) -> None:
    folder = strangers(TOY)
    done = in_a_terminal(folder, tmp_path / "out")
    assert "its model is the code of modeling_toy.py" in done
    assert "[y/N]" not in done
    assert not ran.exists()


def in_a_terminal(config: Path, out: Path) -> str:
    """Export on a pseudo-terminal whose user says yes to everything; return what is on it."""
    script = "from ropeexport.cli.main import main; main()"
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["-P", "-c", script, "export", f"transformers:{config}", "-o", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, *words], environment)
    os.write(terminal, b"y\ny\n")
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # Linux: the other end is closed
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 1, shown
    return " ".join(shown.decode().split())


@MINUTES
def test_with_the_option_it_is_exported_and_checked(strangers, ran, tmp_path) -> None:
    model, out = f"transformers:{strangers(TOY)}", tmp_path / "out"
    made = ropeexport.export(model, out=out, require_rope=1, trust_remote_code=True)
    assert "modeling" in ran.read_text()
    source = made.manifest.source
    assert (source.name, source.options) == (model, {"code": "modeling_toy.ToyModel"})
    ran.unlink()
    # the manifest says that code was needed, and allows nothing
    for verb in (ropeexport.check, ropeexport.bench):
        with pytest.raises(UntrustedError, match=NAMED):
            verb(out)
    assert not ran.exists()
    report = ropeexport.check(out, cases=2, runtimes="onnxruntime", trust_remote_code=True)
    assert report.verdict == "PASS"


def test_a_strangers_manifest_brings_no_code_in(strangers, ran, export_once, tmp_path) -> None:
    """A built-in's folder whose manifest names such a config, and says that it may."""
    out = tmp_path / "out"
    folder = strangers(TOY)
    ropeexport.export("flux-attention", out=out, heads=2, head_dim=16, length=32)
    record = manifest.read(out)
    options = {"code": "", "trust_remote_code": "true"}
    source = manifest.Source(kind="config", name=f"transformers:{folder}", options=options)
    manifest.write(out, record.changed(source=source))
    assert_one_line(command("check", out), 1, "its model is the code of modeling_toy.py")
    assert not ran.exists()


@MINUTES
@pytest.mark.parametrize("trusts", [False, True])
@pytest.mark.parametrize("options", [{}, {"cache": "grow"}])
def test_transformers_own_class_is_taken_before_any_code(
    strangers, ran, tmp_path, trusts, options
) -> None:
    folder = strangers(TOY | LLAMA)
    made = ropeexport.export(
        f"transformers:{folder}", out=tmp_path / "out", trust_remote_code=trusts, **options
    )
    assert not ran.exists()
    assert made.manifest.source.options == {}
    written = tmp_path / "out" / "config.json"
    assert written.is_file() == bool(options)
    if options:  # for other tools, which find no code there
        assert "auto_map" not in json.loads(written.read_text())


def test_a_part_of_a_config_brings_no_code_in(strangers, ran, tmp_path, monkeypatch) -> None:
    """transformers asks on the terminal about a part whose class is none of its automatic ones."""
    part = LLAMA | {"auto_map": TOY["auto_map"]}
    folder = strangers({"model_type": "llava", "text_config": part})
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    from ropeexport.models.hub.configs import code_of, load_config

    assert code_of(folder) == ""
    config = load_config(folder, "", trusts_code=False)
    assert not hasattr(config.text_config, "auto_map")
    assert not ran.exists()


def test_kernels_of_a_repository_are_refused(strangers, tmp_path) -> None:
    folder = strangers(LLAMA | {"attn_implementation": "somebody/kernels"})
    with pytest.raises(UntrustedError, match="its attention is somebody/kernels, code of a repos"):
        ropeexport.export(f"transformers:{folder}", out=tmp_path / "out")


def test_code_of_another_repository_is_named(strangers, tmp_path) -> None:
    folder = strangers(TOY | {"auto_map": {"AutoModel": "someone/else--sub.modeling.Toy"}})
    with pytest.raises(
        UntrustedError, match=r"sub/modeling\.py of the repository someone/else \(tr"
    ):
        ropeexport.export(f"transformers:{folder}", out=tmp_path / "out")


@pytest.mark.parametrize("named", [[], "x.Y", {"AutoModel": None}, {"AutoModel": ["a.B"]}])
def test_an_auto_map_of_another_shape_is_no_traceback(strangers, tmp_path, named) -> None:
    folder = strangers(TOY | {"auto_map": named})
    with pytest.raises(ropeexport.RopeExportError):
        ropeexport.export(f"transformers:{folder}", out=tmp_path / "out")


def test_the_option_is_for_configs_of_transformers(tmp_path) -> None:
    for model in ("flux-attention", "diffusers:FluxTransformer2DModel", "file.py:factory"):
        with pytest.raises(ropeexport.UsageError, match="--trust-remote-code: only for transform"):
            ropeexport.export(model, out=tmp_path / "out", trust_remote_code=True)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"kind": "builtin", "name": "transformers:llama"}, "got 'transformers:llama'"),
        (
            {"kind": "builtin", "name": "flux-attention", "options": {"code": 1}},
            "'flux-attention' with code",
        ),
        # find_spec of a dotted name would import the package before the dot
        (
            {"kind": "config", "name": "strangers_package.part:config"},
            "got 'strangers_package.part",
        ),
        ({"kind": "config", "name": "flux-attention"}, "got 'flux-attention'"),
    ],
)
def test_a_source_that_no_export_writes_is_refused(exported, monkeypatch, source, words) -> None:
    out = exported(dtype="fp32")
    package = out.parent / "strangers_package"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(out.parent / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(out.parent)
    manifest.write(out, manifest.read(out).changed(source=manifest.Source(**source)))
    with pytest.raises(ropeexport.ManifestError, match=f"its manifest's source: .*{words}"):
        ropeexport.check(out)
    assert not (out.parent / "ran").exists()
