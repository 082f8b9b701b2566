"""The oracle of a pipeline: one component in float64, everything else as it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ropeexport.dtypes import float_type
from ropeexport.parity.oracle import WideCopy, Widened, noise_of
from ropeexport.parity.pipeline_runs import Forward, Seen, Studio, is_unsummed, speaking, tensors_in
from ropeexport.parity.references import TABLE_DRAWS, Truth, moves_of, size_of
from ropeexport.parity.tolerance import MOST_SAMPLES, Size

_SINGLE = frozenset({torch.float32})


class PipelineOracle:
    """A pipeline whose component computes in float64, each result rounded to the pipeline's type.

    Parameters
    ----------
    studio : Studio
        The pipeline; its component is copied.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._copy = WideCopy(studio.eager)
        self.widest = self._copy.widest

    def truth(self, call: Mapping[str, Any], seen: Seen, seed: int) -> Truth:
        """Return what a call gives, and how it moves where every input is rounded anew.

        At each call of the component, so that what one leaves is what the next one is given.
        """
        exact = Widened()

        def run(within: AbstractContextManager[object], noise: _Noise | None = None) -> Any:
            with speaking(self._studio.eager, self._forward(seen, within, noise)):
                return self._studio.shoot(call).exact

        def moves(*, unsummed: bool) -> dict[str, Size]:
            return moves_of(outputs, lambda n: run(exact, _Noise(seed + n, unsummed)), MOST_SAMPLES)

        outputs = run(exact)
        conversions = {}
        if torch.float32 in exact.asked or self._copy.tables:

            def coarse(number: int) -> Any:
                with self._copy.coarse_tables(seed + number):
                    return run(Widened(kept=_SINGLE))

            conversions = moves_of(outputs, coarse, TABLE_DRAWS)
        return Truth(
            outputs=outputs,
            sizes={name: size_of(x) for name, x in outputs.items()},
            sensitivity=moves(unsummed=False),
            data_rms=seen.data_rms,
            conversions=conversions,
            unsummed=moves(unsummed=True) if seen.has_unsummed else {},
        )

    def _forward(
        self, seen: Seen, within: AbstractContextManager[object], noise: _Noise | None
    ) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = pytree.tree_map_only(Tensor, lambda x: _wide(x, noise), (args, kwargs))
            device = next((x.device for x in tensors_in((args, kwargs))), "cpu")
            with torch.no_grad(), within:
                result = self._copy.module.forward(*given[0], **given[1])
            dtypes = iter(seen.results)
            return pytree.tree_map_only(Tensor, lambda x: x.to(device, next(dtypes)), result)

        return forward


class _Noise:
    """Rounds the inputs anew that sums go over, or those that none does."""

    def __init__(self, seed: int, unsummed: bool) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.unsummed = unsummed


def _wide(x: Tensor, noise: _Noise | None) -> Tensor:
    """Return a tensor in float64, perturbed; whole numbers are exact in every type."""
    host = x.detach().cpu()
    if not host.is_floating_point():
        return host
    wide = host.double()
    if noise is None or is_unsummed(x) is not noise.unsummed or bool((wide == wide.round()).all()):
        return wide
    roundoff = float_type(str(x.dtype).removeprefix("torch.")).unit_roundoff
    return wide * noise_of(wide, roundoff, noise.generator)
