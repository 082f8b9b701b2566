"""``python -m benchmarks.weightless``: FLUX.1-dev at full size, its weights in a sparse file.

Prints wall time and peak memory of the full size, of a width and four times that width at equal
depth, and side by side with plain ``torch.onnx.export``; writes results/weightless.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import machine
from ropeexport import atomic

RESULTS = Path(__file__).parents[1] / "results" / "weightless.json"
_SMALL = {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True}
_NARROW = {**_SMALL, "num_attention_heads": 6}
CASES: dict[str, dict[str, Any]] = {
    "FLUX.1-dev, 19+38 blocks": {"guidance_embeds": True},
    "2+2 blocks, a quarter of the width": _NARROW,
    "2+2 blocks, full width": _SMALL,
}
MOST_MB, MOST_SECONDS, MOST_INLINE_BYTES, MOST_GROWTH = 1000, 180, 10e6, 1.05


def main() -> int:
    """Measure, print, write, and return 1 where a promise is broken."""
    rows = {name: _case("ours", config) for name, config in CASES.items()}
    rows["2+2 blocks, full width, plain torch.onnx.export"] = _case("plain", _SMALL)
    for name, row in rows.items():
        print(
            f"{name}: {row['weights_bytes'] / 1e9:.2f} GB of weights, {row['seconds']:.0f} s, "
            f"peak {row['peak_mb']:.0f} MB, ONNX file {row['onnx_bytes'] / 1e6:.1f} MB"
        )
    full, narrow, wide, plain = rows.values()
    growth = wide["peak_mb"] / narrow["peak_mb"]
    print(f"four times the width: peak times {growth:.3f}")
    print(
        f"plain / ours: time {plain['seconds'] / wide['seconds']:.2f}, "
        f"peak {plain['peak_mb'] / wide['peak_mb']:.2f}"
    )
    record = {"machine": machine.describe(), "cases": rows, "growth": growth}
    atomic.write_text(RESULTS, json.dumps(record, indent=2) + "\n")
    holds = (
        full["peak_mb"] < MOST_MB
        and full["seconds"] < MOST_SECONDS
        and full["onnx_bytes"] <= MOST_INLINE_BYTES
        and growth <= MOST_GROWTH
    )
    return int(not holds)


def _case(how: str, config: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory(dir=Path.cwd()) as folder:
        return _run("prepare", folder, config) | _run(how, folder, config)


def _run(how: str, folder: str, config: dict[str, Any]) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "benchmarks.weightless.worker", how, folder, json.dumps(config),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{how}: {done.stderr.strip().splitlines()[-1]}")
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


if __name__ == "__main__":
    sys.exit(main())
