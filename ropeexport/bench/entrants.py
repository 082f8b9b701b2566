"""Contenders of one run: what each needs is made, it is started, and checked before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import nn

from ropeexport.artifact import Artifact
from ropeexport.bench.contenders import BY_NAME, Recipe, Setting, kept_beside
from ropeexport.bench.processes import ContenderError, Made, MakeFile, Process, SetUp, make
from ropeexport.bench.records import OURS, ContenderRecord
from ropeexport.errors import MissingError
from ropeexport.onnx_files.variants import lengths_of_change
from ropeexport.parity.cases import Case, Sizes, space_of
from ropeexport.parity.contenders import Contender, SavedRunner
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.references import NotRepeatableError, Truth
from ropeexport.runners.eager import EagerRunner
from ropeexport.runners.runner import Arrays
from ropeexport.trt.cache import has_any

Say = Callable[[str, str, bool], None]  # contender, what became of it, whether it runs


@dataclass
class Entrant:
    """A contender of the run, with its process as long as it runs."""

    record: ContenderRecord
    process: Process | None = None

    def fail(self, error: ContenderError) -> None:
        """Take it out, with the reason."""
        self.out("SKIPPED" if error.missing else "FAILED", str(error))

    def out(self, status: str, reason: str) -> None:
        """Take it out, and end its process: a stopped one would keep its memory."""
        self.record = self.record.changed(status=status, reason=reason)
        if self.process is not None:
            self.process.close()
        self.process = None


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


@dataclass
class Setup:
    """What all contenders of a run have in common.

    Parameters
    ----------
    artifact : Artifact
        The output folder, which is only read.
    setting : Setting
        What each is made of.
    seed : int
        Of the inputs.
    checker : Checker
        Holds outputs to the parity bound.
    check_sizes : dict of str to int
        Where outputs are checked.
    sizes : tuple of dict
        All sizes that will be run; engines are tuned for the last.
    """

    artifact: Artifact
    setting: Setting
    seed: int
    checker: Checker
    check_sizes: Sizes
    sizes: tuple[Sizes, ...]

    def __post_init__(self) -> None:
        self._checked_to = 0
        self._make = cache(self._made)

    def open(self, contender: Recipe, stack: ExitStack, say: Say) -> Entrant:
        """Start a contender and check it; one that cannot run keeps the reason."""
        record = ContenderRecord(name=contender.name, label=contender.label, status="TIMED")
        entrant = Entrant(record)
        try:
            self._enter(contender, entrant, stack)
        except MissingError as error:
            entrant.out("SKIPPED", str(error))
        except ContenderError as error:
            entrant.fail(error)
        record = entrant.record
        say(record.label, record.reason or record.status, entrant.process is not None)
        return entrant

    def check_again(self, entrants: list[Entrant], sizes: Sizes, say: Say) -> None:
        """Check all once more before the first size at which our file takes another kernel."""
        running = {e.record.name: (e, e.process) for e in entrants if e.process is not None}
        lengths = space_of(self.artifact.manifest).lengths
        longest = sum(sizes[name] for name in lengths)
        if OURS not in running:
            return
        changes = lengths_of_change(self.artifact.file.graph)
        reached = [n for n in changes if self._checked_to < n <= longest]
        if not reached:
            return
        self._checked_to = reached[-1]
        # as short as that kernel allows: the oracle's work grows with the square
        checked = {**sizes, **dict.fromkeys(lengths, -(-reached[-1] // len(lengths)))}
        for name, (entrant, process) in running.items():
            if BY_NAME[name].floor:
                continue
            try:
                self._hold(entrant, process.run_at(checked, self._dtypes), checked)
            except ContenderError as error:
                entrant.fail(error)
            if entrant.process is None:
                say(entrant.record.label, entrant.record.reason, False)

    def _hold(self, entrant: Entrant, outputs: Arrays, sizes: Sizes) -> None:
        wrong = self.checker.wrong(entrant.record.name, outputs, sizes)
        if wrong is not None:
            entrant.out("WRONG", wrong)

    @property
    def _dtypes(self) -> dict[str, str]:
        return {spec.name: spec.dtype for spec in self.artifact.manifest.model.outputs}

    def _enter(self, contender: Recipe, entrant: Entrant, stack: ExitStack) -> None:
        contender.needs(self.setting.device)
        update = self._prepared(contender)
        order = SetUp(
            contender=contender.name,
            setting=self.setting,
            seed=self.seed,
            sizes=self.check_sizes,
            outputs=self.setting.prepared / f"{contender.name}.npz",
        )
        entrant.process = process = stack.enter_context(Process(order))
        update["load_seconds"] = process.ready()
        own = [self.setting.prepared / file for file in contender.files[-1:]]
        if any(has_any(kept_beside(file)) for file in own):  # what it compiled
            process.close()
            entrant.process = process = stack.enter_context(Process(order))
            update["load_again_seconds"] = process.ready()
        entrant.record = entrant.record.changed(**update)
        if not contender.floor:
            self._hold(entrant, process.outputs(self._dtypes), self.check_sizes)

    def _prepared(self, contender: Recipe) -> dict[str, object]:
        """Make the files of a contender and return what its record says of them."""
        if contender.files:
            made = [self._make(file) for file in contender.files][-1]
            return {
                "prepare_seconds": made.seconds,
                "prepare_again_seconds": made.again_seconds,
                "version": made.version,
                "file_mb": megabytes(self.setting.prepared / contender.files[-1]),
            }
        if contender.name == OURS:
            ours = self.artifact
            weights = ours.manifest.model.weights  # safetensors files have names of their own
            files = [ours.folder / each.file for each in weights.files] if weights else []
            return {"file_mb": megabytes(ours.model_path, *files)}
        return {}

    def _made(self, kind: str) -> Made:
        return make(MakeFile(kind=kind, setting=self.setting, sizes=self.sizes))


def megabytes(path: Path, *others: Path) -> float:
    """Return the size of a file with the external data that is named after it, and of others."""
    named = {p for p in path.parent.iterdir() if p.name.startswith(f"{path.name}.")}
    return sum(p.stat().st_size for p in {path, *others} | named) / 1e6
