"""What is known to fail and why: a failure that is not listed here, or no longer fails, is news."""

from __future__ import annotations

from typing import Any

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


def news(row: dict[str, Any]) -> list[str]:
    """Return what a row says that is not known: new failures, and known ones that are gone."""
    part, words, _ = KNOWN.get(row["name"], ("", "", ""))
    found = []
    for key, good in _GOOD.items():
        text = str(row.get(key, ""))
        if text.startswith(good):
            if key == part:
                found.append(f"{row['name']}: {key} works now: take it out of causes.py")
        elif part not in (key, "fp32"):
            found.append(f"{row['name']}: {key}: {text or 'nothing'}")
        elif key == part and words not in text:
            found.append(f"{row['name']}: {key}: another failure than the known one: {text}")
    if part != "fp32" and row.get("found") != row.get("replaced"):
        found.append(f"{row['name']}: {row.get('replaced')} of {row.get('found')} replaced")
    return found


def lines(names: list[str]) -> str:
    """Return the known causes as a list in Markdown."""
    known = [f"- {name}: {KNOWN[name][2]}." for name in names if name in KNOWN]
    return "\nWhat fails, and why:\n\n" + "\n".join(known) + "\n" if known else ""
