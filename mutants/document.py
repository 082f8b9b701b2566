"""What the repository keeps of the catalogue: ``docs/faults.md``, and the score for reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mutants.attention import ATTENTION
from mutants.caches import CACHES
from mutants.catalogue import EQUIVALENTS, MUTANTS
from mutants.mutant import Mutant
from mutants.norms import NORMS
from mutants.precision import PRECISION
from mutants.rotation import ROTATION
from ropeexport import atomic

_ROOT = Path(__file__).parents[1]
DOCUMENT = _ROOT / "docs/faults.md"
SCORE = _ROOT / "ropeexport/report/page/score.json"

_INTRODUCTION = """\
# Seeded faults: what `ropeexport check` is held to

`make mutants` exports an attention, breaks the ONNX graph in each of these ways, and lets
`ropeexport check` judge it; what it does not catch is a failure of ours. The model shows the rope's
own outputs (`q_rotated`, `k_rotated`) beside the attention's (`out`), because much of what goes
wrong in a rope is hidden behind a softmax. A fault counts as caught where every output of its last
column fails in some case. It is tried in each of its types; float32 and float16 run in onnxruntime,
bfloat16 in the EMULATED twin, which has the graph's own roundings. The models of caches are small
language models of transformers, read and generated text by text.

A judge who fails everything catches everything, so the unbroken models are judged too, and have to
pass, and so are the edits that change nothing (below). The list is in `mutants/`, a line or two of
ONNX text each. This page is written by `python -m mutants --record`.
"""
_EQUIVALENT = """\
## Not counted: what only looks like a fault

Each of these changes the graph and nothing that can be seen where it is looked at. `make mutants`
checks that too: `check` must pass it there.
"""


def text(score: int, count: int) -> str:
    """Return the page for a score of ``count`` trials."""
    return "\n".join(_lines(score, count)) + "\n"


def write(score: int, count: int) -> None:
    """Write the page, and the score where reports find it."""
    atomic.write_text(DOCUMENT, text(score, count))
    record = {"caught": score, "trials": count, "faults": len(MUTANTS)}
    atomic.write_text(SCORE, json.dumps(record) + "\n")


def _lines(score: int, count: int) -> Iterator[str]:
    yield _INTRODUCTION
    yield f"Score: **{score} of {count} caught** ({len(MUTANTS)} faults, each in its types)."
    yield ""
    for title, mutants in (
        ("Rotation", ROTATION),
        ("Precision", PRECISION),
        ("Attention and single values", ATTENTION),
        ("Caches", CACHES),
        ("Norms before rotations", NORMS),
    ):
        yield from _table(title, mutants)
    yield _EQUIVALENT
    for equivalent in EQUIVALENTS:
        places = ", ".join(f"`{name}`" for name in equivalent.unseen_at)
        yield f"- **{equivalent.name}**, unseen at {places}: {equivalent.proof}"


def _table(title: str, mutants: Sequence[Mutant]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield "| fault | how an export comes by it | model | types | lengths | seen at |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for mutant in mutants:
        yield (
            f"| {mutant.name} | {mutant.story} | {mutant.kind} | {', '.join(mutant.dtypes)} "
            f"| {', '.join(map(str, mutant.lengths)) or '-'} | {', '.join(mutant.seen_at)} |"
        )
    yield ""
