"""One mutant on trial: exported, broken, and judged by ``ropeexport check`` itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import onnx

from mutants import models
from mutants.catalogue import Equivalent, Mutant
from mutants.decoders import DECODERS, decoder
from mutants.edits import Edit
from mutants.norms import NORMED
from ropeexport import export
from ropeexport.artifact import Artifact
from ropeexport.parity.check import Options, check
from ropeexport.parity.records import Comparison, Report
from ropeexport.parity.report import number

RUNTIMES = ("onnxruntime", "EMULATED")  # the first, or what emulates it
FACTORIES = Path(models.__file__)


@dataclass(frozen=True)
class Outcome:
    """What ``check`` said of a mutant in one type.

    Parameters
    ----------
    subject : Mutant or Equivalent
        What was tried.
    dtype : str
        Of the model.
    as_expected : bool
        A mutant failed wherever it must be seen; an equivalent failed nowhere it must not be.
    where : str
        The output, case and reason of the first failure, or what is amiss.
    """

    subject: Mutant | Equivalent
    dtype: str
    as_expected: bool
    where: str


class Court:
    """Exports each kind of model once, and tries what is broken in copies of it."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._stack = ExitStack()
        self._folders: dict[tuple[str, str], Path] = {}

    def __enter__(self) -> Self:
        self.place = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def control(self, kind: str, dtype: str) -> str:
        """Return what fails in a model that nobody broke; empty where nothing does."""
        if kind == "million":  # its cases are few and take minutes each
            return ""
        count = None if kind in DECODERS else 40
        report = self.check(kind, dtype, lambda _: None, Options(seed=self._seed, count=count))
        return "; ".join(sorted({c.reason for c in report.comparisons if c.status == "FAIL"}))

    def trials(self, subject: Mutant | Equivalent) -> Iterator[Outcome]:
        """Try a mutant or an equivalent in each of its types."""
        options = Options(seed=self._seed, lengths=subject.lengths, count=subject.count)
        for dtype in subject.dtypes:
            report = self.check(subject.kind, dtype, subject.edit, options)
            judged = [c for c in report.comparisons if c.runtime in RUNTIMES]
            yield caught(subject, dtype, judged)

    def check(self, kind: str, dtype: str, edit: Edit, options: Options) -> Report:
        """Check a copy of an export, in ``place / "broken"``, with an edit made to its model."""
        is_decoder = kind in DECODERS
        module = decoder(kind) if is_decoder else f"{FACTORIES}:{kind}_{dtype}"
        if (kind, dtype) not in self._folders:
            folder = self._folders[kind, dtype] = self.place / f"{kind}_{dtype}"
            cache = DECODERS[kind][1] if is_decoder else None
            export(module, out=folder, cache=cache, fuse="norm-rope" if kind in NORMED else "rope")
        copy = self.place / "broken"
        shutil.copytree(self._folders[kind, dtype], copy, dirs_exist_ok=True)
        model = onnx.load(copy / "model.onnx")
        edit(model)
        onnx.save(model, copy / "model.onnx")
        return check(
            Artifact.read(copy),
            module,
            replace(options, runtimes=options.runtimes or RUNTIMES[:1]),
        )


def caught(subject: Mutant | Equivalent, dtype: str, judged: list[Comparison]) -> Outcome:
    """Say what became of a mutant, or of what is no fault, by its comparisons."""
    failed = [c for c in judged if c.status == "FAIL"]
    broken = next((c for c in failed if c.case is None or c.numbers is c.bound is None), None)
    if broken is not None:  # a file that no runtime loads is no seeded fault
        return Outcome(subject, dtype, False, f"does not run: {broken.reason}")
    seen = {c.output: c for c in reversed(failed)}
    if isinstance(subject, Equivalent):
        wrong = [name for name in subject.unseen_at if name in seen]
        where = _where(seen[wrong[0]]) if wrong else "not seen, as proven"
        ran = any(c.case is not None for c in judged)
        return Outcome(subject, dtype, ran and not wrong, where if ran else "nothing ran")
    missed = [name for name in subject.seen_at if name not in seen]
    where = f"NOT SEEN at {', '.join(missed)}" if missed else _where(seen[subject.seen_at[0]])
    return Outcome(subject, dtype, not missed, where)


def _where(comparison: Comparison) -> str:
    numbers, case = comparison.numbers, comparison.case
    size = f" (largest {number(numbers.max_abs)})" if numbers else ""
    return f"{comparison.output}, {case.name if case else '-'}: {comparison.reason}{size}"
