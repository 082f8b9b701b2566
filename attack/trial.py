"""One input tried: its files made, its command run, and the end judged."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import time
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attack import edits
from attack.recipe import Recipe
from attack.worker import Ended, Worker, give

MEGABYTES = 2048
# of a large file that is accepted: a node takes a millisecond, and so does a row of a report
_BYTES_A_SECOND = {".onnx": 30_000, ".json": 1_000_000}
# a loop, about what it takes on a quiet core, and how long its time is kept
_LOOP, _USUAL_SECONDS, _SECONDS_KNOWN = 1_000_000, 0.07, 10.0
LINES = 3  # of an error, at most
# the last net of the command line: an error that nobody foresaw
NET = "[RX003]"
UNFORESEEN = ("Traceback (most recent call last)", NET)
# what libraries leave in the folder for temporary files, a log that a message names, or a lock
OF_LIBRARIES = re.compile(r"torchinductor_|ropeexport-\w+\.log$|\.ses$|\.lock$")
HALF = re.compile(r"(^|/)\.[^/]*(\.tmp|export-)|\.tmp$")
# of a verb that failed: what it may leave all the same
RECORDS = {"check": ("parity.json",), "bench": ("bench.json", "bench.png")}
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)(?! +types)", re.MULTILINE)
_NET_LINE = re.compile(r"unexpected (\w+): .*\((.*)\); the full traceback")
_PLACE = re.compile(r'File "[^"]*/(ropeexport/[^"]+)", line \d+, in (\w+)')


@dataclass(frozen=True)
class Verdict:
    """What was found of an input; ``wrong`` has kinds of faults, with a text each."""

    recipe: Recipe
    ended: Ended
    parsed: bool  # it got past the first parser
    wrong: tuple[tuple[str, str], ...]


def tried(worker: Worker, bases: Path, recipe: Recipe, alone: bool = False) -> Verdict:
    """Run a recipe in an empty folder."""
    worker.clear()
    prepare(worker.work, bases, recipe)
    parsed = past_the_first_parser(worker.work, recipe)
    give(worker.work)
    before = listed(worker.place)
    least = recipe.deadline * load()
    ended = worker.run(recipe.argv, least + _for_size(worker.work, recipe) * load(), alone=alone)
    parsed = parsed and not ("Usage: ropeexport" in ended.errors and ended.code == 2)
    wrong = [*complaints(ended), *_leftovers(recipe, ended, before, listed(worker.place))]
    if ended.code != 0 and not ended.hung and ended.seconds > least:
        wrong.append(("slow", f"{recipe.verb}: refused after {ended.seconds:.1f} s"))
    return Verdict(recipe, ended, parsed, tuple(wrong))


def _for_size(work: Path, recipe: Recipe) -> float:
    """Return the seconds that a large file may take beyond the deadline, if it is accepted.

    A chain of 100,000 nodes, which is valid, has four megabytes, and a report of 240,000 rows 99.
    """
    paths = {work / edit.file for edit in recipe.edits}
    return sum(
        path.stat().st_size / _BYTES_A_SECOND[path.suffix]
        for path in paths
        if path.suffix in _BYTES_A_SECOND and path.is_file()
    )


def load() -> float:
    """Return how many times longer all takes here and now than on two quiet cores.

    Others work on this machine too, and a machine in a cloud may be several times slower at times.
    """
    return max(1.0, _loop_seconds(round(time.monotonic() / _SECONDS_KNOWN)) / _USUAL_SECONDS)


@cache
def _loop_seconds(_: int) -> float:
    """Return what a loop takes now; numbers name times, a while each."""
    started = time.perf_counter()
    total = 0
    for number in range(_LOOP):
        total += number
    return time.perf_counter() - started


def prepare(work: Path, bases: Path, recipe: Recipe) -> None:
    """Make the files of a recipe; ``base:name`` is a base by another name."""
    for base in recipe.bases:
        source, _, name = base.partition(":")
        shutil.copytree(bases / source, work / (name or source))
    for edit in recipe.edits:
        edits.apply(edit, work)
    if recipe.rehash:
        for manifest in work.glob("*/manifest.json"):
            _rehash(manifest)


def _rehash(path: Path) -> None:
    """Let a manifest have the hash of its model, so that the hash is not all that is wrong."""
    try:
        model = path.parent / "model.onnx"
        if not (edits.small(path) and edits.small(model)):
            return
        fields = json.loads(path.read_bytes())
        fields["model"]["sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
        engine = path.parent / "model.engine"
        if engine.is_file():
            fields["engine"]["model_sha256"] = fields["model"]["sha256"]
    except (ValueError, LookupError, TypeError, OSError, RecursionError):
        return  # it has no such place
    path.write_text(json.dumps(fields))


def past_the_first_parser(work: Path, recipe: Recipe) -> bool:
    """Say whether every changed file is what its name says, to the parser that reads it first."""
    return all(_parses(work / edit.file) for edit in recipe.edits if recipe.part != "arguments")


def _parses(path: Path) -> bool:
    try:
        if not edits.small(path):
            return not path.exists() or path.is_dir()
        return _parses_bytes(path)
    except (ValueError, OSError, RecursionError, zipfile.BadZipFile, struct.error):
        return False


def _parses_bytes(path: Path) -> bool:
    data = path.read_bytes()
    if path.suffix in (".json", ".sig"):
        json.loads(data)
    elif path.suffix == ".onnx":
        return _parses_onnx(data)
    elif path.suffix == ".npz":
        zipfile.ZipFile(path).close()
    elif path.suffix == ".npy":
        return data.startswith(b"\x93NUMPY")
    elif path.suffix == ".safetensors":
        json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return True


def _parses_onnx(data: bytes) -> bool:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return len(onnx.load_model_from_string(data).graph.node) > 0
    except DecodeError:
        return False


def listed(place: Path) -> dict[str, int]:
    """Return the files of a worker's folders, and when each was changed."""
    found = {}
    for root in ("work", "tmp"):
        for path in (place / root).rglob("*"):
            found[str(path.relative_to(place))] = path.lstat().st_mtime_ns
    return found


def complaints(ended: Ended) -> list[tuple[str, str]]:
    """Return what is wrong with the end of a command: kinds of faults, with a text each."""
    wrong = []
    if ended.hung:
        return [("hang", f"still running after {ended.seconds:.0f} s")]
    if ended.code < 0 or ended.code > 128:
        wrong.append(("crash", f"ended by signal {abs(ended.code)}"))
    elif ended.code not in (0, 1, 2, 3):
        wrong.append(("traceback", f"exit code {ended.code}"))
    if any(word in ended.errors + ended.output for word in UNFORESEEN):
        wrong.append(("traceback", _signature(ended.errors)))
    elif ended.code in (1, 2, 3) and _error_lines(ended.errors) > LINES:
        wrong.append(("traceback", "an error of many lines: " + _error(ended.errors)[:80]))
    if ended.megabytes > MEGABYTES:
        wrong.append(("memory", f"{ended.megabytes} MB"))
    if "\x1b" in ended.output + ended.errors:
        wrong.append(("escape", "an escape sequence of a file's reached the terminal"))
    if ended.left:
        wrong.append(("leftover", "a process that outlived its command"))
    return wrong


def _signature(errors: str) -> str:
    """Return the exception and the deepest place of ours."""
    if net := _NET_LINE.search(errors):
        return f"{net[1]} at {net[2]}"
    places = _PLACE.findall(errors)
    named = _EXCEPTION.findall(errors)
    where = ":".join(places[-1]) if places else "?"
    return f"{named[-1] if named else 'what'} at {where}"


def _error(errors: str) -> str:
    return errors[errors.find("error: ") :] if "error: " in errors else ""


def _error_lines(errors: str) -> int:
    return len(_error(errors).strip().splitlines()) if "Usage: " not in errors else 0


def _leftovers(
    recipe: Recipe, ended: Ended, before: dict[str, int], after: dict[str, int]
) -> list[tuple[str, str]]:
    new = sorted(set(after) - set(before))
    wrong = []
    for path in new:
        if OF_LIBRARIES.search(path):
            continue
        half = path.startswith("tmp/") or HALF.search(path)
        records = RECORDS.get(recipe.argv[0], ())
        if half or (ended.code != 0 and not path.endswith(records) and not _asked(recipe, path)):
            name = re.sub(r"[0-9a-z_]{8}(?=$|[./])", "*", path)
            wrong.append(("leftover", f"{recipe.verb} left {name}"))
    return wrong[:1]


def _asked(recipe: Recipe, path: str) -> bool:
    """Say whether it is a report that was asked for, of a check that failed or beside one."""
    return recipe.argv[0] in ("check", "bench", "report") and Path(path).name in recipe.argv
