"""``python -m benchmarks.weightless``: FLUX.1-dev at full size, its weights in a sparse file.

Prints wall time and peak memory of the full size, of a width and four times that width at equal
depth, side by side with plain ``torch.onnx.export``, at a small size and at the largest that it
can export here, and of a module whose weights are in memory and beyond a protobuf's 2 GiB; exports
a model with real weights and checks it; writes results/weightless.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import machine
from benchmarks.commands import ropeexport, worker
from ropeexport.parity.records import Report

RESULTS = Path(__file__).parents[1] / "results" / "weightless.json"
_SMALL = {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True}
_NARROW = {**_SMALL, "num_attention_heads": 6}
CASES: dict[str, dict[str, Any]] = {
    "FLUX.1-dev, 19+38 blocks": {"guidance_embeds": True},
    "2+2 blocks, a quarter of the width": _NARROW,
    "2+2 blocks, full width": _SMALL,
}
_BEYOND = {**_SMALL, "num_layers": 3, "num_single_layers": 3}  # more than a protobuf file holds
_PLAIN = "plain torch.onnx.export"
_BLOCK_BYTES = 1.25e9  # a double block and two single ones, float16
_REAL = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 5,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 24000,
    "max_position_embeddings": 2048,
}  # fmt: skip
_REAL_CASES = 8
MOST_MB, MOST_SECONDS, MOST_INLINE_BYTES, MOST_GROWTH = 1000, 180, 10e6, 1.05


def main() -> int:
    """Measure, print, write, and return 1 where a promise is broken."""
    rows = {name: _case("ours", config) for name, config in CASES.items()}
    rows[f"2+2 blocks, full width, {_PLAIN}"] = _case("plain", _SMALL)
    rows["3+3 blocks, weights in memory"] = memory = _case("memory", _BEYOND)
    largest = _largest()
    rows |= largest
    for name, row in rows.items():
        print(
            f"{name}: {row['weights_bytes'] / 1e9:.2f} GB of weights, {row['seconds']:.0f} s, "
            f"peak {row['peak_mb']:.0f} MB, ONNX file {row['onnx_bytes'] / 1e6:.1f} MB"
        )
    full, narrow, wide, plain, *_ = rows.values()
    print(f"weights in memory: the export adds {memory['added_mb']:.0f} MB to them")
    growth = wide["peak_mb"] / narrow["peak_mb"]
    print(f"four times the width: peak times {growth:.3f}")
    pairs = {"": (wide, plain)} | ({" at the largest size": largest.values()} if largest else {})
    for where, (ours, theirs) in pairs.items():
        time, peak = (theirs[key] / ours[key] for key in ("seconds", "peak_mb"))
        print(f"plain / ours{where}: time {time:.2f}, peak {peak:.2f}")
    real = _real_weights()
    print(
        f"{real['weights_bytes'] / 1e9:.2f} GB of real weights: {real['verdict']}, "
        f"{real['cases']} cases, of the bound at most {real['share_of_bound']}"
    )
    found = {"parity": real, "cases": rows, "growth": growth}
    machine.write(RESULTS, found, "benchmarks/weightless")
    holds = (
        full["peak_mb"] < MOST_MB
        and full["seconds"] < MOST_SECONDS
        and full["onnx_bytes"] <= MOST_INLINE_BYTES
        and growth <= MOST_GROWTH
        and memory["added_mb"] < MOST_MB
        and real["verdict"] == "PASS"
    )
    return int(not holds)


def _largest() -> dict[str, dict[str, Any]]:
    """Return ours and the plain export at the greatest depth that the latter manages here."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for blocks in range(int(available / _BLOCK_BYTES), 1, -2):
        config = {**_SMALL, "num_layers": blocks, "num_single_layers": 2 * blocks}
        name = f"{blocks}+{2 * blocks} blocks, full width"
        try:
            plain = _case("plain", config)
        except SystemExit as error:
            print(f"{name}, {_PLAIN}: {error}", flush=True)
            continue
        return {name: _case("ours", config), f"{name}, {_PLAIN}": plain}
    return {}


def _case(how: str, config: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    with TemporaryDirectory(dir=Path.cwd()) as folder:
        for step in ("prepare", how):
            try:
                row |= worker("benchmarks.weightless.worker", step, folder, json.dumps(config))
            except SystemExit as error:
                raise SystemExit(f"{step}: {error}") from None
    return row


def _real_weights() -> dict[str, Any]:
    """Export a Llama beside its real weights, which nobody reads; check it; say what came out."""
    with TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        _write_llama(folder)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        ropeexport("export", f"transformers:{folder}", "-o", place)
        ropeexport("check", place, "--cases", str(_REAL_CASES), "--require", "onnxruntime")
        inline = (folder / "model.onnx").stat().st_size
        report = Report.model_validate_json((folder / "parity.json").read_text())
    ran = {found.runtime for found in report.comparisons if found.numbers is not None}
    return {
        "weights_bytes": size,
        "onnx_bytes": inline,
        "cases": _REAL_CASES,
        "verdict": report.verdict,
        "share_of_bound": {name: x for name, x in report.shares.items() if name in ran},
    }


def _write_llama(folder: Path) -> None:
    from transformers import AutoConfig, AutoModel

    (folder / "config.json").write_text(json.dumps(_REAL))
    torch.manual_seed(0)
    module = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    module.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    sys.exit(main())
