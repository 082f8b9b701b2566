"""Reports made by hand, with as many cases and failures as a test wants."""

from __future__ import annotations

import numpy as np

from ropeexport.parity.records import (
    BoundRecord,
    CaseRecord,
    Comparison,
    Environment,
    HeatMap,
    Numbers,
    PositionBin,
    Report,
    RuntimeRecord,
    SurveyRecord,
    WorstRecord,
)
from ropeexport.parity.survey import SHARE_BINS

NASTY = "a|b <script>alert(1)</script> & *c* \x1b[31m"
KINDS = ("flux positions", "random rotations", "random matrices")
BOUND = 1e-2


def report(cases: int = 3, failed: int = 0, **changes: object) -> Report:
    """Return a report of two runtimes that ran and one that did not."""
    comparisons = [
        comparison(runtime, number, fails=runtime == "onnxruntime" and number < failed)
        for number in range(cases)
        for runtime in ("eager", "onnxruntime")
    ]
    absent = Comparison(
        runtime="tensorrt", implementation="", output="out", case=None, status="SKIPPED",
        reason="no NVIDIA GPU",
    )  # fmt: skip
    values = {
        "verdict": "FAIL" if failed else "PASS",
        "reason": f"onnxruntime: {failed} of {2 * cases + 1} comparisons failed" if failed else "",
        "model": "model.onnx",
        "model_sha256": "0123456789abcdef",
        "dtype": "fp16",
        "source": "flux-attention",
        "seed": 0,
        "command": "ropeexport check out --seed 0",
        "lengths": ("length",),
        "environment": Environment(
            ropeexport="0.1.0", python="3.11", platform="Linux", machine="x86_64", packages={}
        ),
        "runtimes": (
            runtime("eager", "PASS"),
            runtime("onnxruntime", "FAIL" if failed else "PASS"),
            runtime("tensorrt", "SKIPPED", "no NVIDIA GPU"),
        ),
        "comparisons": (*comparisons, absent),
        "surveys": (survey("eager"), survey("onnxruntime", broken=failed > 0)),
    }
    return Report(**{**values, **changes})


def runtime(name: str, status: str, reason: str = "") -> RuntimeRecord:
    return RuntimeRecord(
        name=name, implementation="", version="1.0", device="cpu", status=status, reason=reason
    )


def comparison(runtime: str, number: int, fails: bool = False) -> Comparison:
    error = BOUND * (30.0 if fails else 0.1 + 0.8 * (number % 97) / 97)
    length = 1 + number % 1000
    kind = KINDS[number % 3]
    return Comparison(
        runtime=runtime,
        implementation="function body",
        output="out",
        case=CaseRecord(
            name=f"{kind} batch=1,length={length} #{number}",
            kind=kind,
            sizes={"batch": 1, "length": length},
            seed=number,
        ),
        status="FAIL" if fails else "PASS",
        reason=f"largest error {error:.3g}, bound {BOUND}; {NASTY}" if fails else "",
        numbers=Numbers(
            elements=64, max_abs=error, max_rel=1.0, max_ulps=9.0, ulps_at_rms=3.0, rms=error / 9,
            relative_l2=1e-4, cosine=0.999, worst=WorstRecord(index=(0, 1), got=None, expected=0.5),
        ),
        bound=BoundRecord(max_abs=BOUND, rms=BOUND, rule="rounding", rtol=0.0),
    )  # fmt: skip


def survey(runtime: str, broken: bool = False) -> SurveyRecord:
    rng = np.random.default_rng(0)
    cells = rng.uniform(0, 0.5, (48, 96)).round(4)
    rows = [[None if broken and i == j else c for j, c in enumerate(row)]
            for i, row in enumerate(cells.tolist())]  # fmt: skip
    return SurveyRecord(
        runtime=runtime,
        output="out",
        shares=tuple(range(SHARE_BINS)),
        positions=tuple(
            PositionBin(first=n, elements=5, rms=0.1, largest=None if broken and n == 3 else 0.4)
            for n in range(20)
        ),
        worst=HeatMap(case="random matrices #1", length=64, heads=1, inner=3072, rows=rows),
    )


HOSTILE = {
    "escapes": "\x1b[2J\x1b]0;title\x07\x9b31m\x7f\x00",
    "direction": "\u202egpj\u2066\u200b\ufeff",
    "lines": "a\nPASS: all\r\n## b\u2028c",
    "half a character": "\udcff\ud800",
    "no character": "\ufffe\uffff",
    "rich": "[/y][bold][link=https://a.b]c[/link]:smile:",
    "markdown": "```\n~~~ **b** _i_ ~~s~~ `c` | d | <img src=x> ![p](q) [l](m) <!-- &lt; \\",
    "github": "@all org/repo#1 #12 https://evil.example www.evil.example :smile:",
    "line starts": "# h\n- i\n1. j\n> k\n===",
    "formula": "$x^{2$ $\\frac$",
    "html": "</style></svg><script>alert(1)</script>\" onload='x' {{ 7*7 }}",
    "other letters": "é✓😀中文 עברית",
    "long": "n" * 1_000_000,
}


def with_texts(one: Report, text: str) -> Report:
    """Return a report whose every free text, name and key begins with a text."""

    def changed(value: object, field: str = "") -> object:
        if isinstance(value, str):
            return value if field in ("verdict", "status") else text + value
        if isinstance(value, dict):
            keep = field not in ("sizes", "packages")
            return {key if keep else text + key: changed(x, key) for key, x in value.items()}
        if isinstance(value, list | tuple):
            return [changed(x, field) for x in value]
        return value

    return Report.model_validate(changed(one.model_dump()))
