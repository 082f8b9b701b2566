"""Good inputs, small ones, made once by the product itself: what the attacks break."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from attack.worker import ROOT, Worker, give

FOREIGN = ROOT / "tests/data/foreign"
SIZES = ["--heads", "2", "--head-dim", "8", "--length", "8"]
PATIENCE = 300.0
LLAMA = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WAN = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 1, "patch_size": [1, 2, 2],
}  # fmt: skip
FACTORY = """
import torch


class Module(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.softmax(x, -1)


def factory():
    return Module(), {"x": torch.zeros(2, 4)}, {"x": {0: "batch"}}
"""


def made(worker: Worker, place: Path) -> Path:
    """Return a folder of good inputs, a folder each; made where the code's own is not there yet.

    ``flux``: an export with its reports; ``engine``: one with an engine; ``foreign``: files of
    other exporters; ``control``: control flow and functions; ``llama``: a config and weights;
    ``cache``: an export beside them; ``wan``: a config of diffusers; ``signed``: an export with its
    signature, and the keys.
    """
    done = place / "done"
    made_of = [Path(__file__), *(ROOT / "ropeexport").rglob("*.py"), *FOREIGN.rglob("*")]
    if done.exists() and done.stat().st_mtime > max(path.stat().st_mtime for path in made_of):
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    _configs(place)
    work = worker.work
    shutil.copytree(place / "llama", work / "cache")
    _arrays(work)
    _keys(work / "signed")
    (work / "factory.py").write_text(FACTORY)
    give(work)
    for command in _commands():
        ended = worker.run(command, PATIENCE)
        if ended.code != 0:
            raise RuntimeError(f"{command}: {ended.code}\n{ended.output}{ended.errors}")
    for name in ("flux", "engine", "cache", "fused", "factory", "signed"):
        shutil.copytree(work / name, place / name)
    shutil.copy(work / "factory.py", place / "factory")
    _saved(place / "flux")
    for name, path in (("foreign", "optimum/llama"), ("script", "torchscript-17")):
        source = FOREIGN / path if name == "foreign" else next((FOREIGN / path).iterdir())
        shutil.copytree(source, place / name)
    (place / "control").mkdir()
    (place / "control/model.onnx").write_bytes(control_flow())
    done.touch()
    return place


def _commands() -> list[list[str]]:
    return [
        ["export", "flux-attention", "-o", "flux", *SIZES],
        ["check", "flux", "--cases", "3", "--runtime", "onnxruntime"],
        ["bench", "flux", "--against", "eager", "--rounds", "1", "--repeats", "1"],
        ["run", "flux", "--input", "flux/in.npz", "-o", "flux/out.npz"],
        ["export", "flux-attention", "-o", "engine", *SIZES, "--axis", "batch=1:1:2"],
        ["build", "engine"],
        ["export", "transformers:cache", "--cache", "grow", "-o", "cache"],
        ["fuse", str(FOREIGN / "optimum/llama/model.onnx"), "-o", "fused"],
        ["export", "factory.py:factory", "-o", "factory"],
        ["export", "flux-attention", "-o", "signed/folder", *SIZES],
        ["sign", "signed/folder", "--key", "signed/private.pem"],
    ]


def _configs(place: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    model.save_pretrained(place / "llama", max_shard_size="12KB")
    wan = place / "wan"
    wan.mkdir()
    config = {"_class_name": "WanTransformer3DModel", **WAN}
    (wan / "config.json").write_text(json.dumps(config, indent=1))


def _keys(place: Path) -> None:
    """Write a pair of keys, as ``openssl ecparam -genkey`` does."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    place.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (place / "private.pem").write_bytes(private)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (place / "public.pem").write_bytes(public)


def _arrays(place: Path) -> None:
    import numpy as np

    drawn = np.random.default_rng(0)
    shapes = {"q": (1, 2, 8, 8), "k": (1, 2, 8, 8), "v": (1, 2, 8, 8), "pe": (1, 1, 8, 4, 2, 2)}
    arrays: dict[str, Any] = {
        name: drawn.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    flux = place / "flux"
    flux.mkdir()
    np.savez(flux / "in.npz", **arrays)
    for name, array in arrays.items():
        np.save(flux / f"{name}.npy", array)


def _saved(flux: Path) -> None:
    """Write inputs with what the export made of them, as other people's tools save them."""
    import numpy as np

    arrays = {**np.load(flux / "in.npz"), **np.load(flux / "out.npz")}
    np.savez(flux / "saved.npz", **arrays)


def control_flow() -> bytes:
    """Return a file with a function, an If and a Loop around the halves of a rope."""
    import onnx

    text = """
    <ir_version: 10, opset_import: ["" : 20, "own" : 1]>
    g (float[B, H, L, 8] x, float[L, 4] c, float[L, 4] s, bool which, int64 times) =>
      (float[B, H, L, 8] y)
    {
      r = own.rope (x, c, s)
      z = If (which) <
        then_branch = yes () => (a) { a = own.rope (r, c, s) },
        else_branch = no () => (b) { b = Neg (r) }
      >
      y, all = Loop (times, which, z) <
        body = step (int64 i, bool go, float[B, H, L, 8] v) => (bool on, w, o) {
          on = Identity (go)
          w = Add (v, v)
          o = Identity (v)
        }
      >
    }
    <domain: "own", opset_import: ["" : 20]>
    rope (x, c, s) => (y)
    {
      two = Constant <value_int = 2> ()
      last = Constant <value_ints = [4, 4]> ()
      a, b = Split <axis = -1> (x, last)
      ac = Mul (a, c)
      bs = Mul (b, s)
      bc = Mul (b, c)
      as_ = Mul (a, s)
      p = Sub (ac, bs)
      q = Add (as_, bc)
      y = Concat <axis = -1> (p, q)
    }
    """
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
