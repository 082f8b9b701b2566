"""Write small files of other exporters' into tests/data/foreign, which fuse is tried on.

Each tool runs in an environment of its own under build/, because they hold each other back: torch's
older exporter (TorchScript, opsets 17 and 18), optimum-onnx, and the model builder of
onnxruntime-genai, for DirectML, whose files have the rotation as an operator, and for CPUs, whose
files have it inside the attention.  Models are random, of one layer, from a fixed seed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = ROOT / "tests" / "data" / "foreign"
SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 32, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
# (config's class, what it has beside SIZES)
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("GemmaConfig", GROUPED),
    "gemma2": ("Gemma2Config", {**GROUPED, "query_pre_attn_scalar": 8}),
    "gpt-neox": ("GPTNeoXConfig", {"rotary_pct": 0.5}),
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": None}),
    "phi": ("PhiConfig", {"partial_rotary_factor": 0.5}),
    "phi3": ("Phi3Config", {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", GROUPED),
}
VISION = {"image_size": 32, "patch_size": 8}
# what is installed, beside torch, to run a tool
TOOLS = {
    "torchscript": ["transformers==5.23.0", "onnx==1.23.2", "onnxscript==0.7.2"],
    "optimum": ["optimum-onnx[onnxruntime]==0.1.0"],
    "genai": [
        "onnxruntime-genai==0.18.0",
        "transformers==5.23.0",
        "onnx==1.23.2",
        "onnx-ir==1.1.0",
    ],
}


def main() -> None:
    """Make the environments, and run this script in each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", nargs="?", choices=TOOLS, help="run in this tool's environment")
    tool = parser.parse_args().tool
    if tool is not None:
        {"torchscript": torchscript, "optimum": optimum, "genai": genai}[tool]()
        return
    for name, packages in TOOLS.items():
        python = ROOT / "build" / "foreign" / name / "bin" / "python"
        if not python.is_file():
            venv.create(python.parents[1], with_pip=True)
            install = [python, "-m", "pip", "install", "--quiet", "torch==2.13.0", *packages]
            subprocess.run(install, check=True)
        subprocess.run([python, __file__, name], check=True)


def torchscript() -> None:
    """Export the bodies of models, without a cache, and a vision model whose sizes are dynamic."""
    import torch
    import transformers

    class Text(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any) -> Any:
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                use_cache=False,
            ).last_hidden_state  # fmt: skip

    class Vision(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> Any:
            return self.model(pixel_values=pixel_values).last_hidden_state

    ids = torch.randint(0, SIZES["vocab_size"], (2, 7))
    text = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(7).repeat(2, 1),
    }
    text_axes = {name: {0: "batch", 1: "sequence"} for name in (*text, "last_hidden_state")}
    image = {"pixel_values": torch.randn(2, 3, 32, 48)}
    image_axes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}

    def export(model: Any, inputs: Any, axes: Any, opset: int, name: str) -> None:
        path = folder(f"torchscript-{opset}", name) / "model.onnx"
        torch.onnx.export(
            model.eval(), tuple(inputs.values()), str(path), input_names=list(inputs),
            output_names=["last_hidden_state"], dynamic_axes=axes, opset_version=opset,
            dynamo=False,
        )  # fmt: skip

    for opset in (17, 18):
        for name in ("gemma", "gpt-neox", "llama", "qwen3"):
            model = made(name, transformers.AutoModel)
            export(Text(model), text, text_axes, opset, name)
        torch.manual_seed(0)
        config = transformers.DINOv3ViTConfig(**{**SIZES, **VISION})
        vision = transformers.AutoModel.from_config(config, attn_implementation="eager")
        export(Vision(vision), image, image_axes, opset, "dinov3")


def optimum() -> None:
    """Export causal models with their caches."""
    for name, model in saved("gemma", "gpt-neox", "llama", "phi3", "qwen3"):
        with tempfile.TemporaryDirectory() as out:
            command = [Path(sys.executable).with_name("optimum-cli"), "export", "onnx"]
            task = ["--model", model, "--task", "text-generation-with-past", out]
            subprocess.run([*command, *task], check=True)
            shutil.copy(Path(out) / "model.onnx", folder("optimum", name))


def genai() -> None:
    """Build causal models: the rotation as an operator, and once inside the attention."""
    for name, model in saved("gemma2", "llama", "mistral", "phi", "qwen3"):
        _build(name, model, "fp16", "dml")
    for name, model in saved("llama"):
        _build(f"{name}-cpu", model, "fp32", "cpu")


def _build(name: str, model: str, kind: str, provider: str) -> None:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model]
        options = ["-o", out, "-p", kind, "-e", provider, "-c", f"{out}/cache"]
        subprocess.run([*command, *options], check=True)
        for file in Path(out).glob("model.onnx*"):
            shutil.copy(file, folder("genai", name))


def made(name: str, kind: Any) -> Any:
    """Return a random model, the same each time."""
    import torch
    import transformers

    torch.manual_seed(0)
    cls, more = CONFIGS[name]
    config = getattr(transformers, cls)(**{**SIZES, **more})
    return kind.from_config(config, attn_implementation="eager").eval()


def saved(*names: str) -> Iterator[tuple[str, str]]:
    """Yield folders with a model and a tokenizer, which the tools ask for."""
    import transformers
    from tokenizers import Tokenizer, models

    words = {f"w{number}": number for number in range(SIZES["vocab_size"])}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        unk_token="w0", bos_token="w1", eos_token="w2", pad_token="w0",
    )  # fmt: skip
    for name in names:
        with tempfile.TemporaryDirectory() as path:
            made(name, transformers.AutoModelForCausalLM).save_pretrained(path)
            tokenizer.save_pretrained(path)
            yield name, path


def folder(tool: str, name: str) -> Path:
    """Return the folder of a file."""
    path = OUT / tool / name
    path.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    main()
