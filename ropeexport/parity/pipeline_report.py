"""What a pipeline was found to be, as a part of a parity report and as files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ropeexport import atomic
from ropeexport.parity import report as reports
from ropeexport.parity.records import (
    FILE_NAME,
    PictureRecord,
    PipelineRecord,
    Report,
    RuntimeRecord,
    Verdict,
)
from ropeexport.parity.running import runtime_record, status_of
from ropeexport.runners.registry import EAGER
from ropeexport.runners.runner import Facts

FOLDER = "pipeline"  # beside parity.json: where the pictures lie


def write(folder: Path, report: Report, pictures: Mapping[str, bytes]) -> None:
    """Write a report and its pictures in place of a former run's, all or none."""
    if not pictures:
        reports.write(folder, report)
        return
    with atomic.together(folder, last=FILE_NAME) as files:
        reports.write(files.place, report)
        names = {f"{FOLDER}/{name}": data for name, data in pictures.items()}
        former = (path.name for path in (folder / FOLDER).glob("[0-9]*-*.png"))
        files.dropped += sorted({f"{FOLDER}/{name}" for name in former} - names.keys())
        (files.place / FOLDER).mkdir()
        for name, data in names.items():
            (files.place / name).write_bytes(data)


@dataclass(frozen=True)
class Found:
    """What a pipeline was found to be.

    Parameters
    ----------
    record : PipelineRecord
        Its calls.
    facts : mapping
        Of eager and of each runtime, by name.
    files : mapping
        Pictures by name.
    not_repeatable : str
        Why eager itself gives another picture each time; empty: it does not.
    """

    record: PipelineRecord
    facts: Mapping[str, Facts]
    files: Mapping[str, bytes] = field(default_factory=dict)
    not_repeatable: str = ""

    def joined(self, report: Report) -> Report:
        """Return a report with the pipeline in it; PASS where both are."""
        verdict, reason = self._verdict()
        if report.comparisons:
            both = (report.verdict, verdict)
            reason = "; ".join(filter(None, (report.reason, reason)))
            verdict = "FAIL" if "FAIL" in both else "PASS"
        runtimes = {runtime.name: runtime for runtime in report.runtimes}
        runtimes |= {name: self._runtime(name, runtimes.get(name)) for name in self.facts}
        return report.changed(
            verdict=verdict, reason=reason, pipeline=self.record, runtimes=tuple(runtimes.values())
        )

    def _runtime(self, name: str, known: RuntimeRecord | None) -> RuntimeRecord:
        """Return the record of a runtime over the pictures and what was compared before."""
        mine = [each for each in self.record.pictures if each.runtime == name]
        if name == EAGER and self.not_repeatable:
            mine.append(PictureRecord(runtime=name, status="FAIL", reason=self.not_repeatable))
        of_all: list[PictureRecord | RuntimeRecord] = [*mine, *([known] if known else [])]
        status = status_of(of_all)
        fits = (each.reason for each in of_all if each.status == status)
        reason = "" if status in ("PASS", "EMULATED") else next(fits, "no call was run")
        return runtime_record(name, self.facts[name], status, reason)

    def _verdict(self) -> tuple[Verdict, str]:
        made = self.record.pictures
        failed = [picture for picture in made if picture.status == "FAIL"]
        if self.not_repeatable:
            return "FAIL", self.not_repeatable
        if failed:
            runtimes = ", ".join(dict.fromkeys(picture.runtime for picture in failed))
            judged = [each for each in made if each.runtime != EAGER or EAGER in runtimes]
            many = f"{len(failed)} of {len(judged)} pictures of {self.record.pipeline} failed"
            return "FAIL", f"{runtimes}: {many}, the first: {failed[0].reason}"
        if not any(each.status == "PASS" and each.runtime != EAGER for each in made):
            return "FAIL", f"{self.record.pipeline}: no runtime besides eager torch made a picture"
        return "PASS", ""
