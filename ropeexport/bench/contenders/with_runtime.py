"""Contenders that run in a runtime of the registry: our file, or a prepared file or engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.artifact import Artifact
from ropeexport.bench.contenders.contender import OPTIMUM, Setting
from ropeexport.bench.refusal import refusable
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.runners.arrays import Arrays
from ropeexport.runners.registry import Choice, Device, Opening
from ropeexport.runners.runner import Runner

Given = Callable[[Arrays], Arrays]


def needs(chosen: Choice, device: Device) -> None:
    """Raise where a runtime is missing, or cannot run on a device."""
    chosen.runtime.require(device, chosen.provider)


def kept_beside(engine: Path) -> Path:
    """Return where what was compiled for an engine is kept: of this run, so the first load is one.

    In the user's cache folder it would come from a former run of the same engine, and fill it.
    """
    return engine.with_name("runtime")


def run_file(
    chosen: Choice, file: str | None, setting: Setting, *, as_written: bool = True
) -> Runner:
    """Run ropeexport's file, or a prepared file or engine, whose manifest lies beside it."""
    path = setting.prepared / file if file else setting.artifact.model_path
    is_engine = chosen.runtime.runs == "engine"
    opening = Opening(
        model=Artifact.read(path.parent) if is_engine else OnnxFile(path),
        provider=chosen.provider,
        device=setting.device,
        threads=setting.threads,
        timed=True,
        as_written=as_written,
        kept_in=kept_beside(path) if is_engine else None,
    )
    runner = chosen.runtime.open(opening)
    tried = _tried_by(runner) if is_engine else _as_it_is
    tried(runner.__enter__)()
    return _Contending(runner, setting.outputs, _optimums if file == OPTIMUM else _as_it_is, tried)


def _optimums(inputs: Arrays) -> Arrays:
    """Return the inputs that optimum-onnx's file wants in place of a model's own.

    Of a language model that is a mask too, which keeps every token; of FLUX, positions as integers.
    """
    found = {n: x.astype(np.int64) if n.endswith("_ids") else x for n, x in inputs.items()}
    tokens = found.get("input_ids")
    mask = {} if tokens is None else {"attention_mask": np.ones_like(tokens)}
    return {**mask, **found}


def _as_it_is(given: Any) -> Any:
    return given


def _tried_by(runner: Runner) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what takes an engine's failure for a refusal where its GPU is one that nobody names.

    A GPU that the flavour's documents do not name is tried; what it says there is a refusal.
    """
    return partial(refusable, runner.facts.version.partition(" ")[0])


class _Contending(Runner):
    """A runner under the names that the model's outputs have, whatever the file calls them."""

    def __init__(
        self,
        runner: Runner,
        outputs: list[str],
        given: Given,
        tried: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        self._runner, self._outputs, self._given = runner, outputs, given
        self._load, self._call = tried(runner.load), tried(runner.call)
        self._read = tried(runner.read)
        self.facts = runner.facts

    def load(self, inputs: Arrays) -> Any:
        return self._load(self._given(inputs))

    def call(self, loaded: Any) -> Any:
        return self._call(loaded)

    def read(self, results: Any) -> dict[str, NDArray[np.generic]]:
        return dict(zip(self._outputs, self._read(results).values(), strict=False))

    def keep(self) -> None:
        self._runner.keep()
