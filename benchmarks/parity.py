"""``python -m benchmarks.parity``: what a parity run costs, into ``results/parity.json``.

Exits with 1 where a correct export fails a case, 3,000 cases of the FLUX attention at L=64 take two
minutes, or a case leaves more behind than its records (its arrays are 10 MB).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import machine
from benchmarks.commands import ropeexport
from ropeexport.parity.records import Report

RESULTS = Path(__file__).parent / "results" / "parity.json"
MOST_SECONDS, MOST_KB_A_CASE = 120.0, 32.0
_FLUX = ("--heads", "24", "--head-dim", "128")
# every shape and broadcast of the profile at random, so of a size at which ten thousand are cheap
_SMALL = ("--heads", "4", "--head-dim", "40", "--length", "128")
READINGS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "300 cases at L=64": (_FLUX, ("--lengths", "64", "--cases", "300")),
    "3,000 cases at L=64": (_FLUX, ("--lengths", "64", "--cases", "3000")),
    "10,000 random cases, fp32": (_SMALL, ("--cases", "10000")),
    "10,000 random cases, fp16": ((*_SMALL, "--dtype", "fp16"), ("--cases", "10000")),
}


def main() -> int:
    """Take every reading; return 1 where a promise is broken."""
    rows = {}
    for name, (model, options) in READINGS.items():
        rows[name] = row = _reading(model, options)
        print(
            f"{name}: {row['passed']} of {row['compared']} comparisons within their bounds, "
            f"at most {row['largest_share']:.0%} of it, {row['seconds']:.0f} s, "
            f"peak {row['peak_mb']:.0f} MB",
            flush=True,
        )
    few, many = rows["300 cases at L=64"], rows["3,000 cases at L=64"]
    kept = 1e3 * (many["peak_mb"] - few["peak_mb"]) / (many["compared"] - few["compared"])
    print(f"what a further case adds to the peak: {kept:.0f} kB")
    machine.write(RESULTS, {"readings": rows, "kb_a_case": kept}, "benchmarks/parity.py")
    whole = all(row["passed"] == row["compared"] for row in rows.values())
    return int(not (whole and many["seconds"] < MOST_SECONDS and kept <= MOST_KB_A_CASE))


def _reading(model: Sequence[str], options: Sequence[str]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        ropeexport("export", "flux-attention", "-o", folder, *model)
        ran = ropeexport("check", folder, *options, allowed=(0, 1))  # 1: a verdict, which counts
        report = Report.model_validate_json((Path(folder) / "parity.json").read_text())
    judged = [c for c in report.comparisons if c.runtime == "onnxruntime" and c.case]
    return {
        "command": " ".join(["ropeexport export flux-attention", *model, "; check", *options]),
        "seconds": ran.seconds,
        "peak_mb": ran.peak_mb,
        "compared": len(judged),
        "passed": sum(c.status == "PASS" for c in judged),
        "largest_share": max(c.share for c in judged),
    }


if __name__ == "__main__":
    sys.exit(main())
