"""``python -m benchmarks.models [NAME ...]``: export classes and write docs/models.md.

Without names, every class; with names, their rows are measured anew and the others kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import commit
from benchmarks.commands import worker
from benchmarks.models.causes import lines, news
from benchmarks.models.configs import NAMES
from ropeexport import atomic
from ropeexport.packages import versions_of

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
RESULTS = Path(__file__).parents[1] / "results" / "models.json"
_PACKAGES = ("torch", "diffusers", "transformers", "onnxruntime", "tensorrt-rtx")
_USUAL_SECONDS = 40.0  # of a class that was never measured, on two cores
_HEAD = """# Models

Written by `make long`, or `python -m benchmarks.models` with the names of some classes
(`pip install 'ropeexport[cpu,models]'`). Each class is exported with a small config and random
weights (`benchmarks/models/configs.py`), in float32 and in float16. `ropeexport check` holds
onnxruntime to the bound of `docs/parity.md`, against a float64 oracle, in all the cases that it
designs; below is the largest share of the bound that was used. An engine is built of the float16
file.

{measured}

An application is one q/k pair, or one tensor rotated alone.

| class | found | replaced | onnxruntime fp32 | onnxruntime fp16 | TensorRT-RTX |
| --- | --- | --- | --- | --- | --- |
"""


def main(names: list[str]) -> int:
    """Run classes, keep their rows, write the page; return 1 for a failure of unknown cause."""
    rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    seconds = sum(rows.get(name, {}).get("seconds", _USUAL_SECONDS) for name in names)
    print(
        f"{len(names)} classes of diffusers and transformers, each exported twice, checked and "
        f"built: about {seconds / 60:.0f} minutes; results go to {RESULTS} and {PAGE}",
        flush=True,
    )
    measured = _measured()
    for number, name in enumerate(names, 1):
        rows[name] = _row(name) | {"measured": measured}
        print(f"{number}/{len(names)} {_line(rows[name])}", flush=True)
        atomic.write_text(RESULTS, json.dumps(rows, indent=2) + "\n")
        atomic.write_text(PAGE, page([rows[known] for known in NAMES if known in rows]))
    unexpected = [line for name in names for line in news(rows[name])]
    print("\n".join(unexpected) or "nothing that is not known", flush=True)
    return int(bool(unexpected))


def _measured() -> dict[str, Any]:
    packages = versions_of(_PACKAGES)
    return {**commit.measured("benchmarks/models"), "packages": packages}


def _row(name: str) -> dict[str, Any]:
    try:
        return worker("benchmarks.models.worker", name)
    except SystemExit as error:
        return {"name": name, "fp32": str(error)[:160], "fp16": "", "engine": ""}


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page of some rows."""
    refused = [f"- {row['name']}: {reason}." for row in rows for reason in row.get("refused", ())]
    tail = "\nRefused, with the reason:\n\n" + "\n".join(refused) + "\n" if refused else ""
    causes = lines([row["name"] for row in rows])
    head = _HEAD.format(measured="\n".join(_origins(rows)))
    return head + "\n".join(map(_line, rows)) + "\n" + causes + tail


def _origins(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each commit and day that rows are of: the most first, the others named."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(_origin(row.get("measured")), []).append(row["name"])
    for origin, names in sorted(groups.items(), key=lambda group: -len(group[1])):
        rest = len(names) < len(rows) / 2
        yield f"- {', '.join(names) if rest else f'{len(names)} classes'}: {origin}."


def _origin(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "measured before the commit was recorded"
    changed = " with changes" if measured["changed"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in measured["packages"].items())
    return (
        f"commit {(measured['commit'] or 'unknown')[:12]}{changed}, {measured['date']}, {packages}"
    )


def _line(row: dict[str, Any]) -> str:
    cells = (
        str(row.get(key, "")) for key in ("name", "found", "replaced", "fp32", "fp16", "engine")
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(NAMES)))
