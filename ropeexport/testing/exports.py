"""``assert_export_parity``: what ``ropeexport check`` proves, as an assertion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport.errors import UsageError
from ropeexport.testing import log

if TYPE_CHECKING:
    from ropeexport.models.sources import Module
    from ropeexport.parity.records import Comparison, Report

_MOST_LINES = 5


def assert_export_parity(  # noqa: PLR0913  (the options of `ropeexport check`)
    path: str | Path,
    candidate: str | Path | None = None,
    *,
    module: Module | None = None,
    cases: int | None = None,
    lengths: int | Sequence[int] = (),
    seed: int = 0,
    atol: float | None = None,
    rtol: float | None = None,
    tokens: int | None = None,
    require: str | Sequence[str] = (),
    trust: bool | str | Path = False,
    trust_remote_code: bool = False,
) -> Report:
    """Assert that every runtime of an export is within its bounds in every case.

    Parameters
    ----------
    path : path
        An output folder of ``ropeexport export``; with ``candidate``, also an ONNX file.
    candidate : path
        An ONNX file, or an ``.npz`` of saved inputs and outputs, to compare with ``path`` instead;
        this needs no torch.
    module : nn.Module, Example, callable or str
        Where the model is the user's own code: the module, or a factory or its reference
        (``FILE.py:NAME``), see :func:`ropeexport.check`.
    cases, lengths, seed, atol, rtol, tokens
        As for ``ropeexport check``.
    require : str or sequence of str
        Runtimes that must have run, by the names of ``ropeexport check --require``; one that could
        not run is otherwise SKIPPED, which the summary of the pytest plugin says.
    trust, trust_remote_code
        As for :func:`ropeexport.check`.

    Returns
    -------
    Report
        For a test that asserts more.

    Raises
    ------
    AssertionError
        With the first failures and the command that makes the report again.
    RopeExportError
        Where no run can be set up.
    """
    from ropeexport.artifact import Artifact, Trust
    from ropeexport.parity.check import Options, check, check_files
    from ropeexport.parity.options import several

    if candidate is not None and require:
        raise UsageError(
            "require: not for a comparison of files, which names its runtime itself", code="RX108"
        )
    options = Options(
        seed=seed, count=cases, lengths=several("lengths", lengths, int), atol=atol, rtol=rtol,
        tokens=tokens, required=several("require", require, str),
    )  # fmt: skip
    if candidate is not None:
        report = check_files(Path(path), Path(candidate), options)
    else:
        trusted = Trust.of(trust, trust_remote_code)
        report = check(Artifact.read(Path(path), trusted), module, options)
    log.add(*_notes(report))
    absent = [r for r in report.runtimes if r.name in options.required and r.status == "SKIPPED"]
    problems = [f"{r.name} was required: SKIPPED: {r.reason}" for r in absent]
    if report.verdict != "PASS":
        problems = [report.reason, *_failures(report), *problems]
    if problems:
        raise AssertionError("\n".join([*problems, f"again: {report.command}"]))
    return report


def _notes(report: Report) -> list[log.Note]:
    ran: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in report.comparisons:
        ran.setdefault((comparison.runtime, comparison.output), []).append(comparison)
    return [_note(f"{runtime} {output}", found) for (runtime, output), found in ran.items()]


def _note(name: str, found: list[Comparison]) -> log.Note:
    """Return the note of one output of one runtime: its worst case."""
    from ropeexport.parity.running import status_of

    status = status_of(found)
    first = next(c for c in found if c.status == status)
    shares = [c.share for c in found]
    share = max(shares)
    if first.reason and status not in ("PASS", "EMULATED"):
        return log.Note(name, status, share, first.reason)
    worst = found[shares.index(share)]
    where = f", worst in {worst.case.name!r}" if worst.case else ""
    return log.Note(name, status, share, f"{len(found)} cases{where}")


def _failures(report: Report) -> list[str]:
    failed = [c for c in report.comparisons if c.status == "FAIL"]
    lines = [
        f"{c.runtime} {c.output}, {c.case.name if c.case else '-'}: {c.reason}"
        for c in failed[:_MOST_LINES]
    ]
    more = len(failed) - len(lines)
    return [*lines, f"and {more} more"] if more > 0 else lines
