"""Contenders of one run: what each needs is made, it is started, and checked before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ropeexport.artifact import Artifact
from ropeexport.bench.checking import Checker
from ropeexport.bench.contenders import BY_NAME
from ropeexport.bench.contenders.contender import Recipe, Setting
from ropeexport.bench.contenders.with_runtime import kept_beside
from ropeexport.bench.messages import Made, MakeFile, SetUp
from ropeexport.bench.processes import ContenderError, Process, make
from ropeexport.bench.records import OURS, ContenderRecord
from ropeexport.errors import MissingError
from ropeexport.onnx_files.variants import lengths_of_change
from ropeexport.parity.space import Sizes, space_of
from ropeexport.runners.arrays import Arrays
from ropeexport.trt.runtime_cache import has_any

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
        self._made: dict[str, Made] = {}
        self._checked_to = 0

    def open(self, contender: Recipe, stack: ExitStack, say: Say) -> Entrant:
        """Start a contender and check it; one that cannot run keeps the reason."""
        entrant = Entrant(
            ContenderRecord(name=contender.name, label=contender.label, status="TIMED")
        )
        try:
            self._enter(contender, entrant, stack)
        except MissingError as error:
            entrant.out("SKIPPED", str(error))
        except ContenderError as error:
            entrant.fail(error)
        record = entrant.record
        say(record.label, record.reason or f"{record.status}", entrant.process is not None)
        return entrant

    def check_again(self, entrants: list[Entrant], sizes: Sizes, say: Say) -> None:
        """Check all once more before the first size at which our file takes another kernel."""
        running = [entrant for entrant in entrants if entrant.process is not None]
        if not any(entrant.record.name == OURS for entrant in running):
            return
        lengths = space_of(self.artifact.manifest).lengths
        longest = sum(sizes[name] for name in lengths)
        reached = [n for n in self._changes if self._checked_to < n <= longest]
        if not reached:
            return
        self._checked_to = reached[-1]
        # as short as that kernel allows: the oracle's work grows with the square
        checked = {**sizes, **dict.fromkeys(lengths, -(-reached[-1] // len(lengths)))}
        for entrant in running:
            if entrant.process is not None and not BY_NAME[entrant.record.name].floor:
                self._check_again(entrant, entrant.process, checked, say)

    @cached_property
    def _changes(self) -> list[int]:
        return lengths_of_change(self.artifact.file.graph)

    def _check_again(self, entrant: Entrant, process: Process, sizes: Sizes, say: Say) -> None:
        try:
            outputs = process.run_at(sizes, self._dtypes)
        except ContenderError as error:
            entrant.fail(error)
        else:
            self._hold(entrant, outputs, sizes)
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
        if self._kept_what_it_compiled(contender):
            process.close()
            entrant.process = process = stack.enter_context(Process(order))
            update["load_again_seconds"] = process.ready()
        entrant.record = entrant.record.changed(**update)
        if not contender.floor:
            self._hold(entrant, process.outputs(self._dtypes), self.check_sizes)

    def _kept_what_it_compiled(self, contender: Recipe) -> bool:
        files = [self.setting.prepared / file for file in contender.files[-1:]]
        return any(has_any(kept_beside(file)) for file in files)

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

    def _make(self, kind: str) -> Made:
        if kind not in self._made:
            self._made[kind] = make(MakeFile(kind=kind, setting=self.setting, sizes=self.sizes))
        return self._made[kind]


def megabytes(path: Path, *others: Path) -> float:
    """Return the size of a file with the external data that is named after it, and of others."""
    named = {p for p in path.parent.iterdir() if p.name.startswith(f"{path.name}.")}
    return sum(p.stat().st_size for p in {path, *others} | named) / 1e6
