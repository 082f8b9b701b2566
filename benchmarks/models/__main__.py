"""``python -m benchmarks.models [NAME ...]``: export classes and write docs/models.md.

Without names, every class of the table; with names, their rows are measured anew and the others
kept.  ``--discover`` lists the classes with RoPE of the libraries that are installed;
any of transformers may be named.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.commands import worker
from benchmarks.machine import measured
from benchmarks.models.configs import NAMES
from benchmarks.models.discovery import discovered
from ropeexport import atomic
from ropeexport.machine import versions_of

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

# class: (part of the row, words of the failure, cause)
KNOWN: dict[str, tuple[str, str, str]] = {
    "Lumina2Transformer2DModel": (
        "fp32",
        "cannot be traced",
        "its forward reads the lengths of the captions out of the mask (`tolist`) and builds "
        "Python sets and slices of them: their values are not known while it is traced",
    ),
    "HunyuanVideoTransformer3DModel": (
        "engine",
        "MyelinCheckException",
        "TensorRT-RTX 1.7 raises an internal check of its own compiler; the file is valid ONNX "
        "and in parity in onnxruntime",
    ),
    "MochiTransformer3DModel": (
        "engine",
        "NonZero",
        "its attention packs the tokens that a mask keeps (`nonzero`), an operator that "
        "TensorRT-RTX does not have",
    ),
    "falcon": (
        "fp32",
        "requires q_num_heads",
        "its attention gives many query heads one key head and leaves the sharing to torch, which "
        "torch's exporter does not lower",
    ),
    "mixtral": (
        "fp32",
        "grouped_mm",
        "its experts are an operator of transformers' own (`grouped_mm_fallback`), which torch's "
        "exporter does not lower",
    ),
}
_GOOD = {"fp32": "PASS", "fp16": "PASS", "engine": "built"}


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--discover", is_flag=True, help="List the libraries' classes, and what is known.")
def command(names: tuple[str, ...], discover: bool) -> None:
    """List classes, or run them."""
    if discover:
        for each in discovered():
            click.echo(f"{each.model}{'  in the table' if each.name in NAMES else ''}")
        return
    sys.exit(main(list(names or NAMES)))


def main(names: list[str]) -> int:
    """Run classes, keep their rows, write the page; return 1 for a failure of unknown cause."""
    rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    seconds = sum(rows.get(name, {}).get("seconds", _USUAL_SECONDS) for name in names)
    print(
        f"{len(names)} classes of diffusers and transformers, each exported twice, checked and "
        f"built: about {seconds / 60:.0f} minutes; results go to {RESULTS} and {PAGE}",
        flush=True,
    )
    origin = measured("benchmarks/models") | {"packages": versions_of(_PACKAGES)}
    for number, name in enumerate(names, 1):
        rows[name] = _row(name) | {"measured": origin}
        print(f"{number}/{len(names)} {_line(rows[name])}", flush=True)
        atomic.write_text(RESULTS, json.dumps(rows, indent=2) + "\n")
        order = [*NAMES, *sorted(rows.keys() - set(NAMES))]
        atomic.write_text(PAGE, page([rows[known] for known in order if known in rows]))
    unexpected = [line for name in names for line in news(rows[name])]
    print("\n".join(unexpected) or "nothing that is not known", flush=True)
    return int(bool(unexpected))


def _row(name: str) -> dict[str, Any]:
    try:
        return worker("benchmarks.models.worker", name)
    except SystemExit as error:
        return {"name": name, "fp32": str(error)[:160], "fp16": "", "engine": ""}


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page of some rows."""
    refused = [f"- {row['name']}: {reason}." for row in rows for reason in row.get("refused", ())]
    causes = [f"- {row['name']}: {KNOWN[row['name']][2]}." for row in rows if row["name"] in KNOWN]
    text = _HEAD.format(measured="\n".join(_origins(rows))) + "\n".join(map(_line, rows)) + "\n"
    for title, lines in (("What fails, and why", causes), ("Refused, with the reason", refused)):
        text += f"\n{title}:\n\n" + "\n".join(lines) + "\n" if lines else ""
    return text


def news(row: dict[str, Any]) -> list[str]:
    """Return what a row says that is not known: new failures, and known ones that are gone."""
    part, words, _ = KNOWN.get(row["name"], ("", "", ""))
    found = []
    for key, good in _GOOD.items():
        text = str(row.get(key, ""))
        if text.startswith(good):
            if key == part:
                found.append(f"{row['name']}: {key} works now: take it out of KNOWN")
        elif part not in (key, "fp32"):
            found.append(f"{row['name']}: {key}: {text or 'nothing'}")
        elif key == part and words not in text:
            found.append(f"{row['name']}: {key}: another failure than the known one: {text}")
    if part != "fp32" and row.get("found") != row.get("replaced"):
        found.append(f"{row['name']}: {row.get('replaced')} of {row.get('found')} replaced")
    return found


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
    commit = (measured["commit"] or "unknown")[:12]
    return f"commit {commit}{changed}, {measured['date']}, {packages}"


def _line(row: dict[str, Any]) -> str:
    keys = ("name", "found", "replaced", "fp32", "fp16", "engine")
    return f"| {' | '.join(str(row.get(key, '')).replace('|', '/') for key in keys)} |"


if __name__ == "__main__":
    command()
