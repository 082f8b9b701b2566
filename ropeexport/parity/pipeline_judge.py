"""What one call of a pipeline is held to: its latents to float64, its picture to eager's.

The yardsticks are those of every output, measured at the end of the pipeline; so is the bound made
of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from ropeexport.dtypes import SINGLE
from ropeexport.models.pipelines import LATENTS
from ropeexport.parity import pixels as pictures
from ropeexport.parity import tolerance
from ropeexport.parity.compare import compare
from ropeexport.parity.pipeline_runs import PIXELS, Seen, Shot
from ropeexport.parity.records import BoundRecord, PictureRecord, PixelsRecord, numbers_of
from ropeexport.parity.references import Truth
from ropeexport.parity.tolerance import Bound, Size, Yardstick

_NOTHING = "the picture does not depend on the rope, and nothing would be proven: without it, "


@dataclass(frozen=True)
class Held:
    """What was measured of a picture, and what its latents and its pixels break; empty: nothing."""

    record: PictureRecord
    latents: str = ""
    pixels: str = ""


@dataclass(frozen=True)
class Standard:
    """What the results of one call are held to.

    Parameters
    ----------
    eager : Shot
        The pipeline's own.
    truth : Truth
        With the component in float64.
    latents, eager_latents, pixels : Bound
        Of a runtime's latents, of eager's, and of the distance of a pixel to a rounding edge.
    contrast : Size
        Of the picture.
    pixels_decide : bool
        Whether the picture must be eager's, as in float32.
    """

    eager: Shot
    truth: Truth
    latents: Bound
    eager_latents: Bound
    pixels: Bound
    contrast: Size
    pixels_decide: bool

    def hold_eager(self) -> Held:
        """Hold eager's own latents to the float64 oracle."""
        return self._hold_latents(self.eager, self.eager_latents)

    def hold(self, shot: Shot) -> Held:
        """Hold a runtime's latents to the float64 oracle, and its picture to eager's."""
        held = self._hold_latents(shot, self.latents)
        counted, broken = self._hold_pixels(shot)
        return Held(held.record.changed(pixels=counted), held.latents, broken)

    def broken_by(self, held: Held) -> str:
        """Return what a runtime breaks by which it fails."""
        return held.latents or (held.pixels if self.pixels_decide else "")

    def unproven_by(self, without_rope: Held) -> str:
        """Return why a call proves nothing: what has no rope would pass too; empty: it would not.

        Either test alone would then let it pass.
        """
        if not without_rope.latents:
            return f"{_NOTHING}the latents are within the bound too"
        if self.pixels_decide and not without_rope.pixels:
            return f"{_NOTHING}every pixel is the same"
        return ""

    def _hold_latents(self, shot: Shot, bound: Bound) -> Held:
        expected, dtype = self.truth.outputs[LATENTS], str(self.eager.latents.dtype)
        difference = compare(shot.latents, expected, dtype, bound.rtol)
        broken = bound.broken_by(difference) or bound.too_wide_for(self.truth.sizes[LATENTS])
        record = PictureRecord(
            runtime="",
            status="FAIL" if broken else "PASS",
            latents=numbers_of(difference),
            bound=BoundRecord.model_validate(bound, from_attributes=True),
        )
        return Held(record, f"latents: {broken}" if broken else "")

    def _hold_pixels(self, shot: Shot) -> tuple[PixelsRecord | None, str]:
        got, eager = shot.pixels, self.eager.pixels
        if got.shape != eager.shape:
            return None, f"pixels: expected {eager.shape}, got {got.shape}"
        if not np.isfinite(got).all():
            return None, "pixels: not finite"
        counted = pictures.count(got, eager, self.pixels.max_abs)
        record = PixelsRecord(**asdict(counted), refused=counted.refused, bound=self.pixels.max_abs)
        # pixels are held to their largest error alone
        if too_wide := replace(self.pixels, rms=math.inf).too_wide_for(self.contrast):
            return record, f"pixels: {too_wide}"
        if counted.refused:
            return record, (
                f"pixels: {counted.refused:,} of {counted.values:,} are not eager's, by up to "
                f"{counted.largest} of {pictures.LEVELS} levels"
            )
        return record, ""


def standard_of(
    eager: Shot, seen: Seen, truth: Truth, widest: int, override: Bound | None
) -> Standard:
    """Return what a call is held to.

    Parameters
    ----------
    eager : Shot
        The pipeline's own result.
    seen : Seen
        What passed through the component.
    truth : Truth
        With the component in float64.
    widest : int
        The longest axis of its weights.
    override : Bound or None
        The user's own, of the latents.
    """
    contrast = pictures.contrast(truth.outputs[PIXELS])

    def yardstick(name: str, dtype: str, output: Size) -> Yardstick:
        error = eager.exact[name] - truth.outputs[name]
        return Yardstick(
            dtype=dtype,
            working_roundoff=seen.roundoff,
            terms=max(widest, seen.longest),
            output=output,
            sensitivity=truth.sensitivity[name],
            data_rms=truth.data_rms,
            unsummed=truth.unsummed.get(name, Size(0.0, 0.0)),
            conversions=truth.conversions.get(name, Size(0.0, 0.0)),
            eager=Size(float(np.sqrt(np.mean(error**2))), float(np.abs(error).max())),
        )

    latents = yardstick(LATENTS, str(eager.latents.dtype), truth.sizes[LATENTS])
    pixels = yardstick(PIXELS, str(eager.pixels.dtype), contrast)
    return Standard(
        eager=eager,
        truth=truth,
        latents=override or tolerance.bound(latents),
        eager_latents=override or tolerance.eager_bound(latents),
        pixels=tolerance.bound(pixels),
        contrast=contrast,
        pixels_decide=seen.roundoff <= SINGLE.unit_roundoff,
    )
