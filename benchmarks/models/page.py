"""``docs/models.md``: the table of the records, what is not as it should be, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.models import records
from benchmarks.models.causes import cause_of
from benchmarks.models.records import OTHER_RELEASES, Parity, Record
from ropeexport import atomic

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_HEAD = """# Models

Written by `python -m benchmarks.models` (`pip install 'ropeexport[cpu,models]'`), from one record
for each class in `benchmarks/results/models`. `python -m benchmarks.models --discover` lists the
classes with RoPE of the libraries that are installed, and `--only CLASS` makes the record of one.
A class has its library's default config, made small (`benchmarks/models/small.py`), and random
weights; it is exported in float32 and in float16 with `ropeexport export LIBRARY:CLASS --config
DIR`. `ropeexport check` holds onnxruntime to the bound of [parity.md](parity.md), against a
float64 oracle, in the ten cases that tell most for their cost, nearly all at sizes other than
those of the trace: below is the largest share of the bound that was used, and in brackets eager
torch's. *FAIL* with eager alone beyond it is no fault of the file's. Engines are built of the
float16 file.

An application is one q/k pair, or one tensor rotated alone. *Norms* are the rotary ops behind a
norm of q and k that are one op with it (`--fuse norm-rope`, in the float16 file), of all behind
one; a question mark where the record is older. *Dynamic* are the axes that the file
leaves open; *constant* those that it keeps as they were traced though a user may wish otherwise.
"""
_COLUMNS = (
    "class", "found", "replaced", "norms", "dynamic", "constant", "fp32", "fp16", "native",
    "plugin",
)  # fmt: skip


_ELSEWHERE = """
## Of other releases

Twenty classes, drawn with seed 0 from the forty of transformers 5.24.0 and diffusers 0.41.0 that
nobody had tried: those without a record, a cause or a test on the day of the draw. None was drawn
again. `PYTHONPATH=RELEASE python -m benchmarks.models --into {folder} --only CLASS`, of releases
that `pip install --no-deps --target RELEASE` brought.
"""


def write_page() -> None:
    """Write the page of all records that there are."""
    atomic.write_text(PAGE, page(records.read().values(), records.read(OTHER_RELEASES).values()))


def page(made: Iterable[Record], elsewhere: Iterable[Record] = ()) -> str:
    """Return the page of some records, and of those of other releases."""
    own, others = (sorted(x, key=lambda record: record.model) for x in (made, elsewhere))
    run, run_of_others = ([x for x in each if not x.eager and x.rotates] for each in (own, others))
    lines = [_HEAD, *_summary(own, run), *_table(run), *_faults(run), *_others(own)]
    if others:
        folder = OTHER_RELEASES.relative_to(PAGE.parents[1])
        lines += [
            _ELSEWHERE.format(folder=folder),
            *_summary(others, run_of_others),
            *_table(run_of_others),
        ]
        lines += [f"- {each.name}: {each.eager or each.fault()}" for each in others
                  if each.eager or each.fault()]  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def _summary(made: Sequence[Record], run: Sequence[Record]) -> Iterator[str]:
    single = [record for record in run if record.is_good_in_float32]
    both = sum(record.is_good for record in single)
    unstable = sum(record.fp16.is_unstable for record in single)
    counts = [
        f"{count} ({count / max(len(run), 1):.1%})" for count in (len(single), both, unstable)
    ]
    yield (
        f"Of {len(made)} classes that were tried, eager torch runs {len(run)} with a rotation. Of "
        f"these, {counts[0]} are exported with dynamic axes, every application replaced, in parity "
        f"in float32; {counts[1]} are so in float16 too, and of {counts[2]} eager torch itself is "
        "beyond the bound in float16.\n"
    )
    origins = Counter(map(_origin, made))
    yield from (f"- {count} records: {origin}." for origin, count in origins.most_common())
    yield ""


def _origin(record: Record) -> str:
    commit = str(record.measured.get("commit") or "unknown")[:12]
    changed = " with changes" if record.measured.get("changed") else ""
    packages = ", ".join(f"{name} {version}" for name, version in record.key.packages.items())
    return f"commit {commit}{changed}, {record.measured.get('date', 'no date')}, {packages}"


def _table(records: Sequence[Record]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"| {' | '.join(['---'] * len(_COLUMNS))} |"
    for record in records:
        cells = (
            record.model, record.found, record.replaced, _norms(record), ", ".join(record.dynamic),
            ", ".join(record.constant), _parity(record.fp32), _parity(record.fp16),
            _built(record.native), _built(record.plugin),
        )  # fmt: skip
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _norms(record: Record) -> str:
    if record.norms is None:
        return "?"
    found, replaced = record.norms
    return f"{replaced} of {found}" if found else ""


def _parity(parity: Parity) -> str:
    if parity.share is None or parity.eager is None:
        return "not exported" if parity.fault else ""
    return f"{parity.verdict} {parity.share:.0%} ({parity.eager:.0%})"


def _built(engine: str) -> str:
    """Return what computes the ropes of an engine, or what kind of error it was."""
    version, _, rest = engine.partition(": ")
    return rest if version[:1].isdigit() else version


def _faults(records: Sequence[Record]) -> Iterator[str]:
    """Yield what is not as it should be: by its cause, where that is known."""
    causes, others = defaultdict[str, list[str]](list), []
    for record in records:
        cause = cause_of(record)
        if cause is not None:
            causes[cause.text].append(record.name)
        elif record.fault():
            others.append(f"- {record.name}: {record.fault()}")
    if causes:
        yield "\n## Faults with a known cause\n"
        yield from (f"- {', '.join(names)}: {text}." for text, names in causes.items())
    if others:
        yield "\n## Faults without a known cause\n"
        yield from others


def _others(records: Sequence[Record]) -> Iterator[str]:
    still = [record.name for record in records if not record.rotates]
    if still:
        yield "\n## What rotates nothing with its library's default config\n"
        yield f"{', '.join(still)}."
    not_run = [f"- {record.name}: {record.eager}" for record in records if record.eager]
    if not_run:
        yield "\n## What eager torch does not run with such a config, in its own words\n"
        yield from not_run
    yield ""
