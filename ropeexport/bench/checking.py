"""A contender's outputs, held to the parity bound before anything is timed."""

from __future__ import annotations

from torch import nn

from ropeexport.artifact import Artifact
from ropeexport.parity.cases import Case
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.repeat import NotRepeatableError
from ropeexport.parity.space import Sizes, space_of
from ropeexport.parity.truth import Truth
from ropeexport.runners.arrays import Arrays
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
        oracle, eager = _Remembering(module, names), EagerRunner(module, names, "cpu")
        self._judge = Judge(record, oracle, eager)

    def wrong(self, name: str, outputs: Arrays, sizes: Sizes) -> str | None:
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


class _Remembering(Oracle):
    """An oracle that computes the truth of the case that it was asked for last only once."""

    _last: tuple[dict[str, tuple[int, ...]], Truth] | None = None

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """As the oracle's; the inputs of one bench differ by their sizes alone."""
        shapes = {name: x.shape for name, x in inputs.items()}
        if self._last is None or self._last[0] != shapes:
            self._last = (shapes, super().truth(inputs, seed))
        return self._last[1]
