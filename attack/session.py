"""Attacks in turns: what is tried, by how many workers, until when; and the count of it all."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count, cycle, islice
from pathlib import Path
from threading import Lock

from attack import bases, inputs, kills, races, saving, strangers, trial
from attack.finding import Finding, Tally
from attack.recipe import Recipe, read
from attack.trial import Verdict
from attack.worker import ROOT, Worker

CORPUS = Path(__file__).parent / "corpus"
PLACE = ROOT / "build/attack"
BATCH = 200
# how many inputs of each part a turn has: those that take longest least
SHARES = {
    "graphs": 14, "manifests": 10, "reports": 4, "arrays": 4, "weights": 4, "arguments": 8,
    "files": 4, "configs": 1, "builds": 1, "signatures": 2,
}  # fmt: skip
SLOW_SECONDS, SLOW_TIMES, SMALL_TIMES = 2.0, 3.0, 2.0
SHOWN = 40  # findings that are made smaller and saved


@dataclass
class Row:
    """The count of one verb in one part."""

    tried: int = 0
    further: int = 0  # got past the first parser
    wrong: Counter[str] = field(default_factory=Counter)


@dataclass
class Session:
    """What was tried so far, and what was found; ``add`` may be called by several threads."""

    say: Callable[[str], None]
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    found: dict[tuple[str, str], Finding] = field(default_factory=dict)
    times: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: int = 0  # inputs that could not be made
    _lock: Lock = field(default_factory=Lock)

    def add(self, tally: Tally) -> None:
        """Count one input."""
        with self._lock:
            row = self.rows.setdefault((tally.part, tally.verb), Row())
            row.tried += 1
            row.further += tally.parsed
            for finding in tally.findings:
                row.wrong[finding.kind] += 1
                self._keep(finding)

    def _keep(self, finding: Finding) -> None:
        key = (finding.kind, finding.signature)
        self.times[key] += 1
        former = self.found.get(key)
        if former is None:
            self.say(f"{finding.kind}: {finding.text} | {finding.how}")
        if former is None or finding.simpler_than(former):
            self.found[key] = finding

    def not_made(self, recipe: Recipe, error: Exception) -> None:
        """Count an input that could not be made, which is a fault of these attacks."""
        with self._lock:
            self.broken += 1
            self.say(f"not tried: {type(error).__name__}: {error} | {recipe.text()}")

    @property
    def tried(self) -> int:
        """How many inputs of files and arguments were tried."""
        return sum(row.tried for (part, _), row in self.rows.items() if part in inputs.PARTS)

    def count(self, part: str) -> int:
        """How many of a part were tried."""
        return sum(row.tried for (of, _), row in self.rows.items() if of == part)

    @property
    def further(self) -> int:
        """How many of them got past the first parser."""
        return sum(row.further for (part, _), row in self.rows.items() if part in inputs.PARTS)


@dataclass(frozen=True)
class Budget:
    """How much is tried at most; kills and races end in the first half of the time."""

    minutes: float
    inputs: int
    kills: int
    races: int
    alone: int  # each so many-th input is a process of its own
    workers: int = 1
    after: int = 0  # so many inputs were tried before, and all that is no drawn input


def attack(session: Session, budget: Budget, seed: int, only: str = "") -> None:
    """Try the corpus, strangers, kills, races and broken inputs, as far as time allows.

    One worker does the first four and then inputs as the others do.
    """
    started = time.monotonic()
    until = started + budget.minutes * 60
    drawn = islice(planned(seed, only), budget.after, budget.inputs)
    lock, numbered = Lock(), enumerate(drawn, budget.after + 1)
    with ExitStack() as stack:
        places = [PLACE / f"worker-{number}" for number in range(budget.workers)]
        workers = [stack.enter_context(Worker(place)) for place in places]
        good = bases.made(workers[0], PLACE / "bases")

        def work(worker: Worker) -> None:
            if worker is workers[0] and not budget.after:
                _fixed(session, worker, good, budget, seed, only)
            while only in ("", *inputs.PARTS) and time.monotonic() < until:
                with lock:
                    index, recipe = next(numbered, (0, None))
                if recipe is None:
                    return
                try:
                    session.add(tally(worker, good, recipe, index % budget.alone == 0))
                except Exception as error:  # an edit that cannot be made must not end the others
                    session.not_made(recipe, error)

        with ThreadPoolExecutor(budget.workers) as pool:
            list(pool.map(work, workers))
        _save(session, workers[0], good)


def _fixed(
    session: Session, worker: Worker, good: Path, budget: Budget, seed: int, only: str
) -> None:
    """Try what is no drawn input; only what has a number in the budget ends early."""
    started, span = time.monotonic(), budget.minutes * 60
    parts: dict[str, tuple[Iterable[Tally], float]] = {
        "corpus": ((tally(worker, good, recipe) for recipe in corpus()), math.inf),
        "strangers": (strangers.cases(worker, good), math.inf),
        "kills": (kills.kills(worker, good, budget.kills, seed), started + 0.35 * span),
        "races": (races.races(PLACE / "races", good, budget.races, seed), started + 0.5 * span),
    }
    for name, (tallies, end) in parts.items():
        if only in ("", name):
            for each in tallies:
                session.add(each)
                if time.monotonic() > end:
                    break


def corpus() -> list[Recipe]:
    """Return what was found once."""
    paths = sorted(CORPUS.glob("*.json"))
    return [replace(read(path.read_text()), part="corpus") for path in paths]


def planned(seed: int, only: str = "") -> Iterator[Recipe]:
    """Return broken inputs without end, of all parts in turn or of one; the same for a seed."""
    streams = {part: _stream(part, seed) for part in inputs.PARTS if only in ("", part)}
    turn = [
        part
        for number in range(max(SHARES.values()))
        for part in streams
        if number * SHARES[part] % max(SHARES.values()) < SHARES[part]
    ]
    for part in cycle(turn) if turn else ():
        yield next(streams[part])


def _stream(part: str, seed: int) -> Iterator[Recipe]:
    for batch in count():
        yield from inputs.recipes(part, seed * 10_000 + batch, BATCH)


def tally(worker: Worker, good: Path, recipe: Recipe, alone: bool = False) -> Tally:
    """Try one input, and hold it to the time of what it was made from."""
    verdict = trial.tried(worker, good, recipe, alone)
    wrong = [*verdict.wrong, *_slow(worker, good, verdict)]
    how = f"ropeexport {' '.join(recipe.argv)}"[:300]
    found = tuple(Finding(kind, text, how, recipe.bases, recipe) for kind, text in wrong)
    return Tally(recipe.part, recipe.verb, verdict.parsed, found)


def _slow(worker: Worker, good: Path, verdict: Verdict) -> list[tuple[str, str]]:
    """Hold an accepted small input to the time of the same command over the good files."""
    recipe, ended = verdict.recipe, verdict.ended
    least = SLOW_SECONDS * trial.load()
    small = recipe.part != "arguments" and ended.code == 0 and ended.seconds > least
    if not small or not _of_like_size(worker.work, good, recipe):
        return []
    unbroken = replace(recipe, edits=())
    usual = max(trial.tried(worker, good, unbroken).ended.seconds for _ in range(2))
    again = trial.tried(worker, good, recipe).ended.seconds  # under the same load
    seconds = min(ended.seconds, again)
    if seconds <= max(least, SLOW_TIMES * usual):
        return []
    return [("slow", f"{recipe.verb}: {seconds:.1f} s in place of {usual:.1f} s")]


def _of_like_size(work: Path, good: Path, recipe: Recipe) -> bool:
    for edit in recipe.edits:
        names = dict(reversed(base.split(":")) for base in recipe.bases if ":" in base)
        base, _, file = edit.file.partition("/")
        before, after = good / names.get(base, base) / file, work / edit.file
        files = before.is_file() and after.is_file()
        if files and after.stat().st_size > SMALL_TIMES * before.stat().st_size:
            return False
    return True


def _save(session: Session, worker: Worker, good: Path) -> None:
    """Write a folder for each finding, with no more edits than it needs."""
    for former in PLACE.glob("FINDING-*"):
        shutil.rmtree(former)
    for number, (key, finding) in enumerate(islice(session.found.items(), SHOWN), start=1):
        place = PLACE / f"FINDING-{number}"
        if finding.recipe is None:
            place.mkdir()
            (place / "how.txt").write_text(f"{finding.kind}: {finding.text}\n{finding.how}\n")
            continue
        recipe = finding.recipe
        if finding.kind not in ("hang", "slow"):  # they would take long
            recipe = saving.smallest(worker, good, recipe, finding.kind, finding.text)
        session.found[key] = replace(finding, recipe=recipe)
        saving.save(place, good, recipe, f"{finding.kind}: {finding.text}")
