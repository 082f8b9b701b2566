"""Proof in pictures: a pipeline with the export in its component's place, held to the one without.

Each call is run with the same seed: as it is, with the component in float64, and with the export in
each runtime.  And once with an export that applies no rope: where that passes too, the call proves
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.errors import MissingError, RopeExportError, first_line
from ropeexport.machine import require
from ropeexport.models.pipelines import Adapt, Pipeline, subject_of
from ropeexport.onnx_files.variants import without_ropes
from ropeexport.parity import pixels as pictures
from ropeexport.parity.contenders import Contender, open_contenders
from ropeexport.parity.options import Options
from ropeexport.parity.pipeline_judge import Held, Standard, standard_of
from ropeexport.parity.pipeline_oracle import PipelineOracle
from ropeexport.parity.pipeline_report import FOLDER, Found
from ropeexport.parity.pipeline_runs import Shot, Studio
from ropeexport.parity.records import CallRecord, PictureRecord, PipelineRecord, Status
from ropeexport.parity.running import Listener
from ropeexport.runners.registry import EAGER, choices, names
from ropeexport.runners.runner import Facts

# a runtime that was entered, the component whose place it takes, and what adapts its arguments
Replace = Callable[[Contender, nn.Module, Adapt | None], nn.Module]

WITHOUT = "without rope"
_FILES = ("onnxruntime", "openvino")  # what runs a file that was made for the moment


def check_pipeline(
    artifact: Artifact,
    pipeline: Pipeline,
    options: Options,
    listener: Listener,
    replace: Replace,
) -> Found:
    """Hold every runtime of an output folder to eager, in a pipeline.

    Parameters
    ----------
    artifact : Artifact
        The output folder.
    pipeline : str, callable or tuple
        See :func:`ropeexport.models.pipelines.subject_of`; it is left as it was.
    options : Options
        Seed, runtimes, a bound of the user's own for the latents.
    listener : Listener
        Told of each stage and call.
    replace : callable
        Makes of a runtime what takes the component's place.

    Raises
    ------
    RopeExportError
        Where the pipeline is none, or fails by itself.
    """
    require("PIL")
    subject = subject_of(pipeline, artifact.manifest.source.name)
    studio, total = Studio(subject, options.seed), len(subject.calls)
    listener.stage(FOLDER, f"{studio.name} with another {studio.component}, {total} calls")
    record = PipelineRecord(pipeline=studio.name, component=studio.component)
    with ExitStack() as stack:
        contenders = open_contenders(artifact, stack, choices(options.runtimes, options.required))
        facts = {EAGER: Facts(torch.__version__, (EAGER,), device=studio.device)}
        for each in contenders:
            facts[each.name], ran = each.facts, each.runner is not None
            text = each.facts.made_of if ran else f"{each.status}: {each.reason}"
            listener.stage(each.name, text, ok=ran)
        faulted = stack.enter_context(_opened_without_rope(artifact, studio.device))
        oracle = PipelineOracle(studio)
        files: dict[str, bytes] = {}
        for number, call in enumerate(subject.calls, 1):
            name = f"call {number}"
            listener.case(number - 1, total, name)
            shot, seen, change = studio.shoot_eager(call, name)
            if change:
                return Found(record, facts, files, f"{EAGER} is no function of its {change}")
            truth = oracle.truth(call, seen, options.seed)
            standard = standard_of(shot, seen, truth, oracle.widest, options.override)
            hearing = _Hearing(studio, replace, standard, call, number, seen.calls)
            done = hearing.hear(contenders, faulted)
            files |= hearing.files
            record = record.changed(
                calls=(*record.calls, done), pixels_decide=standard.pixels_decide
            )
        listener.case(total, total, "")
    return Found(record, facts, files)


@contextmanager
def _opened_without_rope(artifact: Artifact, device: str) -> Iterator[Contender]:
    """Have the export with no rope applied, in the first runtime that runs its file there."""
    folder, model = artifact.folder, without_ropes(artifact.file.graph)
    if model is artifact.file.graph:
        yield Contender(WITHOUT, reason=f"{artifact.manifest.model.file} applies none")
        return
    # beside the weights that it refers to
    with atomic.claimed(folder, "without-rope", ".onnx") as path:
        path.write_bytes(ir.to_proto(model).SerializeToString())
        named = artifact.manifest.model.changed(file=path.name)
        with ExitStack() as stack:
            variant, opened = artifact.updated(model=named), []
            there = [name for name in names() if name == f"onnxruntime:{device}"]
            for choice in choices((*there, *_FILES)):
                opened += open_contenders(variant, stack, [choice])
                if opened[-1].runner is not None and opened[-1].facts.device == device:
                    break
            yield opened[-1]


@dataclass
class _Hearing:
    """One call: each runtime in turn takes the component's place, and is held to the standard."""

    studio: Studio
    replace: Replace
    standard: Standard
    call: Mapping[str, Any]
    number: int
    calls: int  # of the component, in one of the pipeline
    files: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sheet = pictures.sheet(self.standard.eager.pixels)

    def hear(self, contenders: Sequence[Contender], faulted: Contender) -> CallRecord:
        """Return the record of the call."""
        without, unproven = self._without_rope(faulted)
        own = self.standard.hold_eager()
        eager = own.record.changed(runtime=EAGER, reason=own.latents)
        return CallRecord(
            name=f"call {self.number}",
            arguments=", ".join(f"{name}={value!r}" for name, value in self.call.items()),
            picture=self._file(EAGER, self.sheet),
            pictures=(eager, *(self._hear(each, unproven) for each in contenders)),
            without_rope=without,
        )

    def _without_rope(self, faulted: Contender) -> tuple[PictureRecord, str]:
        """Return what becomes of the picture without rope, and why the call proves nothing."""
        shot = self._shoot(faulted)
        if isinstance(shot, PictureRecord):
            unknown = f"nothing is proven: without the rope there is no picture: {shot.reason}"
            return shot.changed(runtime=WITHOUT), unknown
        held = self.standard.hold(shot)
        reason = "; ".join(filter(None, (held.latents, held.pixels)))
        return held.record.changed(runtime=WITHOUT, reason=reason), self.standard.unproven_by(held)

    def _hear(self, contender: Contender, unproven: str) -> PictureRecord:
        shot = self._shoot(contender)
        if isinstance(shot, PictureRecord):
            return shot
        held = self.standard.hold(shot)
        broken = self.standard.broken_by(held) or unproven
        passed: Status = "EMULATED" if contender.facts.emulated else "PASS"
        return self._shown(held, contender.name, shot).changed(
            runtime=contender.name, status="FAIL" if broken else passed, reason=broken
        )

    def _shoot(self, contender: Contender) -> Shot | PictureRecord:
        """Run the pipeline with a runtime, or say why it gives no picture."""
        missing = PictureRecord(
            runtime=contender.name, status=contender.status, reason=contender.reason
        )
        if contender.runner is None:
            return missing
        own, its = self.studio.device, contender.facts.device
        if own != its:
            return missing.changed(reason=f"it computes on {its}, and {self.studio.name} on {own}")
        try:
            module = self.replace(contender, self.studio.eager, self.studio.subject.adapt)
            return self.studio.shoot_with(module, self.call, self.calls)
        except MissingError as error:
            return missing.changed(reason=str(error))
        except RopeExportError as error:
            return missing.changed(status="FAIL", reason=str(error))
        except Exception as error:  # the pipeline's code, with a component that it does not know
            text = f"{self.studio.name} failed with it: {type(error).__name__}: {first_line(error)}"
            return missing.changed(status="FAIL", reason=text)

    def _shown(self, held: Held, who: str, shot: Shot) -> PictureRecord:
        """Return the record with its pictures, where they can lie beside eager's."""
        if held.record.pixels is None:
            return held.record
        sheet = pictures.sheet(shot.pixels)
        apart, scale = pictures.difference(sheet, self.sheet)
        return held.record.changed(
            picture=self._file(who, sheet),
            difference=self._file(f"{who}-difference", apart),
            scale=scale,
        )

    def _file(self, who: str, picture: pictures.Picture) -> str:
        name = f"{self.number}-{who.replace(':', '-').lower()}.png"
        self.files[name] = pictures.png(picture)
        return name
