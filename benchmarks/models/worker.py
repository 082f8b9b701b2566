"""Classes in a process of their own: their keys, or what becomes of one.  Prints JSON.

``keys``, then names: the key of each, or why it has none.  A name, and what becomes an op in its
float16 file, ``rope`` or ``norm-rope``: its record, without ``measured``.
"""

from __future__ import annotations

import copy
import json
import re
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any

import torch

import ropeexport
from benchmarks.models.configs import example_of, values_of
from benchmarks.models.discovery import ROTATES, Class, discovered
from benchmarks.models.records import NOT_RUN, Key, Parity, Record, key_of
from ropeexport.api.making import Export
from ropeexport.errors import first_line
from ropeexport.models.example import Example
from ropeexport.models.hub.samples import of_diffusers, of_transformers

_RUNTIME = "onnxruntime"
_MOST_MEMORY = 20 << 30  # addresses, of which libraries take several gigabytes and touch few
_CASES = 10  # those that tell most for their cost
_LONGEST = 200  # characters of a fault
_OF_THIS_RUN = re.compile(  # folders, addresses, logs, sets
    r"/\S*/(?=[\w.-]+)|(?<= object) at 0x\w+|; all that torch says is in \S+"
    r"|\s*\(Size-like symbols: [^)]*\)"
)


def main(arguments: list[str]) -> None:
    """Print what was asked for."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    known = {each.model: each for each in discovered()}
    if arguments[0] == "keys":
        print(json.dumps({name: _key(known[name]) for name in arguments[1:]}))
    else:
        name, fuse = arguments
        print(record_of(known[name], fuse).model_dump_json())


def _key(model: Class) -> dict[str, Any]:
    """Return the key of a class; that of one without a small config has no config."""
    try:
        return key_of(model, values_of(model)).model_dump()
    except Exception:  # whatever a library says of its default config
        return _without_config(model).model_dump()


def _without_config(model: Class) -> Key:
    return key_of(model, {}).model_copy(update={"config": ""})


def record_of(model: Class, fuse: Any = "norm-rope") -> Record:
    """Try a class: eager, exported in two types, checked, built."""
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {"library": model.library, "name": model.name, "seconds": seconds}
    found["key"] = _without_config(model)
    try:
        with _timed(seconds, "eager"):
            values = values_of(model)
            found["key"] = key_of(model, values)
            found["rotates"] = _rotates(example_of(model, copy.deepcopy(values), "fp32"))
    except Exception as error:
        return Record(**found, eager=_fault(error))
    if not found["rotates"]:
        return Record(**found)
    found["constant"] = _fixed(model, values)
    for dtype, fused in (("fp32", "rope"), ("fp16", fuse)):
        # one for eager alone: some keep what a call made
        own, example = (example_of(model, copy.deepcopy(values), dtype) for _ in range(2))
        with TemporaryDirectory() as folder:
            options = {"out": folder, "fuse": fused}
            found |= _exported(own, example, dtype, options, seconds)
    return Record(**found)


def _fixed(model: Class, values: dict[str, Any]) -> tuple[str, ...]:
    """Return the axes of a class's sample inputs that its file keeps as they are."""
    module: Any = example_of(model, copy.deepcopy(values), "fp32").module
    is_diffusers = model.library == "diffusers"
    samples = of_diffusers(module) if is_diffusers else of_transformers(module, module.config)
    return samples.fixed if samples else ()


def _rotates(example: Example) -> bool:
    """Run an example; say whether a function that is named after a rotation was called."""
    called: set[CodeType] = set()

    def hear(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.add(frame.f_code)

    former = sys.getprofile()
    sys.setprofile(hear)
    try:
        _run(example)
    finally:
        sys.setprofile(former)
    return any(ROTATES.search(code.co_qualname) for code in called)


def _run(example: Example) -> None:
    with torch.no_grad():
        example.module(**example.inputs, **example.constants)


def _exported(
    own: Example, example: Example, dtype: str, options: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """Return what an export in a type adds to a record."""
    try:
        _run(own)
    except Exception as error:
        return {dtype: Parity(fault=f"{NOT_RUN}{_fault(error)}")}
    try:
        with _timed(seconds, f"export {dtype}"):
            made = ropeexport.export(example, **options)
    except Exception as error:
        return {dtype: Parity(fault=_fault(error))}
    found: dict[str, Any] = {"found": made.found, "replaced": made.replaced}
    found["refused"] = tuple(sorted({refusal.reason for refusal in made.refused}))
    found["dynamic"] = tuple(made.manifest.axes)
    with _timed(seconds, f"check {dtype}"):
        found[dtype] = _parity(made)
    norms = made.manifest.model.norms
    if norms is not None:
        found["norms"] = (norms.found, norms.replaced)
        found["unjoined"] = tuple(sorted({refusal.reason for refusal in norms.refused}))
    if dtype == "fp16":
        for kind in ("native", "plugin"):
            with _timed(seconds, kind):
                found[kind] = _tried(lambda kind=kind: _engine(made, kind))
    return found


def _parity(made: Export) -> Parity:
    try:
        report = made.check(runtimes=[_RUNTIME], require=[_RUNTIME], cases=_CASES)
    except Exception as error:
        return Parity(fault=_fault(error))
    shares = {name: round(report.shares[name], 3) for name in (_RUNTIME, "eager")}
    why = report.reason[:_LONGEST] if report.verdict == "FAIL" else ""
    return Parity(
        verdict=report.verdict,
        share=shares[_RUNTIME],
        eager=shares["eager"],
        cases=len(report.cases),
        fault=why,
    )


def _engine(made: Export, implementation: str) -> str:
    """Return the version that built an engine, and what computes its ropes."""
    record = made.build(impl=implementation, flavour="tensorrt-rtx", force=True)
    counted = Counter(record.ropes.values())
    return f"{record.version}: {', '.join(f'{n} {kind}' for kind, n in sorted(counted.items()))}"


def _tried(step: Callable[[], str]) -> str:
    try:
        return step()
    except Exception as error:
        return _fault(error)


def _fault(error: Exception) -> str:
    """Return an error as one line that is the same in every run."""
    text = _OF_THIS_RUN.sub("", first_line(error))
    return f"{type(error).__name__}: {text}"[:_LONGEST]


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[step] = round(time.perf_counter() - start, 1)


if __name__ == "__main__":
    main(sys.argv[1:])
