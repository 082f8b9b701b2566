"""One file a class: what it is a record of, and what became of the class.

A record is stale where the class's file, its small config, or a library's version is another now.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmarks.models.discovery import Class
from ropeexport import atomic
from ropeexport.machine import versions_of

FOLDER = Path(__file__).parents[1] / "results" / "models"
OTHER_RELEASES = FOLDER.with_name("models-of-other-releases")
PACKAGES = ("torch", "onnxscript", "onnxruntime", "tensorrt-rtx")  # beside the class's own library
_FEW = 2
NOT_RUN = "eager: "  # then its error, of a type that it does not run a class in
# what two runs of the same class may differ in
_OF_A_RUN = {"key", "seconds", "measured"}
_NO_LIBRARY = "no plugin library"


class _Base(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Key(_Base):
    """What a record is of: hashes of the class's file and of its config, and versions."""

    source: str
    config: str
    packages: dict[str, str]


class Parity(_Base):
    """What ``ropeexport check`` found; or ``fault``, one line, where there is nothing to check."""

    verdict: str = ""
    share: float | None = None  # of the bound, the largest of all cases
    eager: float | None = None
    cases: int = 0
    fault: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the runtime was within its bound in every case."""
        return (self.verdict == "PASS" and not self.fault) or self._beyond == {"eager"}

    @property
    def is_unstable(self) -> bool:
        """Whether eager torch, in this type, was beyond the bound too, or runs nothing."""
        is_not_run = not self.verdict and self.fault.startswith(NOT_RUN)
        return is_not_run or self._beyond > {"eager"}

    @property
    def is_by_chance(self) -> bool:
        """Whether a case or two, or eager's, are beyond the bound: another processor has others."""
        count = re.search(r": (\d+) of", self.fault) if self._beyond else None
        return "eager" in self._beyond or (count is not None and int(count[1]) <= _FEW)

    @property
    def _beyond(self) -> set[str]:
        return set(self.fault.partition(":")[0].split(", ")) if self.verdict == "FAIL" else set()


class Record(_Base):
    """What became of a class.

    Parameters
    ----------
    library, name : str
        Of the class.
    key : Key
    eager : str
        Why torch itself does not run it, in its words; empty where it does.
    rotates : bool
        Whether torch ran any code that is named after a rotation: a config may have none.
    found, replaced : int
        Rotary applications.
    refused : tuple of str
        Reasons, those that are alike once.
    norms : (int, int), optional
        In the float16 file, rotary ops behind a norm, and those of them that are one op with it;
        None: nobody has looked.
    unjoined : tuple of str
        Why the others are not, those that are alike once.
    dynamic, constant : tuple of str
        Axes of the inputs that the file leaves open, and those whose size it keeps though a user
        may wish to change them.
    fp32, fp16 : Parity
        Of onnxruntime, on sizes other than those of the trace.
    native, plugin : str
        What TensorRT-RTX built of the fp16 file, with ONNX's own operators and with the plugin:
        its version, or the fault.
    seconds : dict
        Of each step.
    measured : dict
        The commit and the day.
    """

    library: str
    name: str
    key: Key
    eager: str = ""
    rotates: bool = True
    found: int = 0
    replaced: int = 0
    refused: tuple[str, ...] = ()
    norms: tuple[int, int] | None = None
    unjoined: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    fp32: Parity = Parity()
    fp16: Parity = Parity()
    native: str = ""
    plugin: str = ""
    seconds: dict[str, float] = {}
    measured: dict[str, Any] = {}

    @property
    def model(self) -> str:
        """What the command line calls the class."""
        return f"{self.library}:{self.name}"

    @property
    def is_good(self) -> bool:
        """Whether it is exported, equal to eager, every application replaced, its axes dynamic."""
        return self.is_good_in_float32 and self.fp16.is_good

    @property
    def is_good_in_float32(self) -> bool:
        """Whether it is so in float32 at least."""
        return 0 < self.found == self.replaced and bool(self.dynamic) and self.fp32.is_good

    def fault(self) -> str:
        """Return the first thing that is not as it should be, empty where there is none."""
        if self.eager or not self.rotates:
            return ""
        for kind, parity in (("fp32", self.fp32), ("fp16", self.fp16)):
            if not parity.is_good:
                return f"{kind}: {parity.fault or parity.verdict}"
        if not self.found:
            return "no rotary application was found"
        if self.found != self.replaced:
            return f"{self.replaced} of {self.found} replaced: {'; '.join(self.refused)}"
        return "" if self.dynamic else "no axis is dynamic"

    def difference(self, other: Record) -> dict[str, tuple[Any, Any]]:
        """Return what another record of the same class says otherwise, times left out.

        Which experts are chosen in float16, and so what eager misses there, is the processor's too.
        """
        left_out = _OF_A_RUN
        if any(_NO_LIBRARY in x.plugin for x in (self, other)):  # it is compiled on some machines
            left_out = left_out | {"plugin"}
        if None in (self.norms, other.norms):  # the engines were of ropes alone then
            left_out = left_out | {"norms", "unjoined", "native", "plugin"}
        if any(x.fp16.is_by_chance for x in (self, other)):
            left_out = left_out | {"fp16"}
        ours, theirs = (x.model_dump(exclude=left_out) for x in (self, other))
        for made in (ours, theirs):
            for kind in {"fp32", "fp16"} - left_out:
                made[kind] = {key: made[kind][key] for key in ("verdict", "fault")}
        return {key: (x, theirs[key]) for key, x in ours.items() if x != theirs[key]}


def key_of(model: Class, values: Mapping[str, Any]) -> Key:
    """Return what a record of a class with a config is of."""
    text = json.dumps(values, sort_keys=True, default=str)
    return Key(
        source=_hash(model.path.read_bytes()),
        config=_hash(text.encode()),
        packages=versions_of((model.library, *PACKAGES)),
    )


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def path_of(model: Class | Record, folder: Path = FOLDER) -> Path:
    """Return the file of a class's record."""
    return folder / f"{model.library}.{model.name}.json"


def read(folder: Path = FOLDER) -> dict[str, Record]:
    """Return the records of a folder by the class's name on the command line."""
    made = map(_read, sorted(folder.glob("*.json")))
    return {record.model: record for record in made}


def _read(path: Path) -> Record:
    return Record.model_validate_json(path.read_bytes())


def write(record: Record, folder: Path = FOLDER) -> None:
    """Write a record in the place of a former one."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path_of(record, folder), record.model_dump_json(indent=1) + "\n")


def outdated(
    models: Iterable[Class], keys: Mapping[str, Key], records: Mapping[str, Record]
) -> Iterator[Class]:
    """Yield the classes that have no record, or one of something else."""
    for model in models:
        record = records.get(model.model)
        if record is None or keys.get(model.model, record.key) != record.key:
            yield model
