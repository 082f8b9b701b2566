"""Real weights of more than a gigabyte: exported without being read, then held to the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.commands import ropeexport
from ropeexport.parity.records import Report

CONFIG = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 5,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 24000,
    "max_position_embeddings": 2048,
}  # fmt: skip
_CASES = 8


def measure() -> dict[str, Any]:
    """Export a Llama with random values beside its weights, check it, and return what came out."""
    with TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        _write_model(folder)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        ropeexport("export", f"transformers:{folder}", "-o", str(folder))
        ropeexport("check", str(folder), "--cases", str(_CASES), "--require", "onnxruntime")
        inline = (folder / "model.onnx").stat().st_size
        report = Report.model_validate_json((folder / "parity.json").read_text())
    ran = {found.runtime for found in report.comparisons if found.numbers is not None}
    return {
        "weights_bytes": size,
        "onnx_bytes": inline,
        "cases": _CASES,
        "verdict": report.verdict,
        "share_of_bound": {name: x for name, x in report.shares.items() if name in ran},
    }


def _write_model(folder: Path) -> None:
    from transformers import AutoConfig, AutoModel

    (folder / "config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    module = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    module.save_pretrained(folder, safe_serialization=True)
