"""A contender's outputs, held to the parity bound before anything is timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ropeexport.manifest import Manifest
from ropeexport.models import sources
from ropeexport.parity.cases import Case
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.space import Sizes, space_of
from ropeexport.runners.eager import EagerRunner
from ropeexport.runners.saved import SavedRunner


class Checker:
    """Judges saved outputs as ``ropeexport check`` judges a runtime's.

    Parameters
    ----------
    folder : Path
        The output folder.
    record : Manifest
        Its manifest.
    module : str or None
        The factory to import where the model is the user's own code.
    seed : int
        Of the inputs.
    """

    def __init__(self, folder: Path, record: Manifest, module: str | None, seed: int) -> None:
        names = [spec.name for spec in record.model.outputs]
        rebuilt = sources.rebuild(record, folder, module)
        self._record = record
        self._seed = seed
        self._judge = Judge(record, Oracle(rebuilt, names), EagerRunner(rebuilt, names, "cpu"))

    def wrong(self, name: str, outputs: dict[str, NDArray[np.generic]], sizes: Sizes) -> str | None:
        """Return what is wrong with outputs at some sizes; None where they hold."""
        case = Case("bench", space_of(self._record).kinds[0], sizes, self._seed)
        candidate = Contender(name, _Named(outputs, name))
        for comparison in self._judge.judge(case, [candidate]):
            if comparison.runtime == name and comparison.status != "PASS":
                return f"{comparison.output}: {comparison.reason}"
        return None


class _Named(SavedRunner):
    """Saved outputs under a contender's name."""

    def __init__(self, outputs: dict[str, NDArray[np.generic]], name: str) -> None:
        super().__init__(outputs)
        self.name = name
