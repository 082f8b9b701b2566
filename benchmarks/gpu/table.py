"""The result as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Rows = Sequence[Sequence[str]]


def lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that a run ends with."""
    origin = document["commit"] or "an unknown commit"
    yield f"{document['gpu']}, driver {document['driver']}, {document['date']}, {origin}"
    yield ""
    verdicts = document["verdicts"]
    yield from aligned([[n, v["verdict"], v["reason"]] for n, v in verdicts.items()])
    for title, rows in (
        ("exactness", [_check(c) for c in document["exactness"]]),
        ("sanitizer", [_check(c) for c in document["sanitizer_checks"]]),
        ("engines", [_engine(e) for e in document["engines"]]),
    ):
        if rows:
            yield from ("", title, *aligned(rows))
    for entry in document["bench"]:
        yield from ("", _title(entry), *aligned([_HEADER, *map(_contender, entry["contenders"])]))
    if document["targets"]:
        yield from ("", "targets", *aligned([_target(t) for t in document["targets"]]))


def aligned(rows: Rows) -> Iterator[str]:
    """Yield rows with their columns one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()


_HEADER = ("contender", "us", "spread", "GB/s", "of a copy", "over ours", "on equal bytes", "")


def _check(check: dict[str, Any]) -> list[str]:
    return [check["name"], check["verdict"], str(check["cases"]), check["reason"]]


def _engine(record: dict[str, Any]) -> list[str]:
    name = " ".join(record[key] for key in ("flavour", "implementation", "dtype"))
    return [name, record["stage"], record["verdict"], record["message"]]


def _title(entry: dict[str, Any]) -> str:
    shape = entry["shape"]
    sizes = "B={batch} H={q_heads}/{k_heads} L={length} D={head_size}".format(**shape)
    megabytes = entry["moved_bytes"] / 1e6
    name = f"{shape['name']} {entry['dtype']}, {entry['group']}"
    return f"{name}: {sizes}, {megabytes:.1f} MB, {entry['sets']} sets"


def _contender(record: dict[str, Any]) -> list[str]:
    if "time_us" not in record:
        return [record["name"], *[""] * 6, f"{record['status']}: {record['reason']}"]
    share, ratio, equal_bytes = (record[key] for key in ("copy_share", "ratio", "equal_bytes"))
    return [
        record["name"],
        f"{record['time_us']:.2f}",
        f"{record['spread']:.1%}",
        f"{record['moved_bytes'] / record['time_us'] / 1e3:.0f}",
        "" if share is None else f"{share:.1%}",
        "" if ratio is None else f"{ratio:.2f}",
        "" if equal_bytes is None else f"{equal_bytes:.2f}",
        "",
    ]


def _target(target: dict[str, Any]) -> list[str]:
    measured = target["measured"]
    met = {True: "met", False: "NOT MET", None: "not measured"}[target["met"]]
    got = "" if measured is None else f"{measured:.3f}"
    return [target["name"], f"at least {target['goal']:g}", got, target["where"], met]
