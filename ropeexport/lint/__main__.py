"""``python -m ropeexport.lint > docs/lint.md``: the page of rules, from the rules themselves."""

from __future__ import annotations

from ropeexport.lint.lint import RULES

_HEAD = """# Lint

`ropeexport inspect PATH --lint` holds a file to these rules; PATH is an output folder, an engine
with its manifest, or any ONNX file of any opset, whoever exported it. It exits with 1 where there
is an error. An error is a wrong or unsafe result, or a runtime that refuses the file; a warning is
slower than it need be, or a limit that surprises; a note says what ran.

| rule | severity | what it finds | the mend |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return the page as Markdown."""
    rows = (f"| `{r.name}` | {r.severity} | {r.text} | {r.mend} |\n" for r in RULES)
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
