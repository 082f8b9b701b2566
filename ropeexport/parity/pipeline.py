"""Proof in pictures: a pipeline with the export in its component's place, held to the one without.

Each call is run with the same seed: as it is, with the component in float64, and with the export in
each runtime.  The last latents are held to the bound of :mod:`ropeexport.parity.tolerance`, all of
whose yardsticks are measured at the end of the pipeline; the picture is held to eager's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from ropeexport.artifact import Artifact
from ropeexport.dtypes import SINGLE
from ropeexport.errors import MissingError, RopeExportError, first_line
from ropeexport.machine import require
from ropeexport.onnx_files.variants import without_ropes
from ropeexport.parity import pixels as pictures
from ropeexport.parity import tolerance
from ropeexport.parity.compare import compare
from ropeexport.parity.contenders import Contender, open_contenders
from ropeexport.parity.options import Options
from ropeexport.parity.pipeline_report import FOLDER, Found
from ropeexport.parity.pipeline_runs import (
    LATENTS,
    PIXELS,
    Pipeline,
    PipelineOracle,
    Seen,
    Shot,
    Studio,
    studio_of,
)
from ropeexport.parity.records import (
    BoundRecord,
    CallRecord,
    PictureRecord,
    PipelineRecord,
    PixelsRecord,
    Status,
    numbers_of,
)
from ropeexport.parity.references import Truth
from ropeexport.parity.running import Listener
from ropeexport.parity.tolerance import Bound, Size, Yardstick
from ropeexport.runners.registry import EAGER, choices
from ropeexport.runners.runner import Facts

# a runtime that was entered, and the component whose place it takes, to a module for that place
Replace = Callable[[Contender, nn.Module], nn.Module]
T = TypeVar("T")

WITHOUT = "without rope"
_FILES = ("onnxruntime", "openvino")  # what can run a file that was made for the moment
_NOTHING = "the picture does not depend on the rope, and nothing would be proven: "


@dataclass
class _Album:
    """The pictures of a run."""

    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, call: int, who: str, picture: pictures.Picture) -> str:
        name = f"{call}-{who.replace(':', '-').replace(' ', '-').lower()}.png"
        self.files[name] = pictures.png(picture)
        return name


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
        See :func:`ropeexport.parity.pipeline_runs.studio_of`; it is left as it was.
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
    studio, calls = studio_of(pipeline, artifact.manifest.source.name, options.seed)
    listener.stage(FOLDER, f"{studio.name} with another {studio.component}, {len(calls)} calls")
    record = PipelineRecord(pipeline=studio.name, component=studio.component)
    eager = Facts(torch.__version__, (EAGER,), device=_device_of(studio.eager))
    album, done = _Album(), []
    with ExitStack() as stack:
        contenders = open_contenders(artifact, stack, choices(options.runtimes, options.required))
        facts = {EAGER: eager, **{each.name: each.facts for each in contenders}}
        absent = [
            PictureRecord(runtime=each.name, status=each.status, reason=each.reason)
            for each in contenders
            if each.runner is None
        ]
        for each in contenders:
            ran = each.runner is not None
            text = each.facts.made_of if ran else f"{each.status}: {each.reason}"
            listener.stage(each.name, text, ok=ran)
        faulted = stack.enter_context(_opened_without_rope(artifact))
        oracle = PipelineOracle(studio)
        for number, call in enumerate(calls, 1):
            name = f"call {number}"
            listener.case(number - 1, len(calls), name)
            shot, seen, change = studio.shoot_eager(call, name)
            if change:
                return Found(
                    record, facts, absent, {}, f"{EAGER} is no function of its seed: {change}"
                )
            hearing = _Hearing(studio, call, number, shot, seen, oracle, options, album)
            done.append(hearing.hear(contenders, faulted, replace))
            decide = hearing.pixels_decide
        listener.case(len(calls), len(calls), "")
    return Found(
        record.changed(calls=tuple(done), pixels_decide=decide), facts, absent, album.files
    )


def _device_of(module: nn.Module) -> str:
    return next((x.device.type for x in module.parameters()), "cpu")


@contextmanager
def _opened_without_rope(artifact: Artifact) -> Iterator[Contender]:
    """Have the export with no rope applied, in the first runtime that runs its file."""
    folder, model = artifact.folder, without_ropes(artifact.file.graph)
    if model is artifact.file.graph:
        yield Contender(WITHOUT, reason=f"{artifact.manifest.model.file} applies none")
        return
    # beside the weights that it refers to
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".without-rope.", suffix=".onnx") as file:
        file.write(ir.to_proto(model).SerializeToString())
        file.flush()
        named = artifact.manifest.model.changed(file=Path(file.name).name)
        variant = artifact.updated(model=named)
        with ExitStack() as stack:
            opened = open_contenders(variant, stack, choices(_FILES))
            yield next((each for each in opened if each.runner is not None), opened[0])


@dataclass
class _Hearing:
    """One call, to whose eager result and truth one runtime after the other is held."""

    studio: Studio
    call: Mapping[str, Any]
    number: int
    eager: Shot
    seen: Seen
    oracle: PipelineOracle
    options: Options
    album: _Album

    def __post_init__(self) -> None:
        truth = self.oracle.truth(self.call, self.seen, self.options.seed)
        self.truth = truth
        self.sheet = pictures.sheet(self.eager.pixels)
        self.range = pictures.contrast(truth.outputs[PIXELS])
        latents = self._yardstick(LATENTS, str(self.eager.latents.dtype), truth.sizes[LATENTS])
        self.eager_bound = self.options.override or tolerance.eager_bound(latents)
        self.latents = self.options.override or self._bound(latents, LATENTS)
        pixels = self._yardstick(PIXELS, str(self.eager.pixels.dtype), self.range)
        self.pixels = self._bound(pixels, PIXELS)

    @property
    def pixels_decide(self) -> bool:
        """Whether a picture must be eager's: where all that is rounded is rounded to float32."""
        return self.seen.roundoff <= SINGLE.unit_roundoff

    def hear(
        self, contenders: Sequence[Contender], faulted: Contender, replace: Replace
    ) -> CallRecord:
        """Return the record of the call."""
        without, why = self._without(faulted, replace)
        heard = [self._eager()]
        heard += [self._hear(each, replace, why) for each in contenders if each.runner is not None]
        return CallRecord(
            name=f"call {self.number}",
            arguments=", ".join(f"{name}={value!r}" for name, value in self.call.items()),
            picture=self.album.add(self.number, EAGER, self.sheet),
            pictures=tuple(heard),
            without_rope=without,
        )

    def _eager(self) -> PictureRecord:
        found, broken = self._hold_latents(self.eager, self.eager_bound)
        status: Status = "FAIL" if broken else "PASS"
        return found.changed(runtime=EAGER, status=status, reason=broken)

    def _without(self, faulted: Contender, replace: Replace) -> tuple[PictureRecord, str]:
        """Return what becomes of the picture without rope, and why that proves nothing."""
        absent = PictureRecord(runtime=WITHOUT, status="SKIPPED", reason=faulted.reason)
        if faulted.runner is None:
            return absent, _NOTHING + faulted.reason
        shot = self._shoot(faulted, replace)
        if isinstance(shot, PictureRecord):
            return shot.changed(runtime=WITHOUT), _NOTHING + shot.reason
        found, latents, pixels = self._hold(shot)
        departs = (
            ""
            if latents and (pixels or not self.pixels_decide)
            else "without it, "
            + ("the latents are within the bounds too" if not latents else "it is the same")
        )
        found = found.changed(runtime=WITHOUT, reason="; ".join(filter(None, (latents, pixels))))
        return found, _NOTHING + departs if departs else ""

    def _hear(self, contender: Contender, replace: Replace, why: str) -> PictureRecord:
        shot = self._shoot(contender, replace)
        if isinstance(shot, PictureRecord):
            return shot
        found, latents, pixels = self._hold(shot)
        broken = latents or (pixels if self.pixels_decide else "") or why
        passed: Status = "EMULATED" if contender.facts.emulated else "PASS"
        found = self._shown(found, contender.name, shot)
        return found.changed(
            runtime=contender.name,
            status="FAIL" if broken else passed,
            reason=broken or ("" if self.pixels_decide else pixels),
        )

    def _shoot(self, contender: Contender, replace: Replace) -> Shot | PictureRecord:
        """Run the pipeline with a runtime, or say why it gives no picture."""
        try:
            with self.studio.exchanged(replace(contender, self.studio.eager)):
                return self.studio.shoot(self.call)
        except MissingError as error:
            return PictureRecord(runtime=contender.name, status="SKIPPED", reason=str(error))
        except RopeExportError as error:
            return PictureRecord(runtime=contender.name, status="FAIL", reason=str(error))
        except Exception as error:  # the pipeline's code, with a component that it does not know
            text = f"{self.studio.name} failed with it: {type(error).__name__}: {first_line(error)}"
            return PictureRecord(runtime=contender.name, status="FAIL", reason=text)

    def _hold(self, shot: Shot) -> tuple[PictureRecord, str, str]:
        """Return what was measured, and what the latents and the pixels break."""
        found, latents = self._hold_latents(shot, self.latents)
        counted, pixels = self._hold_pixels(shot)
        return found.changed(pixels=counted), latents, pixels

    def _hold_latents(self, shot: Shot, bound: Bound) -> tuple[PictureRecord, str]:
        expected = self.truth.outputs[LATENTS]
        difference = compare(shot.latents, expected, str(self.eager.latents.dtype), bound.rtol)
        broken = bound.broken_by(difference) or bound.too_wide_for(self.truth.sizes[LATENTS])
        found = PictureRecord(
            runtime="",
            status="PASS",
            latents=numbers_of(difference),
            bound=BoundRecord.model_validate(bound, from_attributes=True),
        )
        return found, f"latents: {broken}" if broken else ""

    def _hold_pixels(self, shot: Shot) -> tuple[PixelsRecord | None, str]:
        got, eager, bound = shot.pixels, self.eager.pixels, self.pixels
        if got.shape != eager.shape:
            return None, f"pixels: expected {eager.shape}, got {got.shape}"
        if not np.isfinite(got).all():
            return None, "pixels: not finite"
        counted = pictures.count(got, eager, bound.max_abs)
        record = PixelsRecord.model_validate(
            {
                name: getattr(counted, name)
                for name in ("values", "differing", "allowed", "refused", "largest")
            }
            | {"bound": bound.max_abs}
        )
        if too_wide := bound.too_wide_for(self.range):
            return record, f"pixels: {too_wide}"
        if counted.refused:
            return record, (
                f"pixels: {counted.refused} of {counted.values} are not eager's, by up to "
                f"{counted.largest} of {pictures.LEVELS} levels"
            )
        return record, ""

    def _shown(self, found: PictureRecord, who: str, shot: Shot) -> PictureRecord:
        """Return the record with its pictures, where there are any beside eager's."""
        if found.pixels is None:
            return found
        sheet = pictures.sheet(shot.pixels)
        apart, scale = pictures.difference(sheet, self.sheet)
        return found.changed(
            picture=self.album.add(self.number, who, sheet),
            difference=self.album.add(self.number, f"{who}-difference", apart),
            scale=scale,
        )

    def _bound(self, yardstick: Yardstick, name: str) -> Bound:
        error = self.eager.exact[name] - self.truth.outputs[name]
        size = Size(float(np.sqrt(np.mean(error**2))), float(np.abs(error).max()))
        return tolerance.bound(yardstick.with_eager(size))

    def _yardstick(self, name: str, dtype: str, output: Size) -> Yardstick:
        truth: Truth = self.truth
        return Yardstick(
            dtype=dtype,
            working_roundoff=self.seen.roundoff,
            terms=max(self.oracle.widest, self.seen.longest),
            output=output,
            sensitivity=truth.sensitivity[name],
            data_rms=truth.data_rms,
            conversions=truth.conversions.get(name, Size(0.0, 0.0)),
        )
