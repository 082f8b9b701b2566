"""A contender's outputs, held to the parity bound before anything is timed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ropeexport.artifact import Artifact
from ropeexport.parity.cases import Case
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.repeat import NotRepeatableError
from ropeexport.parity.space import Sizes, space_of
from ropeexport.parity.truth import Truth
from ropeexport.runners.arrays import Arrays, Float64s
from ropeexport.runners.eager import EagerRunner
from ropeexport.runners.saved import SavedRunner


class Checker:
    """Judges saved outputs as ``ropeexport check`` judges a runtime's.

    Parameters
    ----------
    artifact : Artifact
        The output folder.
    module : nn.Module
        What was exported, which takes the inputs of the file, in evaluation mode.
    seed : int
        Of the inputs.
    """

    def __init__(self, artifact: Artifact, module: nn.Module, seed: int) -> None:
        record = artifact.manifest
        names = [spec.name for spec in record.model.outputs]
        self._record = record
        self._seed = seed
        oracle, eager = _Remembering(Oracle(module, names)), EagerRunner(module, names, "cpu")
        self._judge = Judge(record, oracle, eager)

    def wrong(self, name: str, outputs: dict[str, NDArray[np.generic]], sizes: Sizes) -> str | None:
        """Return what is wrong with outputs at some sizes; None where they hold."""
        case = Case("bench", space_of(self._record).kinds[0], sizes, self._seed)
        candidate = Contender(name, SavedRunner(outputs))
        try:
            for comparison in self._judge.judge(case, [candidate]):
                if comparison.runtime == name and comparison.status != "PASS":
                    return f"{comparison.output}: {comparison.reason}"
        except NotRepeatableError as error:
            return error.explained()
        return None


class _Remembering:
    """An oracle that computes the truth of the case that it was asked for last only once."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.widest = oracle.widest
        self._last: tuple[Arrays, Truth] | None = None

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Float64s]]:
        """As the oracle's."""
        return self._oracle.in_a_row(calls)

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """As the oracle's."""
        return self._oracle.cause(before, inputs)

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """As the oracle's; the inputs of one bench differ by their sizes alone."""
        if self._last is None or _shapes(self._last[0]) != _shapes(inputs):
            self._last = (inputs, self._oracle.truth(inputs, seed))
        return self._last[1]


def _shapes(inputs: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: x.shape for name, x in inputs.items()}
